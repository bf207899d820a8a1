"""Who may be asked how often: the grades that telemetry computes, as this Manager knows them. Pure.

Without any grades every worker is regular. New ones get a tenth of what they would win. A worker that was here before
any was proven is not new: in a young mesh the first to be asked must not keep the others from being asked at all.
Benched ones are tried now and then, so that their recovery is noticed.
"""

import random
from datetime import datetime

from contracts import Grade, ModelGrades

PROBATION_SHARE = 0.10
CANARY_SHARE = 0.01
CANARY_AFTER = 30.0
"""Seconds after which a benched one is tried again, however few are asked in that time."""


class Grades:
    def __init__(self) -> None:
        self._of: dict[str, dict[str, Grade]] = {}
        self._new: dict[str, tuple[str, ...]] = {}
        self._proven_since: datetime | None = None
        self._tried: dict[tuple[str, str], float] = {}

    def of(self, model_id: str, worker_id: str, serves_since: datetime | None = None) -> Grade:
        """Who has none yet is new, if anybody has one. `serves_since`: None if that cannot be said."""
        if not self._of:
            return "regular"
        grade = self._of.get(model_id, {}).get(worker_id)
        if grade is not None and worker_id not in self._new.get(model_id, ()):
            return grade
        return "regular" if self._was_here_before(serves_since) else "probation"

    def _was_here_before(self, serves_since: datetime | None) -> bool:
        """Whether it is one of those with whom the mesh began."""
        return self._proven_since is None or (serves_since is not None and serves_since < self._proven_since)

    def learn(self, told: ModelGrades) -> None:
        self._of[told.model_id] = told.workers
        self._new[told.model_id] = told.new
        if told.proven_since is not None:
            self._proven_since = told.proven_since

    def may_compete(self, grade: Grade, rng: random.Random) -> bool:
        """Whether one of this grade takes part in a decision."""
        if grade == "benched":
            return False
        return grade != "probation" or rng.random() < PROBATION_SHARE

    def is_canary(self, model_id: str, worker_id: str, now: float, rng: random.Random) -> bool:
        """Whether a benched one is tried this time."""
        since = now - self._tried.setdefault((model_id, worker_id), now)
        if since < CANARY_AFTER and rng.random() >= CANARY_SHARE:
            return False
        self._tried[model_id, worker_id] = now
        return True
