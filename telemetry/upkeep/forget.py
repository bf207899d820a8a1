"""Erasure in the database: deletes the rows of a task or a tenant, or only the words in them.

Each batch is a transaction of its own, so that no lock is held for long; a second run does no harm. Events that are not
booked yet, and copies elsewhere, are the business of `bullpen.forgetting`.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic_core import to_json

from telemetry.store import Row, Store

BATCH = 1000
"""Requests per transaction."""


class NotAllowed(Exception):
    """The database's user may not delete rows; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The requests to forget: those of this task id, or of this tenant, that were made before `before`."""

    by: Literal["task", "tenant"]
    name: str
    before: datetime

    @property
    def marks(self) -> list[bytes]:
        """How an event that could not be parsed would contain the name."""
        key, name = {"task": b'"task_id":', "tenant": b'"tenant":'}[self.by], to_json(self.name)
        return [key + name, key + b" " + name]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The number of rows in each table."""

    responses: int = 0
    attempts: int = 0
    feedback: int = 0
    dead_letters: int = 0
    decisions: int = 0

    @property
    def total(self) -> int:
        return self.responses + self.attempts + self.feedback + self.dead_letters + self.decisions


@dataclass(frozen=True, slots=True)
class ForgottenRequests:
    """One batch of forgotten requests."""

    task_ids: frozenset[str]
    rows: Forgotten


async def check_allowed(store: Store, *, words_only: bool) -> None:
    """Checks that the user may forget. Raises `NotAllowed`, `DatabaseAway`."""
    if not (await store.fetch("forget_allowed", "UPDATE" if words_only else "DELETE"))[0]["allowed"]:
        raise NotAllowed(
            "the database user may not delete: set DATABASE_URL to one that may, for example the owner of the tables"
        )


async def count(store: Store, scope: Scope) -> Forgotten:
    """Counts the rows to forget, without the dead letters. Raises `DatabaseAway`."""
    return _rows(await store.fetch(f"forget_count_{scope.by}", scope.name, scope.before))


async def forget(store: Store, scope: Scope, *, words_only: bool = False) -> AsyncIterator[ForgottenRequests]:
    """Forgets batch after batch; yields after each commit. Raises `DatabaseAway`."""
    query, back_to = f"forget_find_{scope.by}", scope.before
    while found := await store.fetch(query, scope.name, scope.before, not words_only, BATCH, back_to):
        back_to = found[-1]["created_at"]
        ids, tasks = [row["request_id"] for row in found], sorted({row["task_id"] for row in found})
        rows = _rows(await store.fetch("forget_words" if words_only else "forget_rows", ids, tasks))
        letters = await _forget_letters(store, (str(one).encode() for one in ids))
        yield ForgottenRequests(frozenset(tasks), replace(rows, dead_letters=letters))
    letters = await _forget_letters(store, scope.marks, scope.before)
    if scope.by == "tenant":
        yield ForgottenRequests(frozenset(), Forgotten(dead_letters=letters))
        return
    said = "forget_comments" if words_only else "forget_feedback"
    judged = len(await store.fetch(said, scope.name, scope.before))
    decided = 0 if words_only else len(await store.fetch("forget_decisions", scope.name, scope.before))
    yield ForgottenRequests(
        frozenset({scope.name}), Forgotten(feedback=judged, dead_letters=letters, decisions=decided)
    )


async def whose(store: Store, request_ids: Sequence[UUID], scope: Scope) -> set[UUID]:
    """Those of the requests that are the tenant's. Raises `DatabaseAway`."""
    return {row["request_id"] for row in await store.fetch("forget_whose", request_ids, scope.name, scope.before)}


async def _forget_letters(store: Store, marks: Iterable[bytes], before: datetime | None = None) -> int:
    return len(await store.fetch("forget_letters", list(marks), before))


def _rows(found: Sequence[Row]) -> Forgotten:
    return Forgotten(**dict(found[0]))
