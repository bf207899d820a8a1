"""How fast the books are written: from a filled stream to committed rows, against the bare insert of the same rows.

One NATS server, one Postgres and one real `bullpen telemetry` on this machine. Each round fills the stream while the
consumer is paused (one response of about 300 + 800 characters and one attempt in turn), lets the role go, and stops
the clock when everything is committed and acknowledged. Then a bare loop writes the same rows into the same, emptied
tables: one connection, arrays made beforehand, `INSERT … SELECT unnest … ON CONFLICT DO NOTHING`, as many rows per
transaction as the role's. Medians of the rounds.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from benchmarks import results
from bullpen.supervision.leash import leashed
from bus import Bus, BusError, BusSettings
from bus.jetstream import api
from contracts import AttemptRecord, OpenModel, Outcome, Price, ResponseRecord, new_id, utc_now
from contracts import subjects as s
from contracts.headers import MESSAGE_ID
from telemetry.stream import CONSUMER
from tests.servers import NatsServer, PostgresServer

IN_BATCH = 500
"""Rows per transaction, as `batch_size` in telemetry/config.yaml."""
PRICE = Price(input_per_mtok=Decimal("0.15"), output_per_mtok=Decimal("0.60"))
PROMPT_CHARACTERS, OUTPUT_CHARACTERS = 300, 800
WITHIN = 300.0
"""Seconds for a round."""
CONSUMER_OF_STREAM = f"{s.TELEMETRY_STREAM}.{CONSUMER}"
COLUMNS = """
    SELECT attname::text, format_type(atttypid, NULL)
    FROM pg_attribute
    WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
