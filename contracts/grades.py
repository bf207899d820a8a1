"""How good an employee is held to be: promotion and demotion, with the reasons."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from contracts.base import OpenModel

Grade = Literal["probation", "regular", "senior", "benched"]
"""New; trusted; may answer `best`; only tried now and then."""


class GradeRecord(OpenModel):
    """`metrics.grade`, and a row of `grades`: one model at one worker was given a grade."""

    model_id: str
    worker_id: str
    grade: Grade
    previous: Grade | None = None
    reasons: tuple[str, ...] = ()
    by_hand: bool = False
    """Somebody decided it, and the books do not change it."""
    created_at: datetime


class WorkRecord(OpenModel):
    """What one model at one worker did lately, as the books have it: means of its last answers."""

    answers: int
    failures: int
    confidence: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    service_ms: float | None = None
    """Milliseconds from when it was begun."""
    first_ms: float | None = None
    """Of these, until the first token."""


class ModelGrades(OpenModel):
    """What Managers follow, by model, in the key-value bucket `bullpen_grades`."""

    model_id: str
    workers: dict[str, Grade]
    records: dict[str, WorkRecord] = Field(default_factory=dict)
    """By worker, about once a minute: with them a Manager that starts need not learn everything anew."""
    new: tuple[str, ...] = ()
    """Of those on probation, who never had another grade."""
    proven_since: datetime | None = None
    """When somebody, with whatever model, was first found to do well; None: nobody was yet."""
