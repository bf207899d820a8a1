"""Who may be asked how often: the grades that the accountant gives, as this Manager knows them.

They come from a JetStream bucket, which is read when a model is first seen and followed from then on; without it
everybody is regular. New ones get a tenth of what they would win. Who was here before anybody was proven is not new:
in a young mesh the first to be asked must not keep the others from being asked at all. Benched ones are tried now and
then, so that somebody notices when they are well again.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from datetime import datetime

import structlog
from pydantic import ValidationError

from bus import Bus, BusError
from bus.kv import Bucket
from contracts import Grade, ModelGrades
from contracts import subjects as s
from manager.estimates import Estimates

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20
READ_WITHIN = 1.0
LOOK_AGAIN = 2.0
"""Seconds between two looks for models that were never seen before, and for the bucket while it is away."""
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


class GradeKeeper:
    """Keeps `grades` as the bucket has them, and tells `estimates` what the books know of those who are new to us."""

    def __init__(self, bus: Bus, grades: Grades, estimates: Estimates) -> None:
        self._bus = bus
        self._grades = grades
        self._estimates = estimates
        self._asked: set[str] = set()

    async def keep(self, models: Callable[[], Iterable[str]]) -> None:
        """Until cancelled. `models` tells which models are served now."""
        bucket: Bucket | None = None
        reconnects = self._bus.reconnects
        while True:
            try:
                if bucket is None:
                    bucket = await Bucket.open(self._bus, s.GRADES_BUCKET, max_age_s=0, max_bytes=MAX_BYTES)
                    await bucket.follow("*", self._hear)
                if reconnects != self._bus.reconnects:
                    reconnects = self._bus.reconnects
                    self._asked.clear()
                await self._read_new(bucket, models())
            except BusError as error:
                log.debug("grades_not_read", error=str(error))
            await asyncio.sleep(LOOK_AGAIN)

    async def _read_new(self, bucket: Bucket, models: Iterable[str]) -> None:
        for model_id in set(models) - self._asked:
            entry = await bucket.get(s.grades_key(model_id), within=READ_WITHIN)
            if entry is not None and entry.value:
                self._hear(entry.value)
            self._asked.add(model_id)

    def _hear(self, value: bytes) -> None:
        try:
            told = ModelGrades.model_validate_json(value)
        except ValidationError as error:
            log.warning("grades_unreadable", error=str(error)[:200])
            return
        self._grades.learn(told)
        now = asyncio.get_running_loop().time()
        for worker_id, record in told.records.items():
            self._estimates.warm(told.model_id, worker_id, record, now)
