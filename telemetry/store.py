"""Postgres, and the only importer of asyncpg.

A batch of events becomes rows in one transaction. A row that exists stays as it is, so an event may be delivered again
without harm. Every call has a time limit: a frozen database is treated as one that is away, and its connections are
thrown away.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from config.loader import ConfigError
from telemetry import database_url as database
from telemetry.columns import filled

SQL = Path(__file__).parent / "sql"
OF_THE_DATA = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""Errors about the rows, not about the database: another try would not help."""
OF_THE_CONNECTION = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""Errors about the database. A connection that breaks during a commit is an "internal client error" to asyncpg."""
SESSION = {"application_name": "bullpen", "timezone": "UTC", "jit": "off"}
"""UTC, also for a time without a zone. Just-in-time compiling is off: it takes longer than our queries."""
TO_BE_DONE_WITHOUT = ("jit", "application_name")
"""Settings that a pooler in front of Postgres may refuse. They concern only speed and a name."""
CLOSE_WITHIN = 1.0
OTHER_CREDENTIALS = (
    "; DATABASE_URL has another password than the database: `bullpen init --rotate postgres` gives both a new one, "
    "or say ALTER ROLE … PASSWORD '…' there"
)
NO_CREDENTIALS = "; neither DATABASE_URL nor PGPASSWORD has a password, and PGPASSFILE has none that the database takes"
NO_TLS, NO_SUCH_SESSION = "rejected SSL upgrade", "None of the hosts match"
"""How the driver's words begin, or go on, for what a parameter asks and the server has not."""
NO_PARTITION = "no partition of relation"
"""Postgres's message for a row whose month has no partition: far in the past or the future, or without a UUIDv7 of
ours.
"""
PARTITIONED = ("responses", "attempts")

Row = asyncpg.Record
Connection: TypeAlias = "PoolConnectionProxy[Row]"
T = TypeVar("T")


class DatabaseAway(Exception):
    """The database cannot be reached, does not answer, or cannot write now. A later try may succeed."""


class RowsRefused(Exception):
    """The database will never take these rows."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that could not be booked, as it came."""

    stream_seq: int
    subject: str
    reason: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LetterKey:
    """The key of a dead letter."""

    stream_seq: int
    digest: bytes


class Store:
    """The database. Connects at the first call: the database may be away when the role starts."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._pool: asyncpg.Pool[Row] | None = None
        self._opening = asyncio.Lock()

    async def save(
        self,
        tables: Mapping[str, Sequence[bytes]],
        dead: Sequence[DeadLetter] = (),
        booked: Sequence[LetterKey] = (),
    ) -> int:
        """Stores rows (each a JSON object whose keys are columns) in one transaction; returns how many were new.

        `booked`: dead letters that are deleted in the same transaction.

        Raises `DatabaseAway`, or `RowsRefused` when the data itself is the reason.
        """

        async def work(connection: Connection) -> int:
            async with connection.transaction():
                # In one order, as the rows are: transactions that overlap never wait for each other in a circle.
                new = [await _insert(connection, table, tables[table]) for table in sorted(tables)]
                if dead:
                    await _lay_aside(connection, dead)
                if booked:
                    await _take_out(connection, booked)
            return sum(new)

        try:
            return await self.perform(work)
        except RowsRefused as error:
            if not isinstance(error.__cause__, asyncpg.CheckViolationError) or NO_PARTITION not in str(error):
                raise
        await self.perform(lambda connection: _make_partitions(connection, tables))
        return await self.perform(work)

    async def judge(self, table: str, row: bytes, letter: DeadLetter) -> str:
        """Stores the row; or stores `letter`, and returns why the row was refused.

        A row counts as refused only if the database takes the dead letter in the same transaction: a database that
        takes nothing at all says nothing about the row. Raises `DatabaseAway`.
        """

        async def work(connection: Connection) -> str:
            async with connection.transaction():
                await _lay_aside(connection, [letter])
                try:
                    async with connection.transaction():
                        await _insert(connection, table, [row])
                except OF_THE_DATA as error:
                    return _reason(error)
                key = LetterKey(letter.stream_seq, sha256(letter.body).digest())
                await _take_out(connection, [key])
            return ""

        try:
            return await self.perform(work)
        except RowsRefused as error:
            raise DatabaseAway(f"it takes no row at all: {error}") from None

    async def fetch(self, query: str, *values: Any) -> list[Row]:
        """The rows of `sql/<query>.sql`. Raises `DatabaseAway`."""

        async def work(connection: Connection) -> list[Row]:
            return list(await connection.fetch(sql(query), *values))

        return await self.perform(work)

    async def perform(self, work: Callable[[Connection], Awaitable[T]], *, within: float | None = None) -> T:
        """Does one piece of work on a connection, within `within` seconds (as given to the store).

        Raises `DatabaseAway`, `RowsRefused`. The work runs in a task of its own, because even giving up on a frozen
        database (roll back, cancel the query) would have to wait for it.
        """
        seconds = within or self._timeout
        task = asyncio.get_running_loop().create_task(self._on_connection(work))
        try:
            await asyncio.wait({task}, timeout=seconds)
            if not task.done():
                raise DatabaseAway(f"it has not answered for {seconds:g} s")
            return task.result()
        except OF_THE_DATA as error:
            raise RowsRefused(_reason(error)) from error
        except OF_THE_CONNECTION as error:
            self._forget()
            raise DatabaseAway(_reason(error) + _cure(error, self._url)) from error
        finally:
            if not task.done():
                self._forget()
                task.add_done_callback(
                    lambda task: task.cancelled() or task.exception()
                )  # its result is not needed any more
                task.cancel()
                await asyncio.wait({task}, timeout=CLOSE_WITHIN)

    async def _on_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._open()
            pool = self._pool
        async with pool.acquire() as connection:
            return await work(connection)

    async def _open(self) -> "asyncpg.Pool[Row]":
        try:
            address = database.read(self._url)
        except ConfigError as error:
            raise DatabaseAway(str(error)) from None
        settings = {**address.settings, **SESSION}
        while True:
            try:
                return await self._open_with(address, settings)
            except asyncpg.ProtocolViolationError as error:
                refused = _REFUSED.search(str(error))
                if refused is None or refused[1] not in settings:
                    raise
                if refused[1] not in TO_BE_DONE_WITHOUT:
                    raise DatabaseAway(
                        f"the pooler before Postgres refuses {refused[1]} of DATABASE_URL: take it out, and set it for "
                        "the database's user (ALTER ROLE … SET …)"
                    ) from None
                del settings[refused[1]]

    async def _open_with(self, address: database.DatabaseAddress, settings: Mapping[str, str]) -> "asyncpg.Pool[Row]":
        """Prepares a connection. No setting outlives a transaction, so a pooler may give each one another
        connection.
        """
        # Not with a smallest size: asyncpg keeps it up by itself and complains at length while the database is away.
        pool = asyncpg.create_pool(
            address.dsn,
            min_size=0,
            max_size=4,
            timeout=self._timeout,
            server_settings=dict(settings),
            statement_cache_size=0,
            reset=_no_reset,
            ssl=ssl.create_default_context() if address.trusts_system else None,
        )
        try:
            await pool
            async with pool.acquire():
                return pool
        except ValueError:
            # What asyncpg says of an address that it cannot read may quote a part of the password.
            raise DatabaseAway(
                f"DATABASE_URL is not the address of a Postgres: write {database.EXAMPLE}, "
                "special characters in the password as %XX"
            ) from None

    def _forget(self) -> None:
        """Throws all connections away without a word to the database, which may be frozen."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await pool.close()
        except TimeoutError:
            pool.terminate()


