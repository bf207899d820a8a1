"""What the commands that read the books share: the connection to them, and the options for a period."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

import typer

from bullpen.cli.running import UNREACHABLE, run
from bullpen.cli.show import problem
from bullpen.supervision.endpoints import resolve_database_url
from telemetry.reading.queries import check_schema
from telemetry.store import DatabaseAway, Store
from telemetry.upkeep.migrate import SchemaMismatch

DATABASE_WITHIN = 5.0
PERIOD = re.compile(r"(\d{1,6})([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

T = TypeVar("T")


def moment(given: str) -> datetime:
    """The time: `90s`, `5m`, `1h`, `7d` or `2w` ago, or an RFC 3339 time."""
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
    datetime | None, typer.Option(parser=moment, metavar="AGO", help="Only from then on: 30m, 1h, 7d, or a time")
]
Until = Annotated[datetime | None, typer.Option(parser=moment, metavar="AGO", help="Only before then (default: now)")]
Tenant = Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's")]
Model = Annotated[str | None, typer.Option(help="Only this model's")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


class NoBooks(Exception):
    """There are no books, they cannot be reached, or another version made them."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.what, self.cure = what, cure


async def reading(read: Callable[[Store], Awaitable[T]], *, within: float = DATABASE_WITHIN) -> T:
    """The result of `read` from the books. `within`: seconds that one statement may take. Raises `NoBooks`."""
    url = resolve_database_url()
    if url is None:
        raise NoBooks("there are no books here", "start them with `bullpen up`, or set DATABASE_URL")
    store = Store(url, within)
    try:
        await check_schema(store)
        return await read(store)
    except SchemaMismatch as error:
        raise NoBooks(str(error), "") from None
    except DatabaseAway as error:
        raise NoBooks(f"the books cannot be read: {error}", "`bullpen doctor` shows what is wrong") from None
    finally:
        await store.close()


def from_books(read: Callable[[Store], Awaitable[T]], *, within: float = DATABASE_WITHIN) -> T:
    """The result of `read` from the books. Ends the process when they cannot be read.

    `within`: seconds that one statement may take.
    """
    found: list[T] = []

    async def work() -> None:
        found.append(await reading(read, within=within))

    try:
        run(work)
    except NoBooks as error:
        problem(error.what, error.cure)
        raise typer.Exit(UNREACHABLE) from None
    return found[0]
