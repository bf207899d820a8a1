"""Forgets a task or a tenant everywhere: the books, the stream before them, kept answers. Read `forget` for the order.

An event in the stream would be booked after the rows are deleted. So first the stream is booked up to the time of the
command. Copies that cannot be reached are listed in `left`, with what to do about them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from bus import Bus, BusError, erase
from contracts import subjects as s
from manager.idempotency import BUCKET
from telemetry.store import Store
from telemetry.stream import CONSUMER
from telemetry.upkeep import forget as books
from telemetry.upkeep.forget import Forgotten, Scope

BOOKED_WITHIN = 30.0
"""Seconds that the accountants get to book the events in the stream at the start."""
LOOK_EVERY = 0.1
ASK_AT_ONCE = 1000
ANSWERS = f"KV_{BUCKET}"

T = TypeVar("T")


@dataclass(slots=True)
class Report:
    """How many copies were deleted, and what is `left` to do."""

    responses: int = 0
    attempts: int = 0
    feedback: int = 0
    dead_letters: int = 0
    decisions: int = 0
    events: int = 0
    """Booked events that were deleted from the stream: of all tenants, since the stream cannot tell them apart."""
    results: int = 0
    """Job results that were deleted before they were fetched."""
    replays: int = 0
    """Answers that were kept for an idempotency key."""
    left: list[str] = field(default_factory=list)

    def count(self, rows: Forgotten) -> None:
        self.responses += rows.responses
        self.attempts += rows.attempts
        self.feedback += rows.feedback
        self.dead_letters += rows.dead_letters
        self.decisions += rows.decisions


class _StoredAnswer(BaseModel):
    request_id: UUID
    task_id: str


class _KeptAnswer(BaseModel):
    answer: _StoredAnswer | None = None


class _Result(BaseModel):
    task_id: str


class Forgetting:
    """Deletes the copies of one task's or tenant's requests. `bus` None: NATS cannot be reached. `doing` is called with
    the step under way.
    """

    def __init__(
        self, store: Store, bus: Bus | None, scope: Scope, *, words_only: bool, doing: Callable[[str], None]
    ) -> None:
        self._store = store
        self._bus = bus
        self._scope = scope
        self._words_only = words_only
        self._doing = doing
        self.report = Report()

    async def forget(self, spool: Path | None = None) -> Report:
        """Deletes all copies that can be reached. Raises `NotAllowed`, `DatabaseAway`."""
        await books.check_allowed(self._store, words_only=self._words_only)
        if self._bus is None:
            self._leave("NATS cannot be reached: events and answers that it keeps stay there until they are too old")
            await self._forget_rows()
        else:
            await self._everywhere(self._bus)
        if spool is not None:
            self._look_at(spool)
        return self.report

    async def _everywhere(self, bus: Bus) -> None:
        booked = await self._reached("events that are not booked yet", self._booked(bus))
        kept = await self._reached("answers kept for idempotency keys", self._kept(bus)) or []
        tasks = await self._forget_rows()
        if booked:
            self._doing("deleting booked events")
            purged = await self._reached("booked events", erase.purge(bus, s.TELEMETRY_STREAM, up_to=booked))
            self.report.events = purged or 0
        self._doing("deleting answers")
        self.report.replays = await self._reached("kept answers", self._delete(bus, ANSWERS, kept)) or 0
        results = await self._reached("results", self._results(bus, tasks)) or []
        self.report.results = await self._reached("results", self._delete(bus, s.RESULTS_STREAM, results)) or 0

    async def _forget_rows(self) -> set[str]:
        """Deletes the rows in the books; returns their task ids."""
        tasks: set[str] = set()
        async for batch in books.forget(self._store, self._scope, words_only=self._words_only):
            self.report.count(batch.rows)
            tasks |= batch.task_ids
            self._doing(f"forgetting, {self.report.responses:,} requests so far")
        return tasks

    async def _booked(self, bus: Bus) -> int:
        """Waits until the events now in the stream are booked; returns the number up to which they are."""
        wanted = await erase.last_seq(bus, s.TELEMETRY_STREAM)
        self._doing("waiting until what happened so far is booked")
        end = asyncio.get_running_loop().time() + BOOKED_WITHIN
        while (reached := await erase.done_up_to(bus, s.TELEMETRY_STREAM, CONSUMER)) < wanted:
            if asyncio.get_running_loop().time() > end:
                self._leave("events that are not booked yet: is `bullpen telemetry` running? Then do this again")
                break
            await asyncio.sleep(LOOK_EVERY)
        return min(reached, wanted)

    async def _kept(self, bus: Bus) -> list[int]:
        """The numbers of the scope's answers that are kept for idempotency keys."""
        self._doing("looking through the answers kept for idempotency keys")
        found: list[int] = []
        portion: dict[UUID, int] = {}
        async for entry in erase.walk(bus, ANSWERS, f"$KV.{BUCKET}.>"):
            answer = _answer(entry.data)
            if answer is None:
                continue
            if self._scope.by == "task":
                found += [entry.seq] if answer.task_id == self._scope.name else []
                continue
            portion[answer.request_id] = entry.seq
            if len(portion) == ASK_AT_ONCE:
                found += await self._of_the_tenant(portion)
                portion = {}
        return found + await self._of_the_tenant(portion)

    async def _of_the_tenant(self, portion: dict[UUID, int]) -> list[int]:
        theirs = await books.whose(self._store, list(portion), self._scope) if portion else set()
        return [portion[request_id] for request_id in theirs]

    async def _results(self, bus: Bus, tasks: Iterable[str]) -> list[int]:
        """The numbers of these tasks' results, also of those that version 0.1 kept, where tasks may share a subject."""
        if not await erase.last_seq(bus, s.RESULTS_STREAM):
            return []
        return [
            result.seq
            for task in sorted(tasks)
            for subject in sorted({s.result(task), s.result_before(task)})
            async for result in erase.walk(bus, s.RESULTS_STREAM, subject)
            if _task_of(result.data) == task
        ]

    async def _delete(self, bus: Bus, stream: str, numbers: Iterable[int]) -> int:
        return sum([await erase.delete(bus, stream, number) for number in numbers])

    async def _reached(self, what: str, work: Awaitable[T]) -> T | None:
        try:
            return await work
        except BusError as error:
            self._leave(f"{what}: {error}")
            return None

    def _look_at(self, spool: Path) -> None:
        """Reports a spool with events that JetStream did not take; only the roles may change it."""
        for folder in sorted(path for path in spool.glob("*") if path.is_dir()):
            waiting = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if waiting:
                self._leave(f"{waiting} bytes that {folder.name} could not send yet, in {folder}: do this again later")

    def _leave(self, what: str) -> None:
        self.report.left.append(what)


def _task_of(data: bytes) -> str | None:
    try:
        return _Result.model_validate_json(data).task_id
    except ValidationError:
        return None


def _answer(data: bytes) -> _StoredAnswer | None:
    try:
        return _KeptAnswer.model_validate_json(data).answer
    except ValidationError:
        return None  # deleted, or of another version
