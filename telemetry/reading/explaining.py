"""The life of one request from the books: decisions, attempts, result."""

import re
from datetime import datetime
from uuid import UUID

from pydantic_core import from_json

from contracts import Candidate, OpenModel, Terms, Wishes
from telemetry.reading.queries import BookedAttempt, BookedResponse, as_uuid
from telemetry.store import Row, Store

SHORT_ID = re.compile(r"[0-9a-f]{6,12}")
"""The last digits of a request's id, which are random."""


class BookedDecision(OpenModel):
    """The candidates for one attempt of a request."""

    attempt: int
    """The number of the attempt that followed; one more than the last attempt when no worker could be asked."""
    task_id: str
    created_at: datetime
    manager_id: str
    why: str | None
    """`first`, `failover`, `hedge` or `cascade`; None: written by an older Manager."""
    policy: str
    weights: Terms
    wishes: Wishes | None
    winner: str | None
    model_id: str | None
    candidates: tuple[Candidate, ...]
    """The best candidates, the winner first."""
    considered: int
    """How many candidates there were."""


class ExplainedResponse(BookedResponse):
    """The final message of a request, with how it was served."""

    backend: str | None
    manager_id: str | None
    """None: the caller asked a worker directly, without a Manager."""
    policy: str
    priority: str
    replayed: bool
    resumed: bool


class Explained(OpenModel):
    request_id: UUID
    task_id: str
    others: int
    """Other requests with the same task id."""
    decisions: tuple[BookedDecision, ...]
    attempts: tuple[BookedAttempt, ...]
    response: ExplainedResponse | None
    """None: the final message is not booked yet."""


async def explain(store: Store, name: str) -> Explained | None:
    """The request with that request id, or the newest with that task id, or the one whose request id ends so. None:
    there is no such request.

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
