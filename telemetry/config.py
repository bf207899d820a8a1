"""The settings of an accountant: `telemetry/config.yaml`."""

from typing import Annotated, Literal

from pydantic import Field

from config.loader import ConfigModel
from contracts import ContentMode

Seconds = Annotated[float, Field(gt=0)]


class TelemetryConfig(ConfigModel):
    mode: Literal["after_reply", "before_reply"] = "after_reply"
    content: ContentMode = "full"
    spool_max_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    batch_size: Annotated[int, Field(ge=1, le=5000)] = 500
    fetch_wait: Seconds = 0.5
    command_timeout: Seconds = 5.0
    retry_at_most: Seconds = 5.0
    stream_max_age: Seconds = 604_800
    stream_max_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    duplicate_window: Seconds = 600
    report_interval: Seconds = 2.0
    grades_interval: Seconds = 10.0
    retention: Annotated[int, Field(ge=1)] | None = 13
    decisions: bool = True
    decisions_retention: Annotated[int, Field(ge=1)] = 7
    content_retention: Annotated[int, Field(ge=1)] | None = 30
