"""The model abstraction layer: what a backend has to offer, and the runtime that connects it to the mesh."""

from workers.base.interface.backend import (
    Availability,
    Backend,
    Completion,
    Delta,
    Done,
    Embedded,
    EmbeddingJob,
    Job,
    Report,
    Usage,
    out_of_service,
    truncated,
)
from workers.base.interface.config import BackendConfig, ModelConfig

__all__ = [
    "Availability",
    "Backend",
    "BackendConfig",
    "Completion",
    "Delta",
    "Done",
    "Embedded",
    "EmbeddingJob",
    "Job",
    "ModelConfig",
    "Report",
    "Usage",
    "out_of_service",
    "truncated",
]
