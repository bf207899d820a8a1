"""Grades of a model at a worker: promotion and demotion, with the reasons."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from contracts.base import OpenModel

Grade = Literal["probation", "regular", "senior", "benched"]
"""`probation`: new. `regular`: trusted. `senior`: first choice for `best`. `benched`: only tried now and then."""


class GradeRecord(OpenModel):
    """`metrics.grade`, and a row of `grades`: one model at one worker has a new grade."""

    model_id: str
    worker_id: str
    grade: Grade
    previous: Grade | None = None
    reasons: tuple[str, ...] = ()
    by_hand: bool = False
    """An operator decided it, and telemetry does not change it."""
    created_at: datetime


class WorkRecord(OpenModel):
    """The recent record of one model at one worker, from the books: means of its last answers."""

    answers: int
    failures: int
    confidence: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    service_ms: float | None = None
    """Milliseconds from the start of the computation to its end."""
    first_ms: float | None = None
    """Milliseconds from the start of the computation to the first token."""


class ModelGrades(OpenModel):
    """A model's value in the key-value bucket `bullpen_grades`, which Managers follow."""

    model_id: str
    workers: dict[str, Grade]
    records: dict[str, WorkRecord] = Field(default_factory=dict)
    """Records by worker, written about once a minute: a Manager that starts begins with them."""
    new: tuple[str, ...] = ()
    """Workers on probation that never had another grade."""
    proven_since: datetime | None = None
    """When any worker, with any model, first got a grade above `probation`; null: never yet."""
