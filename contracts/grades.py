"""How good an employee is held to be: promotion and demotion, with the reasons."""

from datetime import datetime
from typing import Literal

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


class ModelGrades(OpenModel):
    """What Managers follow, by model, in the key-value bucket `bullpen_grades`."""

    model_id: str
    workers: dict[str, Grade]
