"""`export`: rows of the books as CSV or Parquet."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from bullpen.cli.output import replacing
from bullpen.cli.reading import Model, Since, Tenant, Until, from_books
from bullpen.cli.running import ERROR_REPLY, usage
from bullpen.cli.show import clean, note, problem
from telemetry.reading.export import (
    WITHOUT_MODEL,
    WITHOUT_TENANT,
    Column,
    Csv,
    ExportQuery,
    NotExact,
    Sink,
    Table,
    columns,
)
from telemetry.reading.export import export as write_all
from telemetry.store import Store

Format = Literal["csv", "parquet"]

WITHIN = 120.0
FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class _Terminal:
    """Standard output on a terminal, without control characters: those in prompts and answers must not drive it."""

    def write(self, written: str) -> int:
        return sys.stdout.write(clean(written))


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    table: Annotated[Table, typer.Argument(help="Which rows", show_default=False)],
    *,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    model: Model = None,
    content: Annotated[
        bool, typer.Option("--content", help="Also what was asked and answered, metadata, and messages of errors")
    ] = False,
    format: Annotated[Format, typer.Option(help="CSV for people, Parquet for programs")] = "csv",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Where to (default: standard output)")
    ] = None,
) -> None:
    """Rows of the books as CSV or Parquet.

    They come in the order of their keys, which is that of time. CSV: money to the last digit, times in UTC, nothing
    where something is unknown. A text that a spreadsheet would take for a formula (it begins with = + - @) gets an
    apostrophe before it. Parquet has every value as it is.

    Examples:

      bullpen export responses --since 2026-10-01T00:00Z --until 2026-11-01T00:00Z --out october.csv

      bullpen export attempts --model gpt-5-mini | head

      bullpen export responses --tenant acme --content --format parquet --out acme.parquet
    """
    query = ExportQuery(
        table=table,
        since=since or FIRST,
        until=until or datetime.now(UTC),
        tenant=tenant,
        model=model,
        content=content,
    )
    _check(query, format, out)

    async def work(store: Store) -> int:
        with _sink(format, out, await columns(store, query)) as sink:
            return await write_all(store, query, sink)

    try:
        count = from_books(work, within=WITHIN)
    except NotExact as error:
        problem(str(error), "take --format csv: it has every digit")
        raise typer.Exit(ERROR_REPLY) from None
    note(f"{count:,} rows")


def _check(query: ExportQuery, format: Format, out: Path | None) -> None:
    if query.tenant is not None and query.table in WITHOUT_TENANT:
        raise usage(f"{query.table} belong to no tenant", "leave --tenant out")
    if query.model is not None and query.table in WITHOUT_MODEL:
        raise usage(f"{query.table} belong to no model", "leave --model out")
    if format == "parquet" and out is None:
        raise usage("Parquet cannot be written to standard output", "say where to: --out FILE")


@contextmanager
def _sink(format: Format, out: Path | None, columns: Sequence[Column]) -> Iterator[Sink]:
    if out is None:
        yield Csv(_Terminal() if sys.stdout.isatty() else sys.stdout, columns)
        return
    make = _parquet() if format == "parquet" else None
    with replacing(out) as path:
        if make is not None:
            with make(path, columns) as sink:
                yield sink
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                yield Csv(file, columns)


def _parquet() -> Callable[[Path, Sequence[Column]], AbstractContextManager[Sink]]:
    try:
        from telemetry.reading.parquet import Parquet  # noqa: PLC0415 — its library is an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise usage("pyarrow is not installed", "pip install 'bullpen-mesh[export]', or take --format csv") from None
    return Parquet
