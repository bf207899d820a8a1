"""Rows of the books for spreadsheets and for other programs: CSV here, Parquet in `parquet.py`.

Rows are read page by page in the order of the key. So a million rows take no more memory than one page, and a slow
reader keeps nothing open in the database. Rows that are booked during the export are newer than `until`, and left out.

CSV is for people: money to the last digit, times in UTC, an empty cell for an unknown value. Names of models and
tenants, prompts and answers come from strangers. So a text that a spreadsheet would take for a formula (it begins with
= + - @, a tab or a return) gets an apostrophe before it. Parquet is exact: nothing is added.
"""

import csv
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

from contracts import OpenModel
from telemetry.columns import WORDS
from telemetry.store import Connection, Row, Store, sql

Table = Literal["responses", "attempts", "feedback", "worker_events", "grades"]

BEFORE_ALL = UUID(int=0)
KEYS: Mapping[Table, Mapping[str, Any]] = {
    "responses": {"request_id": BEFORE_ALL},
    "attempts": {"request_id": BEFORE_ALL, "attempt": -1},
    "feedback": {"feedback_id": BEFORE_ALL},
    "worker_events": {"event_id": BEFORE_ALL},
    "grades": {"grade_id": -1},
}
"""The columns of each table's key, each with a value that is smaller than any other."""
WITHOUT_TENANT: tuple[Table, ...] = ("worker_events", "grades")
WITHOUT_MODEL: tuple[Table, ...] = ("worker_events",)
PAGE = 10_000
PAGE_OF_WORDS = 500
"""Rows per page when prompts and answers are exported: one row may hold a megabyte."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ExportQuery(OpenModel):
    """Which rows of which table to export."""

    table: Table
    since: datetime
    until: datetime
    tenant: str | None = None
    model: str | None = None
    content: bool = False
    """Whether the columns in `WORDS` are exported too."""


class Column(NamedTuple):
    name: str
    kind: str
    """The type's name in Postgres: `text`, `int8`, `numeric`, `timestamptz` …"""


class NotExact(Exception):
    """A value does not fit the format without losing digits."""


class Sink(Protocol):
    """Writes rows in one format."""

    def write(self, rows: Sequence[Row]) -> None: ...


async def columns(store: Store, query: ExportQuery) -> list[Column]:
    """The columns of the export. Raises `DatabaseAway`."""

    async def describe(connection: Connection) -> list[Column]:
        statement = await connection.prepare(sql(f"export_{query.table}"))
        return [Column(attribute.name, attribute.type.name) for attribute in statement.get_attributes()]

    return [column for column in await store.perform(describe) if query.content or column.name not in WORDS]


async def export(store: Store, query: ExportQuery, sink: Sink) -> int:
    """Exports all rows; returns how many there were. Raises `DatabaseAway`."""
    count = 0
    async for rows in _pages(store, query):
        sink.write(rows)
        count += len(rows)
    return count


async def _pages(store: Store, query: ExportQuery) -> AsyncIterator[list[Row]]:
    size = PAGE_OF_WORDS if query.content else PAGE
    scope = query.since, query.until, query.tenant, query.model, query.content, size
    after = tuple(KEYS[query.table].values())
    while rows := await store.perform(_page(query.table, *scope, *after)):
        yield rows
        if len(rows) < size:
            return
        after = tuple(rows[-1][name] for name in KEYS[query.table])


def _page(table: Table, *values: Any) -> Callable[[Connection], Awaitable[list[Row]]]:
    async def read(connection: Connection) -> list[Row]:
        async with connection.transaction(readonly=True):
            # A plan that is made for any values sorts the whole table for every page.
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            return list(await connection.fetch(sql(f"export_{table}"), *values))

    return read


class Text(Protocol):
    """A text file that does not translate line ends."""

    def write(self, text: str, /) -> object: ...


class Csv:
    """Comma-separated, UTF-8, with a heading."""

    def __init__(self, file: Text, columns: Sequence[Column]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._cells = [(column.name, _CELLS[column.kind]) for column in columns]
        self._writer.writerow(column.name for column in columns)

    def write(self, rows: Sequence[Row]) -> None:
        cells = self._cells
        self._writer.writerows([cell(row[name]) for name, cell in cells] for row in rows)


def _text(value: str | None) -> str | None:
    return f"'{value}" if value and value.startswith(FORMULA) else value


def _money(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def _time(value: datetime | None) -> str | None:
    return None if value is None else f"{value:%Y-%m-%dT%H:%M:%S.%fZ}"


def _same(value: Any) -> Any:
    return value


def _truth(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


_CELLS: Mapping[str, Callable[[Any], Any]] = {
    "text": _text,
    "jsonb": _text,
    "uuid": _same,
    "numeric": _money,
    "timestamptz": _time,
    "bool": _truth,
    "int4": _same,
    "int8": _same,
    "float8": _same,
}
