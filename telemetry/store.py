"""Postgres, and the only importer of asyncpg.

A batch of events becomes rows in one transaction; a row that is there already stays as it is, so that
delivering an event again does no harm. Every call is bounded: a frozen database is treated as one that
is away, and its connections are thrown away.
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
"""Errors that say something of the rows, not of the database: trying again would not help."""
OF_THE_CONNECTION = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""The rest. A connection that breaks in the middle of a commit is an "internal client error" to asyncpg."""
SESSION = {"application_name": "bullpen", "timezone": "UTC", "jit": "off"}
"""UTC also for a time that comes without its zone. Compiling takes longer than running what we ask."""
TO_BE_DONE_WITHOUT = ("jit", "application_name")
"""What a pooler in front of Postgres may refuse to set: nothing but speed and a name depends on it."""
CLOSE_WITHIN = 1.0
OTHER_CREDENTIALS = (
    "; DATABASE_URL has another password than the database: `bullpen init --rotate postgres` gives both a new one, "
    "or say ALTER ROLE … PASSWORD '…' there"
)
NO_CREDENTIALS = "; neither DATABASE_URL nor PGPASSWORD has a password, and PGPASSFILE has none that the database takes"
NO_TLS, NO_SUCH_SESSION = "rejected SSL upgrade", "None of the hosts match"
"""How the driver's words begin, or go on, for what a parameter asks and the server has not."""
NO_PARTITION = "no partition of relation"
"""What Postgres says of a row whose month is not there: far in the past or the future, or not a UUIDv7 of ours."""
PARTITIONED = ("responses", "attempts")

Row = asyncpg.Record
Connection: TypeAlias = "PoolConnectionProxy[Row]"
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


@dataclass(frozen=True, slots=True)
class LetterKey:
    """Which letter of `dead_letters`."""

    stream_seq: int
    digest: bytes


class Store:
    """Connects when it is first needed: the database may be away when we start."""

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

        `booked`: letters that leave `dead_letters` with it.

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
        """Stores the row, or lays it aside as `letter` and returns why it is refused.

        It is refused only if the database takes the letter in the same transaction: one that takes nothing at all now
        says nothing of the row. Raises `DatabaseAway`.
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
        """Does one piece of work on a connection, bounded to `within` seconds (as given to the store).

        Raises `DatabaseAway`, `RowsRefused`. It runs in a task of its own, because even giving up on a frozen
        database (roll back, cancel the query) would wait for it.
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
        """Nothing outlives a transaction, so that a pooler may give each one to another connection."""
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
        """Throws all connections away without asking the other side, which may be frozen."""
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
    """A connection is given back as it was got: nothing is set, locked or listened to beyond a transaction."""


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
    """What is wrong, without Postgres's DETAIL: it quotes the row, and prompts do not belong in logs."""
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
