"""The life of one request from the books: decisions, attempts, result."""

import re
from datetime import datetime
from uuid import UUID

from pydantic_core import from_json

from contracts import Candidate, OpenModel, Terms, Wishes
from telemetry.reading.queries import BookedAttempt, BookedResponse, as_uuid
from telemetry.store import Row, Store

SHORT_ID = re.compile(r"[0-9a-f]{6,12}")
"""The end of a request's id, which is its random part."""


class BookedDecision(OpenModel):
    """The candidates at one point of a request's life."""

    attempt: int
    """The attempt that it led to; one more than there are when no worker could be asked."""
    task_id: str
    created_at: datetime
    manager_id: str
    why: str | None
    """`first`, `failover`, `hedge` or `cascade`; None: an older Manager did not say."""
    policy: str
    weights: Terms
    wishes: Wishes | None
    winner: str | None
    model_id: str | None
    candidates: tuple[Candidate, ...]
    """The best ones, the winner first."""
    considered: int
    """How many there were."""


class ExplainedResponse(BookedResponse):
    """How it ended."""

    backend: str | None
    manager_id: str | None
    """None: a worker was asked directly, without a choice."""
    policy: str
    priority: str
    replayed: bool
    resumed: bool


class Explained(OpenModel):
    request_id: UUID
    task_id: str
    others: int
    """Other requests that bear this task's name."""
    decisions: tuple[BookedDecision, ...]
    attempts: tuple[BookedAttempt, ...]
    response: ExplainedResponse | None
    """None: it is not booked yet."""


async def explain(store: Store, name: str) -> Explained | None:
    """The request with that id, or the newest with that task id, or whose id ends so; None when there is none.

    Raises `DatabaseAway`.
    """
    found = await store.fetch("explain_find", as_uuid(name), name)
    if not found and SHORT_ID.fullmatch(name):
        found = await store.fetch("explain_short", name)
    if not found:
        return None
    request_id = found[0]["request_id"]
    decisions = tuple(_decision(row) for row in await store.fetch("decisions_of", request_id))
    attempts = await store.fetch("attempts_of", request_id)
    ended = [ExplainedResponse.model_validate(dict(row)) for row in await store.fetch("explain_response", request_id)]
    return Explained(
        request_id=request_id,
        task_id=ended[0].task_id if ended else decisions[0].task_id,
        others=found[0]["others"],
        decisions=decisions,
        attempts=tuple(BookedAttempt.model_validate(dict(row)) for row in attempts),
        response=ended[0] if ended else None,
    )


def _decision(row: Row) -> BookedDecision:
    free = {name: from_json(row[name] or "null") for name in ("weights", "wishes", "candidates")}
    return BookedDecision.model_validate({**row, **free})
