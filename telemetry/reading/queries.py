"""The reading side of the books, for the command line."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic_core import from_json

from contracts import Grade, OpenModel, Outcome
from telemetry.store import Connection, Store
from telemetry.upkeep.migrate import SchemaMismatch, available

CostKey = Literal["model", "tenant", "day"]


class BookedResponse(OpenModel):
    """One request as the books have it."""

    request_id: UUID
    task_id: str
    created_at: datetime
    status: str
    error_code: str | None
    error_message: str | None
    model_id: str | None
    worker_id: str | None
    tokens_used: int | None
    cost_usd: Decimal | None
    """None: unknown."""
    duration_ms: float
    confidence: float | None
    confidence_source: str | None
    attempts: int
    simulated: bool
    prompt: str | None
    output: str | None


class BookedAttempt(OpenModel):
    """One attempt of a request."""

    attempt: int
    created_at: datetime
    worker_id: str
    backend: str
    model_id: str
    outcome: Outcome
    error_code: str | None
    error_message: str | None
    duration_ms: float
    ttft_ms: float | None
    queue_ms: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    confidence: float | None


class BookedRequest(OpenModel):
    """One request with all its attempts, in order."""

    response: BookedResponse
    attempts: tuple[BookedAttempt, ...]


class CostRow(OpenModel):
    """What a model, a tenant or a day cost. `unpriced` requests are not in `cost_usd`."""

    key: str | None
    requests: int
    tokens: int | None
    cost_usd: Decimal | None
    unpriced: int


class Scorecard(OpenModel):
    """How a model does."""

    model_id: str
    answers: int
    attempts: int
    error_rate: float | None
    """Of the tries that ended with an answer or a failure; None before the first."""
    confidence: float | None
    feedback: float | None
    """Mean of the callers' scores, 0..1; None without any."""
    judgements: int
    p50_ms: float | None
    p95_ms: float | None
    cost_usd: Decimal | None
    """Of all tries with a known price; `unpriced` is how many are not in it."""
    unpriced: int
    cost_per_answer: Decimal | None
    last_answer: datetime | None


async def check_schema(store: Store) -> None:
    """Raises `SchemaMismatch` unless the database's schema is the one that this code reads, or `DatabaseAway`."""
    wanted, found = max(available()), await store.perform(_schema)
    if found is None:
        raise SchemaMismatch(
            "there are no books in this database yet: `bullpen telemetry`, or `bullpen up`, makes them"
        )
    if found < wanted:
        raise SchemaMismatch(
            f"the books have schema {found}, this bullpen reads {wanted}: restart telemetry with this version, "
            "it brings them up to date"
        )
    if found > wanted:
        raise SchemaMismatch(f"the books have schema {found}, this bullpen reads {wanted}: run a newer bullpen")


async def recent_responses(
    store: Store,
    *,
    limit: int = 20,
    since: datetime | None = None,
    failed: bool = False,
    model: str | None = None,
    tenant: str | None = None,
) -> list[BookedResponse]:
    """The last requests, the newest first. Raises `DatabaseAway`."""
    rows = await store.fetch("recent_responses", limit, since, failed, model, tenant)
    return [BookedResponse.model_validate(dict(row)) for row in rows]


async def cost_by(store: Store, key: CostKey, *, since: datetime | None = None) -> list[CostRow]:
    """The cost by `key`, the dearest first, days in their order. Raises `DatabaseAway`."""
    rows = [CostRow.model_validate(dict(row)) for row in await store.fetch(f"cost_by_{key}", since)]
    return sorted(rows, key=lambda row: row.key or "") if key == "day" else rows


async def response(store: Store, name: str) -> BookedRequest | None:
    """The request with that request id or task id, the newest if several bear it. Raises `DatabaseAway`."""
    rows = await store.fetch("response", as_uuid(name), name)
    if not rows:
        return None
    attempts = await store.fetch("attempts_of", rows[0]["request_id"])
    return BookedRequest(
        response=BookedResponse.model_validate(dict(rows[0])),
        attempts=tuple(BookedAttempt.model_validate(dict(row)) for row in attempts),
    )


async def scorecard(store: Store) -> list[Scorecard]:
    """Every model that was ever tried, the busiest first. Raises `DatabaseAway`."""
    return [Scorecard.model_validate(dict(row)) for row in await store.fetch("scorecard")]


class Calibrated(OpenModel):
    """How right a model was when it was so sure."""

    model_id: str
    tenth: int
    """Of confidence: 9 is 0.9 to 1."""
    answers: int
    confidence: float
    """Mean, as the answers said."""
    judged: float
    """Mean of what callers and verifiers said, 0..1."""


async def calibration(store: Store, *, since: datetime | None = None, model: str | None = None) -> list[Calibrated]:
    """Confidence beside judgement. Raises `DatabaseAway`."""
    return [Calibrated.model_validate(dict(row)) for row in await store.fetch("calibration", since, model)]


class Compared(OpenModel):
    """A model and a candidate over the same questions. Costs are of those with a known price on both sides' rows."""

    live_model: str | None
    candidate: str | None
    questions: int
    failed: int
    """Of the candidate."""
    live_p50_ms: float | None
    candidate_p50_ms: float | None
    live_cost_usd: Decimal | None
    candidate_cost_usd: Decimal | None
    unpriced: int
    """Questions whose cost is unknown on one side."""
    live_confidence: float | None
    candidate_confidence: float | None
    live_judged: float | None
    candidate_judged: float | None


async def compare(store: Store, *, since: datetime | None = None) -> list[Compared]:
    """What mirrored questions showed. Raises `DatabaseAway`."""
    return [Compared.model_validate(dict(row)) for row in await store.fetch("compare", since)]


async def _schema(connection: Connection) -> int | None:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return None
    newest: int | None = await connection.fetchval("SELECT max(version) FROM schema_migrations")
    return newest


def as_uuid(text: str) -> UUID | None:
    """None if `text` is not a UUID."""
    try:
        return UUID(text)
    except ValueError:
        return None


class Graded(OpenModel):
    """One model's grade at one worker."""

    model_id: str
    worker_id: str
    grade: Grade
    previous: Grade | None = None
    reasons: tuple[str, ...] = ()
    by_hand: bool = False
    seconds: float = 0.0
    """For so long."""


async def grades_now(store: Store) -> list[Graded]:
    """Every grade. Raises `DatabaseAway`."""
    return [Graded(**{**row, "reasons": from_json(row["reasons"])}) for row in await store.fetch("grades_now")]


async def set_grade(store: Store, model_id: str, worker_id: str | None, grade: str | None) -> list[Graded]:
    """Overrules the books (`grade` None: not any more); returns the grades that changed. Raises `DatabaseAway`."""
    by_hand = grade is not None
    reason = "decided by hand" if by_hand else "given back to the books"
    rows = await store.fetch("set_grade", model_id, worker_id, grade, reason, by_hand)
    return [Graded(**row, reasons=(reason,), by_hand=by_hand) for row in rows]
