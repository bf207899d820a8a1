"""`metrics.route` in the books: the candidates for each request and why the winner won, kept for some days.

No request waits for this, and nothing is kept for it: Managers publish every decision once. One that is made while
no accountant runs is lost, and so is what no longer fits into memory while the database is away. Answers, attempts and
costs come another way, and of them nothing is lost. Accountants share the work; a second copy of a decision is dropped.
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
"""Seconds between two looks whether there is something to keep."""
BATCH = 500
MOST_DAYS = 10
MAX_BYTES = 16 << 20
"""Of decisions that wait here for the database."""
BEST = 20
"""Candidates that are kept of one decision."""
REASON_CHARACTERS = 200
NEAR = timedelta(days=1)
"""A request is no older than this when it is decided, and no clock is so far ahead."""
FINISH_WITHIN = 1.0


class Decisions:
    def __init__(self, bus: Bus, store: Store) -> None:
        self._bus = bus
        self._store = store
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._days: set[datetime] = set()
        """Those that are known to have a place."""
        self.lost = 0

    async def listen(self) -> Subscription:
        """Gathers from now on, for `run` to keep. Raises `BusError`."""
        return await self._bus.subscribe_inline(s.METRICS_ROUTE, self._take, queue=CONSUMER)

    async def run(self, listening: Subscription) -> None:
        """Keeps what is gathered until cancelled; ends the listening then."""
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
        """All that waits, batch after batch. Raises `DatabaseAway`; then it goes on waiting."""
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
        """Of rows that the database refuses, the halves, without the bad ones."""
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
    """The day of a decision and its row; None for what cannot be kept."""
    try:
        decision = RouteDecision.model_validate_json(data)
        made = _made_at(UUID(decision.request_id))
    except (ValidationError, ValueError):
        return None
    if abs(made - now) > NEAR:
        return None
    return made.replace(hour=0, minute=0, second=0, microsecond=0), row(decision)


def row(decision: RouteDecision) -> bytes:
    """A JSON object whose keys are columns."""
    considered = len(decision.candidates)
    kept = decision.model_copy(update={"candidates": best(decision)})
    written = to_json({**kept.model_dump(), "considered": considered})
    return NUL.sub(REPLACED, written) if b"\\u0000" in written else written


def best(decision: RouteDecision) -> tuple[Candidate, ...]:
    """The winner, then the others by score, then those without one."""
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
    """When a UUIDv7 was made. Raises `ValueError` when that is beyond all calendars."""
    try:
        return datetime.fromtimestamp((request_id.int >> 80) / 1000, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
