"""`responses` and `cost`: what the books say."""

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.console import RenderableType
from rich.text import Text

from bullpen.cli.running import UNREACHABLE, run
from bullpen.cli.show import (
    UNKNOWN,
    ago,
    as_json,
    duration,
    figures,
    money,
    note,
    one_line,
    problem,
    show,
    table,
    text,
    words,
)
from bullpen.endpoints import resolve_database_url
from telemetry.queries import BookedResponse, CostKey, CostRow, cost_by, recent_responses
from telemetry.store import DatabaseAway, Store

DATABASE_WITHIN = 5.0
SHOWN_CHARACTERS = 60
PERIOD = re.compile(r"(\d{1,6})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

T = TypeVar("T")


def _since(given: str) -> datetime:
    """`90s`, `5m`, `1h`, `7d` or `2w` ago, or an RFC 3339 time."""
    if period := PERIOD.fullmatch(given):
        return datetime.now(UTC) - timedelta(seconds=int(period[1]) * SECONDS[period[2]])
    try:
        then = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(
            f"{given!r} is neither a period like 30m, 1h, 7d nor a time like 2026-01-31T12:00Z"
        ) from None
    return then if then.tzinfo else then.astimezone()


Since = Annotated[
    datetime | None, typer.Option(parser=_since, metavar="AGO", help="Only from then on: 30m, 1h, 7d, or a time")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def register(app: typer.Typer) -> None:
    app.command()(responses)
    app.command()(cost)


def responses(
    *,
    since: Since = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only requests that got an error")] = False,
    model: Annotated[str | None, typer.Option(help="Only this model's")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first")] = 20,
    json: Json = False,
) -> None:
    """The last answers, from the books.

    Examples:

      bullpen responses --since 1h

      bullpen responses --failed

      bullpen responses --json --limit 100 | jq '.[] | {task_id, output}'
    """

    async def read(store: Store) -> list[BookedResponse]:
        return await recent_responses(store, limit=limit, since=since, failed=failed, model=model)

    found = _from_books(read)
    if json:
        as_json(found)
    elif found:
        columns = [
            *map(words, ("WHEN", "MODEL", "WORKER")),
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
    found = _from_books(lambda store: cost_by(store, by, since=since))
    if json:
        as_json(found)
    elif found:
        columns = [words(by.upper()), *map(figures, ("REQUESTS", "TOKENS", "COST")), words("PRICE UNKNOWN FOR")]
        show(table(columns, [_cost_row(row) for row in found]))
    else:
        note("the books hold no answer yet")


def _from_books(read: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """What `read` finds in the books. Ends the process when they are off or away."""
    url = resolve_database_url()
    if url is None:
        problem("there are no books here", "start them with `bullpen up`, or set DATABASE_URL")
        raise typer.Exit(UNREACHABLE)
    found: list[T] = []

    async def work() -> None:
        store = Store(url, DATABASE_WITHIN)
        try:
            found.append(await read(store))
        finally:
            await store.close()

    try:
        run(work)
    except DatabaseAway as error:
        problem(f"the books cannot be read: {error}", "`bullpen doctor` shows what is wrong")
        raise typer.Exit(UNREACHABLE) from None
    return found[0]


def _response_row(row: BookedResponse) -> list[RenderableType]:
    said = text(one_line(row.prompt or "", SHOWN_CHARACTERS)).append(" → ", style="dim")
    if row.status == "ok":
        said.append_text(text(one_line(row.output or "", SHOWN_CHARACTERS)))
    else:
        said.append_text(text(one_line(f"{row.error_code}: {row.error_message}", SHOWN_CHARACTERS), "red"))
    price = Text(UNKNOWN, style="dim") if row.cost_usd is None else Text(money(row.cost_usd))
    return [
        ago(row.created_at),
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
        f"{row.unpriced:,} requests" if row.unpriced else "",
    ]
