"""Routing decisions (`metrics.route`) in the books: the candidates for each attempt, and why the winner won. They are
kept for some days.

Managers publish each decision once, and no request waits for it. A decision is lost when no accountant runs, or when
the database is away for so long that the memory for decisions is full. Answers, attempts and costs take another way and
are never lost. Accountants share the work; the books drop a second copy of a decision.
"""

import asyncio
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from pydantic import ValidationError
from pydantic_core import to_json

from bus import Bus, Message, Subscription
from contracts import Candidate, RouteDecision
from contracts import subjects as s
from telemetry.recording.entries import NUL, REPLACED
from telemetry.store import DatabaseAway, RowsRefused, Store
from telemetry.stream import CONSUMER

log = structlog.get_logger(__name__)

EVERY = 0.5
"""Seconds between two writes of the decisions that have come."""
BATCH = 500
MOST_DAYS = 10
MAX_BYTES = 16 << 20
"""Bytes of decisions that may wait for the database."""
BEST = 20
"""Candidates of one decision that are kept."""
REASON_CHARACTERS = 200
NEAR = timedelta(days=1)
"""The greatest difference between a request's own time and this machine's clock."""
FINISH_WITHIN = 1.0


class Decisions:
    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._days: set[datetime] = set()
        """Days that have a partition, as far as this process knows."""
        self.lost = 0

    async def listen(self) -> Subscription:
        """Takes decisions from now on; `run` books them. Raises `BusError`."""
        return await self._bus.subscribe_inline(s.METRICS_ROUTE, self._take, queue=CONSUMER)

    async def run(self, listening: Subscription) -> None:
        """Books decisions until cancelled; then ends the subscription."""
        try:
            while True:
                await asyncio.sleep(EVERY)
                with suppress(DatabaseAway):  # the recorder says so
                    await self._keep()
        finally:
            with suppress(DatabaseAway, TimeoutError):
                async with asyncio.timeout(FINISH_WITHIN):
                    await listening.stop()
                    await self._keep()

    def _take(self, message: Message) -> None:
        self._waiting.append(message.data)
        self._bytes += len(message.data)
        while self._bytes > MAX_BYTES:
            self._bytes -= len(self._waiting.popleft())
            self._lose("too many wait for the database")

    async def _keep(self) -> None:
        """Books all decisions that wait, batch after batch. Raises `DatabaseAway`; then they stay."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._bytes -= sum(map(len, batch))
            try:
                await self._save(batch)
            except (DatabaseAway, asyncio.CancelledError):
                self._waiting.extendleft(reversed(batch))
                self._bytes += sum(map(len, batch))
                raise

    async def _save(self, batch: list[bytes]) -> None:
        now = datetime.now(UTC)
        read = [found for data in batch if (found := _read(data, now)) is not None]
        if len(read) < len(batch):
            self._lose("no decision, or not of today", len(batch) - len(read))
        if days := {day for day, _ in read} - self._days:
            await self._store.fetch("make_decision_days", sorted(days))
            self._days = {*self._days, *days} if len(self._days) < MOST_DAYS else days
        await self._insert([row for _, row in read])

    async def _insert(self, rows: list[bytes]) -> None:
        """Inserts the rows. When the database refuses them, inserts each half, so that only the bad rows are lost."""
        try:
            if rows:
                await self._store.save({"decisions": rows})
        except RowsRefused as error:
            self._days.clear()
            if len(rows) == 1:
                self._lose(str(error))
                return
            middle = len(rows) // 2
            await self._insert(rows[:middle])
            await self._insert(rows[middle:])

    def _lose(self, reason: str, count: int = 1) -> None:
        before, self.lost = self.lost, self.lost + count
        if before.bit_length() != self.lost.bit_length():  # at 1, 2, 4, 8 …
            log.warning("decisions_lost", decisions=self.lost, reason=reason)


def _read(data: bytes, now: datetime) -> tuple[datetime, bytes] | None:
    """The day and the row of a decision; None: the message is no decision, or its time is implausible."""
    try:
        decision = RouteDecision.model_validate_json(data)
        made = _made_at(UUID(decision.request_id))
    except (ValidationError, ValueError):
        return None
    if abs(made - now) > NEAR:
        return None
    return made.replace(hour=0, minute=0, second=0, microsecond=0), row(decision)


def row(decision: RouteDecision) -> bytes:
    """The decision as a row: a JSON object whose keys are columns."""
    considered = len(decision.candidates)
    kept = decision.model_copy(update={"candidates": best(decision)})
    written = to_json({**kept.model_dump(), "considered": considered})
    return NUL.sub(REPLACED, written) if b"\\u0000" in written else written


def best(decision: RouteDecision) -> tuple[Candidate, ...]:
    """The best candidates: first the winner, then the others by score, last those without a score."""
    won = (decision.winner, decision.model_id)
    ranked = sorted(
        decision.candidates,
        key=lambda one: ((one.worker_id, one.model_id) != won, one.score is None, one.score or 0.0, one.worker_id),
    )
    return tuple(
        one.model_copy(update={"passed_over": one.passed_over and one.passed_over[:REASON_CHARACTERS]})
        for one in ranked[:BEST]
    )


def _made_at(request_id: UUID) -> datetime:
    """When a UUIDv7 was made. Raises `ValueError` when the time is beyond the calendar."""
    try:
        return datetime.fromtimestamp((request_id.int >> 80) / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
