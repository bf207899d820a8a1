"""The reading side of the books, for the command line."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from contracts import OpenModel
from telemetry.store import Store

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


class CostRow(OpenModel):
    """What a model, a tenant or a day cost. `unpriced` requests are not in `cost_usd`."""

    key: str | None
    requests: int
    tokens: int | None
    cost_usd: Decimal | None
    unpriced: int


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
    """The cost by `key`, the dearest first. Raises `DatabaseAway`."""
    return [CostRow.model_validate(dict(row)) for row in await store.fetch(f"cost_by_{key}", since)]
