"""The queries of the command line to the books."""

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
    """One request with its final message, as it is booked."""

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
    """US dollars; None: unknown."""
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
    """What a model costs, and how fast and how reliable it is."""

    model_id: str
    answers: int
    attempts: int
    error_rate: float | None
    """Share of failures among the attempts that ended with an answer or a failure; None: there is no such attempt."""
    confidence: float | None
    feedback: float | None
    """Mean of the callers' scores, 0..1; None: there are none."""
    judgements: int
    p50_ms: float | None
    p95_ms: float | None
    cost_usd: Decimal | None
    """Sum over the attempts with a known price; `unpriced` counts the others."""
    unpriced: int
    cost_per_answer: Decimal | None
    last_answer: datetime | None


async def check_schema(store: Store) -> None:
    """Checks that this code can read the database's schema. Raises `SchemaMismatch`, `DatabaseAway`."""
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
    """The last requests, newest first. Raises `DatabaseAway`."""
    rows = await store.fetch("recent_responses", limit, since, failed, model, tenant)
    return [BookedResponse.model_validate(dict(row)) for row in rows]


async def cost_by(store: Store, key: CostKey, *, since: datetime | None = None) -> list[CostRow]:
    """The cost by `key`: most expensive first, days in order of time. Raises `DatabaseAway`."""
    rows = [CostRow.model_validate(dict(row)) for row in await store.fetch(f"cost_by_{key}", since)]
    return sorted(rows, key=lambda row: row.key or "") if key == "day" else rows


async def response(store: Store, name: str) -> BookedRequest | None:
    """The request with that request id, or the newest with that task id. Raises `DatabaseAway`."""
    rows = await store.fetch("response", as_uuid(name), name)
    if not rows:
        return None
    attempts = await store.fetch("attempts_of", rows[0]["request_id"])
    return BookedRequest(
        response=BookedResponse.model_validate(dict(rows[0])),
        attempts=tuple(BookedAttempt.model_validate(dict(row)) for row in attempts),
    )


async def scorecard(store: Store) -> list[Scorecard]:
    """Every model that had an attempt, the most used first. Raises `DatabaseAway`."""
    return [Scorecard.model_validate(dict(row)) for row in await store.fetch("scorecard")]


class Calibrated(OpenModel):
    """How callers judged the answers of one model in one tenth of confidence."""

    model_id: str
    tenth: int
    """The tenth of confidence: 9 is 0.9 to 1."""
    answers: int
    confidence: float
    """Mean of the confidence in the answers."""
    judged: float
    """Mean of the scores by callers and verifiers, 0..1."""


async def calibration(store: Store, *, since: datetime | None = None, model: str | None = None) -> list[Calibrated]:
    """The models' confidence beside the scores of their answers. Raises `DatabaseAway`."""
    return [Calibrated.model_validate(dict(row)) for row in await store.fetch("calibration", since, model)]


class Compared(OpenModel):
    """The live model and a mirrored candidate, on the same questions. Each cost is the sum over the questions whose
    price is known there.
    """

    live_model: str | None
    candidate: str | None
    questions: int
    failed: int
    """Questions that the candidate did not answer."""
    live_p50_ms: float | None
    candidate_p50_ms: float | None
    live_cost_usd: Decimal | None
    candidate_cost_usd: Decimal | None
    unpriced: int
    """Questions whose cost is unknown for one of the two."""
    live_confidence: float | None
    candidate_confidence: float | None
    live_judged: float | None
    candidate_judged: float | None


async def compare(store: Store, *, since: datetime | None = None) -> list[Compared]:
    """Compares live models with their mirrored candidates. Raises `DatabaseAway`."""
    return [Compared.model_validate(dict(row)) for row in await store.fetch("compare", since)]


async def _schema(connection: Connection) -> int | None:
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return None
    newest: int | None = await connection.fetchval("SELECT max(version) FROM schema_migrations")
    return newest


def as_uuid(text: str) -> UUID | None:
    """The UUID; None if `text` is not one."""
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
    """Seconds for which the model has had this grade."""


async def grades_now(store: Store) -> list[Graded]:
    """Every model's grade at every worker. Raises `DatabaseAway`."""
    return [Graded(**{**row, "reasons": from_json(row["reasons"])}) for row in await store.fetch("grades_now")]


async def set_grade(store: Store, model_id: str, worker_id: str | None, grade: str | None) -> list[Graded]:
    """Sets a grade by hand (`grade` None: the books decide again); returns the grades that changed. Raises
    `DatabaseAway`.
    """
    by_hand = grade is not None
    reason = "decided by hand" if by_hand else "given back to the books"
    rows = await store.fetch("set_grade", model_id, worker_id, grade, reason, by_hand)
    return [Graded(**row, reasons=(reason,), by_hand=by_hand) for row in rows]
