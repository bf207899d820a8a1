"""Postgres, and the only importer of asyncpg.

A batch of events becomes rows in one transaction; a row that is there already stays as it is, so that
delivering an event again does no harm. Every call is bounded: a frozen database is treated as one that
is away, and its connections are thrown away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

SQL = Path(__file__).parent / "sql"
OF_THE_DATA = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""Errors that say something of the rows, not of the database: trying again would not help."""

Row = asyncpg.Record
Connection = Any
"""asyncpg's connection, or the pool's stand-in for one."""
T = TypeVar("T")


class DatabaseAway(Exception):
    """The database cannot be reached, does not answer, or cannot write now. Wait and try again."""


class RowsRefused(Exception):
    """The database will never take these rows as they are."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that could not be booked, as it came."""

    stream_seq: int
    subject: str
    reason: str
    body: bytes


class Store:
    """Connects when it is first needed: the database may be away when we start."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._pool: asyncpg.Pool[Row] | None = None

    async def save(self, tables: Mapping[str, Sequence[bytes]], dead: Sequence[DeadLetter] = ()) -> int:
        """Stores rows (each a JSON object whose keys are columns) in one transaction; returns how many were new.

        Raises `DatabaseAway`, or `RowsRefused` when the data itself is the reason.
        """

        async def work(connection: Connection) -> int:
            new = 0
            async with connection.transaction():
                for table, rows in tables.items():
                    status = await connection.execute(_insert(table), f"[{b','.join(rows).decode()}]")
                    new += int(status.rpartition(" ")[2])
                for letter in dead:
                    await connection.execute(_DEAD, letter.stream_seq, letter.subject, letter.reason, letter.body)
            return new

        return await self.perform(work)

    async def fetch(self, query: str, *values: Any) -> list[Row]:
        """The rows of `sql/<query>.sql`. Raises `DatabaseAway`."""

        async def work(connection: Connection) -> list[Row]:
            return list(await connection.fetch(sql(query), *values))

        return await self.perform(work)

    async def perform(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Does one bounded piece of work on a connection. Raises `DatabaseAway`, `RowsRefused`.

        It runs in a task of its own, because even giving up on a frozen database (roll back, cancel the
        query) would wait for it.
        """
        task = asyncio.get_running_loop().create_task(self._on_connection(work))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
            if not task.done():
                raise DatabaseAway(f"it has not answered for {self._timeout:g} s")
            return task.result()
        except OF_THE_DATA as error:
            raise RowsRefused(str(error)) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            self.forget()
            raise DatabaseAway(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        finally:
            if not task.done():
                self.forget()
                task.cancel()
                await asyncio.wait({task}, timeout=1)

    async def _on_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._pool is None:
            self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=4, timeout=self._timeout)
        async with self._pool.acquire() as connection:
            return await work(connection)

    def forget(self) -> None:
        """Throws all connections away without asking the other side, which may be frozen."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1):
                await pool.close()
        except TimeoutError:
            pool.terminate()


def sql(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


_COLUMNS: dict[str, str] = {}
_DEAD = "INSERT INTO dead_letters (stream_seq, subject, reason, body) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"


def declare(table: str, columns: Sequence[str]) -> None:
    """Names the columns of a table that `save` may fill."""
    _COLUMNS[table] = ", ".join(columns)


def _insert(table: str) -> str:
    columns = _COLUMNS[table]
    # No text from outside is in here: tables and columns come from our own record classes.
    return (
        f"INSERT INTO {table} ({columns}) SELECT {columns} "  # noqa: S608 — see above
        f"FROM json_populate_recordset(NULL::{table}, $1::json) ON CONFLICT DO NOTHING"
    )