_REFUSED = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")


async def _no_reset(connection: "asyncpg.Connection[Row]") -> None:
    """Resets nothing when a connection is given back: nothing is set, locked or listened to beyond a transaction."""


@cache
def sql(name: str) -> str:
    """The text of `sql/<name>.sql`, with the columns of its table."""
    return filled(name, (SQL / f"{name}.sql").read_text(encoding="utf-8"))


async def _insert(connection: Connection, table: str, rows: Sequence[bytes]) -> int:
    status = await connection.execute(sql(f"insert_{table}"), f"[{b','.join(rows).decode()}]")
    return int(status.rpartition(" ")[2])


async def _lay_aside(connection: Connection, dead: Sequence[DeadLetter]) -> None:
    letters = zip(*((d.stream_seq, d.subject, d.reason, d.body) for d in dead), strict=True)
    await connection.execute(sql("insert_dead_letters"), *letters)


async def _take_out(connection: Connection, booked: Sequence[LetterKey]) -> None:
    keys = zip(*((key.stream_seq, key.digest) for key in booked), strict=True)
    await connection.execute(sql("delete_dead_letters"), *keys)


async def _make_partitions(connection: Connection, tables: Mapping[str, Sequence[bytes]]) -> None:
    rows = [row for table in PARTITIONED for row in tables.get(table, ())]
    await connection.execute(sql("make_partitions_for"), f"[{b','.join(rows).decode()}]")


def _reason(error: Exception) -> str:
    """The error without Postgres's DETAIL: that quotes the row, and prompts do not belong in logs."""
    message = error.message if isinstance(error, asyncpg.PostgresError) else str(error)
    return f"{type(error).__name__}: {message}".rstrip(": ")


def _cure(error: Exception, url: str) -> str:
    """What to do about a connection that was not made, with the variable at fault; empty: nothing is known."""
    if isinstance(error, asyncpg.InvalidPasswordError):
        return OTHER_CREDENTIALS if database.set_in("password", url) else NO_CREDENTIALS
    if NO_TLS in str(error) and (where := database.set_in("sslmode", url)):
        return f"; {where} wants TLS, which the server does not speak: say sslmode=prefer"
    if NO_SUCH_SESSION in str(error) and (where := database.set_in("target_session_attrs", url)):
        return f"; {where} asks for another server"
    return ""