"""


@dataclass(frozen=True)
class Table:
    name: str
    subject: str
    rows: list[OpenModel]


async def run(rounds: int, events: int) -> None:
    """Measures, prints a table, writes `benchmarks/results/ingest.json`."""
    await asyncio.to_thread(lambda: uvloop.run(_measure_all(rounds, events)))


async def _measure_all(rounds: int, events: int) -> None:
    ours: list[float] = []
    bare: list[float] = []
    with _folders() as directory:
        async with _stage(directory) as (bus, connection):
            for number in range(rounds):
                tables = await asyncio.to_thread(_made, events // 2)  # NATS cuts off who is busy for long
                ours.append(await _through_the_stream(bus, connection, tables))
                bare.append(await _bare(connection, tables))
                print(f"round {number + 1}: {ours[-1]:8.0f} rows/s, bare {bare[-1]:8.0f} rows/s", flush=True)
    _report(ours, bare, events)


@contextmanager
def _folders() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # Postgres runs as somebody else when we are root
        for server in ("nats", "postgres"):
            (directory / server).mkdir()
        yield directory


@asynccontextmanager
async def _stage(directory: Path) -> AsyncIterator[tuple[Bus, "asyncpg.Connection[asyncpg.Record]"]]:
    nats, postgres = NatsServer(directory / "nats"), PostgresServer(directory / "postgres")
    try:
        await asyncio.gather(nats.start(), postgres.start())
        with _role(nats.url, postgres.url):
            bus = await Bus.connect("benchmark", BusSettings(servers=(nats.url,)))
            await _until_joined(bus)
            connection = await asyncpg.connect(postgres.url)
            yield bus, connection
            await connection.close()
            await bus.close()
    finally:
        nats.kill()
        postgres.stop()


@contextmanager
def _role(nats_url: str, database_url: str) -> Iterator[None]:
    environment = {"NATS_URL": nats_url, "DATABASE_URL": database_url, "BULLPEN_LOG_LEVEL": "warning"}
    command = leashed([sys.executable, "-m", "bullpen", "telemetry", "--id", "bench"])
    role = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        yield
    finally:
        role.terminate()
        role.wait()


async def _until_joined(bus: Bus) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            await _waiting(bus)
        except BusError:
            if time.monotonic() > end:
                sys.exit("the telemetry role does not start")
            await asyncio.sleep(0.05)
        else:
            return


def _made(count: int) -> tuple[Table, Table]:
    """So many requests, each answered at the first try."""
    texts = [_text(PROMPT_CHARACTERS + OUTPUT_CHARACTERS) for _ in range(100)]
    responses: list[OpenModel] = []
    attempts: list[OpenModel] = []
    for _ in range(count):
        text, used = random.choice(texts), random.randint(20, 400)
        shared: dict[str, Any] = {
            "request_id": new_id(),
            "task_id": new_id(),
            "created_at": utc_now(),
            "model_id": f"model-{used % 10}",
            "backend": "openai",
            "worker_id": f"worker-{used % 4}",
            "prompt_tokens": used,
            "completion_tokens": 2 * used,
            "cost_usd": PRICE.cost(used, 2 * used),
            "price": PRICE,
            "duration_ms": used * 10.5,
            "ttft_ms": used * 1.25,
            "queue_ms": 0.5,
            "confidence": 0.9,
        }
        response = ResponseRecord(
            **shared,
            status="ok",
            manager_id="manager-1",
            tokens_used=3 * used,
            confidence_source="logprobs",
            finish_reason="stop",
            attempts=1,
            prompt=text[:PROMPT_CHARACTERS],
            output=text[PROMPT_CHARACTERS:],
            metadata={"tenant": f"tenant-{used % 20}"},
        )
        responses.append(response)
        attempts.append(AttemptRecord(**shared, attempt=1, epoch="e", outcome=Outcome.OK))
    return Table("responses", s.TELEMETRY_RESPONSE, responses), Table("attempts", s.TELEMETRY_ATTEMPT, attempts)


def _text(characters: int) -> str:
    words = (random.choice("aeiou bcdfghjklmnpqrstvwxyz ") for _ in range(characters))
    return "".join(words)


async def _through_the_stream(
    bus: Bus, connection: "asyncpg.Connection[asyncpg.Record]", tables: Sequence[Table]
) -> float:
    """Rows per second, from the filled stream to the last commit."""
    await _emptied(connection, tables)
    count = sum(len(table.rows) for table in tables)
    await _paused(bus, until=utc_now() + timedelta(hours=1))
    await _fill(bus, tables, count)
    started = time.perf_counter()
    await _paused(bus, until=datetime.fromtimestamp(0, UTC))
    while await _waiting(bus):
        if time.perf_counter() - started > WITHIN:
            sys.exit("the role does not keep up at all")
        await asyncio.sleep(0.02)
    taken = time.perf_counter() - started
    booked = [await connection.fetchval(f"SELECT count(*) FROM {table.name}") for table in tables]
    assert booked == [len(table.rows) for table in tables], booked
    return count / taken


async def _fill(bus: Bus, tables: Sequence[Table], count: int) -> None:
    for number, rows in enumerate(zip(*(table.rows for table in tables), strict=True)):
        for table, row in zip(tables, rows, strict=True):
            await bus.publish(table.subject, row.to_bytes(), headers={MESSAGE_ID: new_id()})
        if number % 500 == 0:
            await bus.flush()
    end = time.monotonic() + WITHIN
    while await _waiting(bus) < count:
        assert time.monotonic() < end, "the stream does not take the events"
        await asyncio.sleep(0.05)


async def _paused(bus: Bus, *, until: datetime) -> None:
    await api(bus, f"CONSUMER.PAUSE.{CONSUMER_OF_STREAM}", {"pause_until": until.isoformat()})


async def _waiting(bus: Bus) -> int:
    """Events that are not booked yet."""
    told = await api(bus, f"CONSUMER.INFO.{CONSUMER_OF_STREAM}")
    return int(told["num_pending"] + told["num_ack_pending"])


async def _bare(connection: "asyncpg.Connection[asyncpg.Record]", tables: Sequence[Table]) -> float:
    """Rows per second of the insert alone."""
    await _emptied(connection, tables)
    types = [dict(map(tuple, await connection.fetch(COLUMNS, table.name))) for table in tables]
    inserts = [await asyncio.to_thread(_insert, table, known) for table, known in zip(tables, types, strict=True)]
    started = time.perf_counter()
    for batches in zip(*(batches for _, batches in inserts), strict=True):
        async with connection.transaction():
            for (text, _), columns in zip(inserts, batches, strict=True):
                await connection.execute(text, *columns)
    return sum(len(table.rows) for table in tables) / (time.perf_counter() - started)


def _insert(table: Table, types: dict[str, str]) -> tuple[str, list[list[Sequence[Any]]]]:
    """The statement, and for each transaction an array per column."""
    names = [name for name in type(table.rows[0]).model_fields if name in types]
    arrays = ", ".join(f"${place}::{types[name]}[]" for place, name in enumerate(names, 1))
    listed = ", ".join(names)
    text = f"INSERT INTO {table.name} ({listed}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
    each = IN_BATCH // 2
    batches = [table.rows[start : start + each] for start in range(0, len(table.rows), each)]
    return text, [[[_value(row, name, types[name]) for row in batch] for name in names] for batch in batches]


def _value(row: OpenModel, name: str, kind: str) -> Any:
    if kind == "jsonb":
        return row.model_dump_json(include={name}).partition(":")[2][:-1]
    return getattr(row, name)


async def _emptied(connection: "asyncpg.Connection[asyncpg.Record]", tables: Sequence[Table]) -> None:
    await connection.execute(f"TRUNCATE {', '.join(table.name for table in tables)}")
    await connection.execute("CHECKPOINT")


def _report(ours: Sequence[float], bare: Sequence[float], events: int) -> None:
    ratio = statistics.median(mine / yardstick for mine, yardstick in zip(ours, bare, strict=True))
    figures = {
        "events_per_round": events,
        "rows_per_s": round(statistics.median(ours)),
        "bare_rows_per_s": round(statistics.median(bare)),
        "ratio": round(ratio, 3),
        "rounds_rows_per_s": [round(rate) for rate in ours],
        "rounds_bare_rows_per_s": [round(rate) for rate in bare],
    }
    print(f"from stream to committed rows: {figures['rows_per_s']} rows/s")
    print(f"bare INSERT … unnest:          {figures['bare_rows_per_s']} rows/s")
    print(f"ratio:                         {figures['ratio']}   (medians of {len(ours)} rounds)")
    limits = [
        "NATS, the role, Postgres and this program share the processors and the disk of one machine",
        "loopback only: no network latency, no TLS",
        "one accountant; several share the work, but also the database",
        "the tables are nearly empty at the start of each round",
    ]
    print(f"written to {results.write('ingest', figures, does_not_prove=limits)}")
