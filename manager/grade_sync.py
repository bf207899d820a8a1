"""Keeps the Manager's grades as the JetStream bucket has them: read at the start, then followed."""

import asyncio
from collections.abc import Callable, Iterable

import structlog
from pydantic import ValidationError

from bus import Bus, BusError
from bus.kv import Bucket
from contracts import ModelGrades
from contracts import subjects as s
from manager.routing.estimates import Estimates
from manager.routing.grades import Grades

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20
READ_WITHIN = 1.0
READ_AT_ONCE = 500
LOOK_AGAIN = 2.0
"""Seconds between two looks for new models, and for the bucket while it is away."""


class GradeKeeper:
    """Keeps `grades` as the bucket has them, and gives `estimates` what the books know of workers that are new here."""

    def __init__(self, bus: Bus, grades: Grades, estimates: Estimates) -> None:
        self._bus = bus
        self._grades = grades
        self._estimates = estimates
        self._asked: set[str] = set()

    async def keep(self, models: Callable[[], Iterable[str]]) -> None:
        """Runs until cancelled. `models` returns the models that are served now."""
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
        served = set(models)
        self._asked &= served
        for model_id in sorted(served - self._asked)[:READ_AT_ONCE]:
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
