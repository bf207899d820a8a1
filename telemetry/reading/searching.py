"""Answers to `books.query`, from Postgres. Every query that returns prompts or answers is limited to the tenant that
the caller may see.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic_core import from_json

from contracts import BooksQuery, BooksReply, BullpenError, ErrorCode, JsonObject
from telemetry.reading.queries import as_uuid, grades_now
from telemetry.store import Row, Store

A_DAY = timedelta(days=1)
PIECES = 60
"""Pieces, roughly, of a period that is shown as a course over time."""
LIKE = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_"})
JSONB = frozenset({"weights", "wishes", "candidates", "reasons"})


async def search(store: Store, query: BooksQuery, now: datetime | None = None) -> BooksReply:
    """Answers a query. Raises `DatabaseAway`, `RowsRefused`, `BullpenError(invalid_request)`."""
    until = query.until or now or datetime.now(UTC)
    span = query.since or until - A_DAY, until, query.tenant
    match query.what:
        case "requests":
            return await _requests(store, query)
        case "request":
            rows = await _request(store, query)
        case "totals" | "cost":
            rows = [_row(row) for row in await store.fetch(f"page_{query.what}", *span)]
        case "models":
            rows = await _models(store, *span)
        case "grades":
            # Whose answers they are from, they do not say: they are not for one tenant.
            known = await grades_now(store) if query.tenant is None else []
            rows = [one.model_dump(mode="json") for one in known]
    return BooksReply(rows=tuple(rows))


async def _models(store: Store, since: datetime, until: datetime, tenant: str | None) -> list[JsonObject]:
    seconds = max(60.0, (until - since).total_seconds() / PIECES)
    whole = await store.fetch("report_models", since, until, tenant)
    pieces = await store.fetch("page_models", since, until, tenant, seconds)
    return [{"models": [*map(_row, whole)], "over_time": [*map(_row, pieces)]}]


async def _requests(store: Store, query: BooksQuery) -> BooksReply:
    at, last = _place(query.after)
    rows = await store.fetch(
        "search_requests",
        query.tenant,
        query.since,
        query.until,
        query.name,
        as_uuid(query.name) if query.name else None,
        query.model,
        query.worker,
        query.status,
        at,
        last,
        query.code,
        f"%{query.text.translate(LIKE)}%" if query.text else None,
        query.limit + 1,
    )
    page = rows[: query.limit]
    more = f"{page[-1]['created_at'].isoformat()}/{page[-1]['request_id']}" if len(rows) > len(page) else None
    return BooksReply(rows=tuple(map(_row, page)), next=more)


async def _request(store: Store, query: BooksQuery) -> list[JsonObject]:
    """One row with the response, the attempts and the decisions of a request; no row when there is no such request."""
    if not query.name:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "name: is missing", field="name")
    found = await store.fetch("find_request", as_uuid(query.name), query.name, query.tenant)
    if not found:
        return []
    request_id = found[0]["request_id"]
    ended = await store.fetch("whole_request", request_id)
    attempts = await store.fetch("attempts_of", request_id)
    decisions = await store.fetch("decisions_of", request_id)
    told: JsonObject = {
        "request_id": str(request_id),
        "response": _row(ended[0]) if ended else None,
        "attempts": [*map(_row, attempts)],
        "decisions": [*map(_row, decisions)],
    }
    return [told]


def _place(after: str | None) -> tuple[datetime | None, UUID | None]:
    if after is None:
        return None, None
    moment, _, request_id = after.partition("/")
    try:
        at = datetime.fromisoformat(moment)
        return at if at.tzinfo else at.replace(tzinfo=UTC), UUID(request_id)
    except ValueError:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "after: is no place between two pages", field="after") from None


def _row(row: Row) -> JsonObject:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if name in JSONB and isinstance(value, str):
        return from_json(value)
    return float(value) if isinstance(value, Decimal) else value
