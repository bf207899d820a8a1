"""Whose turn it is: the grades that telemetry computes, as this Manager knows them. Pure.

Without any grades every worker is regular. New workers take part in a tenth of the decisions. A worker that the mesh
had before any worker was proven is not new: in a young mesh the first worker to be asked must not keep the others from
being asked at all. Benched workers are tried now and then, so that telemetry notices when they recover.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from config.bounded import Latest
from contracts import Grade, ModelGrades, Policy
from manager.routing.estimates import Estimates
from manager.routing.query import Choice

PROBATION_SHARE = 0.10
CANARY_SHARE = 0.01
CANARY_AFTER = 30.0
"""Seconds after which a benched worker is tried again, however few requests come in that time."""
MOST_MODELS, MOST_PAIRS = 5000, 20_000
"""Models, and models at workers, whose grades are kept: the latest ones."""
WELL_KNOWN = 40
"""Answers after which `best` leaves out a model without a senior worker: its grade is reliable by then."""


class Grades:
    def __init__(self) -> None:
        self._of: Latest[str, dict[str, Grade]] = Latest(MOST_MODELS)
        self._new: Latest[str, tuple[str, ...]] = Latest(MOST_MODELS)
        self._proven_since: datetime | None = None
        self._tried: Latest[tuple[str, str], float] = Latest(MOST_PAIRS)

    def of(self, model_id: str, worker_id: str, serves_since: datetime | None = None) -> Grade:
        """The grade of a worker for a model; one without a grade is new once any worker has a grade. `serves_since`:
        None when unknown.
        """
        if not self._of:
            return "regular"
        grade = self._of.get(model_id, {}).get(worker_id)
        if grade is not None and worker_id not in self._new.get(model_id, ()):
            return grade
        return "regular" if self._was_here_before(serves_since) else "probation"

    def _was_here_before(self, serves_since: datetime | None) -> bool:
        """Whether the worker is one of those that the mesh began with."""
        return self._proven_since is None or (serves_since is not None and serves_since < self._proven_since)

    def learn(self, told: ModelGrades) -> None:
        self._of[told.model_id] = told.workers
        self._new[told.model_id] = told.new
        if told.proven_since is not None:
            self._proven_since = told.proven_since

    def reserve(
        self, free: Sequence[Choice], policy: Policy, estimates: Estimates, now: float, rng: random.Random
    ) -> dict[Choice, str]:
        """Among the candidates that can be asked, those whose turn it is not, and in words why: never all of them."""
        if not self._of:
            return {}
        graded = {choice: self._grade(choice) for choice in free}
        if len(set(graded.values())) <= 1:
            return {}
        benched = (choice for choice, grade in graded.items() if grade == "benched")
        canary = next((c for c in benched if self.is_canary(c.card.model_id, c.worker.worker_id, now, rng)), None)
        if canary is not None:
            why = f"it is the turn of {canary.worker.worker_id}, which is benched, to be tried"
            return _all_but((canary,), dict.fromkeys(free, why))
        if policy == "best" and "senior" in graded.values():
            return _all_but(_best(graded, estimates, rng), dict.fromkeys(free, "not senior"))
        competing = [choice for choice, grade in graded.items() if self.may_compete(grade, rng)]
        return _all_but(competing, {choice: f"{grade}: not its turn" for choice, grade in graded.items()})

    def _grade(self, choice: Choice) -> Grade:
        return self.of(choice.card.model_id, choice.worker.worker_id, choice.worker.serves_since)

    def may_compete(self, grade: Grade, rng: random.Random) -> bool:
        """Whether a worker of this grade takes part in a decision."""
        if grade == "benched":
            return False
        return grade != "probation" or rng.random() < PROBATION_SHARE

    def is_canary(self, model_id: str, worker_id: str, now: float, rng: random.Random) -> bool:
        """Whether a benched worker is tried this time."""
        since = now - self._tried.setdefault((model_id, worker_id), now)
        if since < CANARY_AFTER and rng.random() >= CANARY_SHARE:
            return False
        self._tried[model_id, worker_id] = now
        return True


def _best(graded: Mapping[Choice, Grade], estimates: Estimates, rng: random.Random) -> set[Choice]:
    """Senior candidates; now and then also a model with few answers, because only answers can show that it is
    better.
    """
    seniors = {choice for choice, grade in graded.items() if grade == "senior"}
    known = {choice.card.model_id for choice in seniors}
    others = (choice for choice, grade in graded.items() if grade != "benched" and choice.card.model_id not in known)
    unknown = [choice for choice in others if estimates.look(choice.card.model_id).answered < WELL_KNOWN]
    return seniors.union(choice for choice in unknown if rng.random() < PROBATION_SHARE)


def _all_but(kept: Iterable[Choice], why: Mapping[Choice, str]) -> dict[Choice, str]:
    """The candidates outside `kept`, and why they are passed over; empty when `kept` is empty, because any worker is
    better than none.
    """
    chosen = set(kept)
    return {choice: words for choice, words in why.items() if choice not in chosen} if chosen else {}
