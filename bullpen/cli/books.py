"""`responses` and `cost`: requests and their cost, from the books."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bullpen.cli.reading import Json, Model, Since, Tenant, from_books
from bullpen.cli.show import (
    UNKNOWN,
    ago,
    as_json,
    counted,
    duration,
    figures,
    money,
    note,
    one_line,
    show,
    table,
    text,
    words,
)
from telemetry.reading.queries import BookedResponse, CostKey, CostRow, cost_by, recent_responses
from telemetry.store import Store

SHOWN_CHARACTERS = 60
SHORT_ID = 8
"""Characters of a request's id, from its end, that `bullpen explain` takes."""


def register(app: typer.Typer) -> None:
    app.command()(responses)
    app.command()(cost)


def responses(
    *,
    since: Since = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only requests that got an error")] = False,
    model: Model = None,
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first")] = 20,
    json: Json = False,
) -> None:
    """The last answers, from the books.

    `bullpen explain ID` tells why a request went where it went.

    Examples:

      bullpen responses --since 1h

      bullpen responses --failed --model gpt-5-mini --tenant acme

      bullpen responses --json --limit 100 | jq '.[] | {task_id, output}'
    """

    async def read(store: Store) -> list[BookedResponse]:
        return await recent_responses(store, limit=limit, since=since, failed=failed, model=model, tenant=tenant)

    found = from_books(read)
    if json:
        as_json(found)
    elif found:
        columns = [
            *map(words, ("WHEN", "ID", "MODEL", "WORKER")),
            figures("TIME"),
            figures("COST"),
            words("QUESTION → ANSWER"),
        ]
        show(table(columns, [_response_row(row) for row in found]))
    else:
        note("the books hold no such answer yet")


def cost(
    *,
    by: Annotated[CostKey, typer.Option(help="What to add up for")] = "model",
    since: Since = None,
    json: Json = False,
) -> None:
    """What the answers cost, by model, tenant or day.

    Examples:

      bullpen cost --by model

      bullpen cost --by day --since 7d

      bullpen cost --by tenant --json
    """
    found = from_books(lambda store: cost_by(store, by, since=since))
    if json:
        as_json(found)
    elif found:
        columns = [words(by.upper()), *map(figures, ("REQUESTS", "TOKENS", "COST")), words("COST UNKNOWN FOR")]
        show(table(columns, [*map(_cost_row, found), _total(found, by)]))
    else:
        note("the books hold no answer yet")


def _response_row(row: BookedResponse) -> list[RenderableType]:
    said = text(one_line(row.prompt or "", SHOWN_CHARACTERS)).append(" → ", style="dim")
    if row.status == "ok":
        said.append_text(text(one_line(row.output or "", SHOWN_CHARACTERS)))
    else:
        said.append_text(text(one_line(f"{row.error_code}: {row.error_message}", SHOWN_CHARACTERS), "red"))
    price = Text(UNKNOWN, style="dim") if row.cost_usd is None else Text(money(row.cost_usd))
    return [
        ago(row.created_at),
        str(row.request_id)[-SHORT_ID:],
        text(row.model_id or UNKNOWN),
        text(row.worker_id or UNKNOWN),
        duration(row.duration_ms),
        price,
        said,
    ]


def _cost_row(row: CostRow) -> list[RenderableType]:
    return [
        text(row.key or UNKNOWN),
        f"{row.requests:,}",
        f"{row.tokens or 0:,}",
        money(row.cost_usd),
        counted(row.unpriced, "request") if row.unpriced else "",
    ]


def _total(rows: Sequence[CostRow], by: CostKey) -> list[RenderableType]:
    """The row of sums. By model it counts no requests: a request that several models tried is in several rows."""
    known = [row.cost_usd for row in rows if row.cost_usd is not None]
    unpriced = sum(row.unpriced for row in rows)
    return [
        Text("in all", style="bold"),
        "" if by == "model" else f"{sum(row.requests for row in rows):,}",
        f"{sum(row.tokens or 0 for row in rows):,}",
        Text(money(sum(known, Decimal(0)) if known else None), style="bold"),
        counted(unpriced, "request") if unpriced and by != "model" else "",
    ]
