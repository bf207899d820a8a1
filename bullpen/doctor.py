"""Checks every part of the mesh as a user sees it, and names a cure for each fault.

A part that depends on a missing one is not checked: one cause has one finding.
"""

import asyncio
import os
import platform
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from bullpen.embedded import EmbeddedError, nats_server, postgres
from bullpen.settings_dir import kept_keys, settings_of
from bullpen.supervision.endpoints import default_data_dir
from bullpen.supervision.silence import SilentWorker, silent_workers
from bus import Bus, BusError, BusSettings, Denied, Message, NoResponders, RequestTimeout
from bus.jetstream import API, jetstream_is_there, write_refused
from client import Bullpen
from client.client import GATEWAY_SERVICE, MANAGER_SERVICE, TELEMETRY_SERVICE, ServiceInfo
from contracts import BullpenError, ControlReply, Heartbeat, ManagerReply, MeshMetrics
from contracts import subjects as s
from telemetry.database_url import read as read_database_url
from telemetry.store import DatabaseAway, Store
from telemetry.stream import CONSUMER
from telemetry.upkeep.migrate import available as migrations
from telemetry.upkeep.writing import why_not_written
from workers.base.interface.discovery import discover
from workers.base.provider.proxies import faults

OLDEST_PYTHON = (3, 11)
LOW_DISK, FULL_DISK = 2 << 30, 200 << 20
"""Free bytes below which the disk is a warning, and a failure."""
MUCH_LAG = 1000
"""Events not yet in the books above which they count as late."""
REFUSED_MS = 5000
"""Milliseconds without an acknowledged event above which a Manager's events count as late."""
WITHIN = 2.0
EVENT_WITHIN = 1.0

CLOCKS_DIFFER = 5.0
"""Seconds by which clocks must differ to count: a heartbeat may be a second or two old."""
VERSIONED = (MANAGER_SERVICE, TELEMETRY_SERVICE, GATEWAY_SERVICE)
SEE_ALL = ("observer", "admin")
AS_OBSERVER = (
    "look as a user who may see it: NATS_USER=observer NATS_PASSWORD=… NATS_INBOX_PREFIX=_INBOX bullpen doctor; "
    "the password is NATS_OBSERVER_PASSWORD in .env"
)
NEWEST_MIGRATION = "SELECT max(version) FROM schema_migrations"

State = Literal["ok", "off", "warn", "fail"]
"""`off`: the part is not in use."""
Reply = TypeVar("Reply", ControlReply, ManagerReply)


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: State
    detail: str
    cure: str = ""


async def examine(settings: BusSettings, database_url: str | None) -> AsyncIterator[Finding]:
    """Checks every part, beginning with those that others depend on."""
    for finding in (_python(), _nats_program(), _postgres_program(), _disk(default_data_dir())):
        yield finding
    for told in faults():
        yield Finding("environment", "fail", told, "then restart the workers")
    async for finding in _mesh(settings, books=database_url is not None):
        yield as_seen_by(settings, finding)
    yield await postgres_finding(database_url)
    os.environ.update(kept_keys(os.environ))
    for name, folder in discover().items():
        found = await folder.available(settings_of(name))
        state: State = "ok" if found.available else "warn" if found.is_broken else "off"
        yield Finding(f"backend {name}", state, found.reason, found.cure)


# This machine


def _python() -> Finding:
    if sys.version_info < OLDEST_PYTHON:
        return Finding("Python", "fail", platform.python_version(), "use Python 3.11 or newer")
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _nats_program() -> Finding:
    try:
        return Finding("NATS program", "ok", str(nats_server.binary()))
    except EmbeddedError as error:
        return Finding("NATS program", "warn", "`bullpen up` cannot start a server of its own", str(error))


def _postgres_program() -> Finding:
    try:
        programs = postgres.Postgres(default_data_dir() / "postgres").programs
    except EmbeddedError as error:
        return Finding("Postgres program", "warn", "`bullpen up` cannot start a database of its own", str(error))
    return Finding("Postgres program", "ok", str(programs))


def _disk(data_dir: Path) -> Finding:
    existing = next(folder for folder in (data_dir.resolve(), *data_dir.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    state: State = "fail" if free < FULL_DISK else "warn" if free < LOW_DISK else "ok"
    cure = "" if state == "ok" else "free some space, or set BULLPEN_DATA_DIR to a larger disk"
    return Finding("disk", state, f"{free / (1 << 30):.1f} GiB free for {data_dir}", cure)


# What is reached over NATS


def as_seen_by(settings: BusSettings, finding: Finding) -> Finding:
    """The finding as the user may know it. For a role's own user a failure becomes a warning, because it may not see
    every part.

    A container's role has an inbox of its own, to which only certain roles may reply.
    """
    of_a_role = settings.inbox_prefix != s.INBOX_PREFIX and settings.user not in (None, *SEE_ALL)
    if not of_a_role or finding.state == "ok":
        return finding
    return Finding(finding.part, "warn", f"as far as `{settings.user}` may see: {finding.detail}", AS_OBSERVER)


async def _mesh(settings: BusSettings, *, books: bool) -> AsyncIterator[Finding]:
    try:
        async with _bullpen(settings) as bullpen, _managers_metrics(bullpen.bus) as metrics:
            yield await _nats(bullpen.bus)
            yield await _system_events(bullpen.bus)
            for finding in await _managers(bullpen):
                yield finding
            beats = await bullpen.workers()
            silent = silent_workers({beat.worker_id for beat in beats})
            for finding in (*findings_of(beats, silent), *clocks(beats, time.time()), *await _configs(bullpen, beats)):
                yield finding
            for finding in await _gateways(bullpen):
                yield finding
            for finding in versions(beats, await bullpen.services()):
                yield finding
            async for finding in _books(bullpen, wanted=books):
                yield finding
            for finding in await _outboxes(metrics):
                yield finding
    except BusError as error:
        yield Finding("NATS", "fail", str(error), "then run this again: the mesh was not looked at")


@asynccontextmanager
async def _bullpen(settings: BusSettings) -> AsyncIterator[Bullpen]:
    bus = await Bus.connect("doctor", settings)
    try:
        yield Bullpen(bus)
    finally:
        await bus.close()


async def _nats(bus: Bus) -> Finding:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await bus.flush()
    took = (loop.time() - began) * 1000
    return Finding("NATS", "ok", f"{bus.settings.where}, {took:.1f} ms, messages up to {bus.max_payload >> 20} MiB")


async def _system_events(bus: Bus) -> Finding:
    """Whether the server reports connections that come and go: tested with a connection."""
    heard = asyncio.Event()
    subscription = await bus.subscribe_inline(s.SYS_CONNECT, lambda _: heard.set())
    await bus.flush()
    passer_by = await Bus.connect("doctor:passer-by", bus.settings, watchdog=False)
    try:
        async with asyncio.timeout(EVENT_WITHIN):
            await heard.wait()
    except TimeoutError:
        return Finding(
            "system events",
            "warn",
            f"none on {s.SYS_CONNECT}: a dead worker is noticed after seconds of silence, not at once",
            "let the server export them to this account, as the configuration in nats/ does",
        )
    finally:
        await passer_by.close()
        await subscription.stop()
    return Finding("system events", "ok", "a dead worker is noticed at once")


async def _managers(bullpen: Bullpen) -> list[Finding]:
    found = [service.id for service in await bullpen.services(MANAGER_SERVICE)]
    if not found:
        cure = "start the mesh with `bullpen up`, or one with `bullpen manager`"
        return [Finding("Managers", "fail", f"no Manager answers on {s.INFER_AUTO}", cure)]
    replies = await asyncio.gather(*(_word(bullpen.control_manager(one, "status")) for one in found))
    said = dict(zip(found, replies, strict=True))
    drains = {one for one, reply in said.items() if reply is not None and reply.state == "draining"}
    ready = [one for one in found if one not in drains]
    notes = [Finding(f"Manager {one}", "warn", "draining", f"bullpen resume {one}") for one in found if one in drains]
    notes += [_refused(f"Manager {one}", one, reply) for one, reply in said.items() if reply and reply.config_refused]
    if not ready:
        return [Finding("Managers", "fail", "none takes requests", "see each of them below"), *notes]
    return [Finding("Managers", "ok", ", ".join(ready)), *notes]


async def _gateways(bullpen: Bullpen) -> list[Finding]:
    """The gateways' addresses. A mesh without a gateway is in order: it takes requests over NATS."""
    found = await bullpen.services(GATEWAY_SERVICE)
    if not found:
        return [Finding("gateway", "ok", "none runs: this mesh is asked over NATS only")]
    return [Finding("gateway", "ok", ", ".join(f"{one.id} at {one.metadata.get('url', '?')}" for one in found))]


async def _word(asking: Awaitable[Reply]) -> Reply | None:
    """The role's status reply; None from an older version, or without the permission to ask."""
    try:
        return await asking
    except (BullpenError, Denied):
        return None


def _refused(part: str, role_id: str, reply: ControlReply | ManagerReply) -> Finding:
    """The finding about a role that goes on with its last valid config."""
    cure = f"correct it and save it, or say `bullpen reload {role_id}`"
    return Finding(part, "warn", f"its new config is not in force: {reply.config_refused}", cure)


async def _configs(bullpen: Bullpen, beats: list[Heartbeat]) -> list[Finding]:
    """Findings about workers that refused a changed config."""
    replies = await asyncio.gather(*(_word(bullpen.control(beat.worker_id, "status")) for beat in beats))
    return [_refused(f"worker {one.worker_id}", one.worker_id, one) for one in replies if one and one.config_refused]


def findings_of(beats: list[Heartbeat], silent: Sequence[SilentWorker] = ()) -> Iterator[Finding]:
    ready = [beat.worker_id for beat in beats if beat.state == "ready"]
    if ready:
        yield Finding("workers", "ok", f"ready: {', '.join(ready)}")
    elif beats or silent:
        yield Finding("workers", "fail", "none is ready", "see each of them below")
    else:
        yield Finding("workers", "fail", "none is here", "start one: `bullpen worker NAME`, or `bullpen up`")
    for beat in beats:
        if beat.state != "ready":
            cure = f"bullpen resume {beat.worker_id}" if beat.state == "draining" else ""
            yield Finding(f"worker {beat.worker_id}", "warn", f"{beat.state}: {beat.reason}".rstrip(": "), cure)
        yield from _models(beat)
    for worker in silent:
        yield Finding(f"worker {worker.worker_id}", "warn", worker.reason, worker.cure)


def clocks(beats: list[Heartbeat], now: float) -> Iterator[Finding]:
    """Findings about workers whose clocks differ from this machine's; `now` in Unix seconds.

    Answers do not suffer: Managers learn the difference. Dates in the books and logs do.
    """
    for beat in beats:
        ahead = beat.sent_at / 1000 - now if beat.sent_at is not None else 0.0
        if abs(ahead) > CLOCKS_DIFFER + (beat.interval_ms / 1000 if ahead < 0 else 0.0):
            told = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
            yield Finding(f"worker {beat.worker_id}", "warn", told, "set both clocks, for example with NTP")


def versions(beats: Sequence[Heartbeat], services: Sequence[ServiceInfo]) -> Iterator[Finding]:
    """The finding about roles of different versions. A worker that does not report its version is left out."""
    roles = {one.id: one.version for one in services if one.name in VERSIONED}
    roles |= {beat.worker_id: beat.version for beat in beats}
    found: dict[str, list[str]] = {}
    for name, version in sorted(roles.items()):
        if version:
            found.setdefault(version, []).append(name)
    if len(found) > 1:
        told = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(found.items()))
        yield Finding("versions", "warn", f"mixed: {told}", "they work together; finish the upgrade: docs/upgrading.md")


def _models(beat: Heartbeat) -> Iterator[Finding]:
    """Findings about models in trouble; other models of the same worker may be in order."""
    for card in beat.models:
        if card.trouble:
            cure = f"the log of {beat.worker_id} and `bullpen responses --failed` say more" if card.capabilities else ""
            yield Finding(f"model {card.model_id} at {beat.worker_id}", "warn", card.trouble, cure)


# The books


async def _books(bullpen: Bullpen, *, wanted: bool) -> AsyncIterator[Finding]:
    if not await jetstream_is_there(bullpen.bus):
        cure = "start the server with JetStream (`jetstream {}` in its configuration)"
        yield Finding(
            "JetStream", "warn", "this account has none: no durable jobs, and events wait with those who tell", cure
        )
    else:
        yield await jetstream_finding(bullpen.bus)
    if not wanted:
        return
    found = [service.id for service in await bullpen.services(TELEMETRY_SERVICE)]
    if found:
        yield Finding("telemetry", "ok", ", ".join(found))
    else:
        yield Finding("telemetry", "fail", "no accountant keeps the books", "start one: `bullpen telemetry`")
    yield await _lag(bullpen.bus)


async def jetstream_finding(bus: Bus) -> Finding:
    """Whether JetStream stores a message: tested by writing, because after a full disk it looks healthy but stores
    nothing.
    """
    try:
        refusal = await write_refused(bus, s.TELEMETRY_CHECK, timeout=WITHIN)
    except Denied:
        return Finding("JetStream", "ok", "it is there; whether it takes what is written, `admin` can try")
    if refusal is None:
        return Finding("JetStream", "ok", "answers wait there until they are in the books")
    cure = "free some space on the server's disk, then restart the server: it goes on refusing until then"
    if not refusal.stuck:
        cure = "raise that limit, or see why the books do not catch up"
    return Finding("JetStream", "fail", f"it keeps nothing that is written: {refusal.reason}", cure)


@asynccontextmanager
async def _managers_metrics(bus: Bus) -> AsyncIterator[dict[str, MeshMetrics]]:
    """Collects the figures that each Manager publishes every two seconds."""
    heard: dict[str, MeshMetrics] = {}

    def on_metrics(message: Message) -> None:
        with suppress(ValidationError):
            told = MeshMetrics.model_validate_json(message.data)
            heard[told.source] = told

    subscription = await bus.subscribe_inline(s.METRICS_MESH, on_metrics)
    try:
        yield heard
    finally:
        await subscription.stop()


async def _outboxes(metrics: dict[str, MeshMetrics]) -> list[Finding]:
    """Findings about Managers whose events for the books are not acknowledged. Their figures have been collected for a
    while by now.
    """
    return [
        Finding(
            f"events of {name}",
            "warn",
            f"none taken for {told.outbox_refused_ms / 1000:.0f} s: {told.outbox_refusal}; "
            f"{told.outbox_pending} wait in memory, {told.outbox_spooled_bytes >> 10} KiB on disk",
            "see JetStream and Postgres here; what waits is booked when they take it again",
        )
        for name, told in sorted(metrics.items())
        if told.outbox_refused_ms > REFUSED_MS
    ]


async def _lag(bus: Bus) -> Finding:
    """The number of events that wait for the books, as JetStream counts it."""
    try:
        subject = f"{API}.CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}"
        info = from_json((await bus.request(subject, b"", timeout=WITHIN)).data)
        waiting = int(info["num_pending"]) + int(info["num_ack_pending"])
    except Denied as error:
        return Finding("books", "warn", f"not looked at: {error}", "run this as `admin`")
    except (NoResponders, RequestTimeout, ValueError, KeyError):
        return Finding("books", "warn", "the stream of events is not there yet", "telemetry makes it when it starts")
    if waiting > MUCH_LAG:
        cure = "is Postgres slow or away? Nothing is lost: they wait in JetStream"
        return Finding("books", "warn", f"{waiting} events are not in them yet", cure)
    return Finding("books", "ok", f"{waiting} events on their way" if waiting else "up to date")


async def postgres_finding(url: str | None) -> Finding:
    if url is None:
        cure = "set DATABASE_URL, or start the mesh with `bullpen up`"
        return Finding("Postgres", "warn", "no database is named: no answer is kept", cure)
    store = Store(url, WITHIN)
    try:
        schema = await store.perform(lambda connection: connection.fetchval(NEWEST_MIGRATION))
        unwritten = await why_not_written(store)
    except DatabaseAway as error:
        return Finding("Postgres", "fail", str(error), "start it, check DATABASE_URL, then start `bullpen telemetry`")
    finally:
        await store.close()
    newest = max(migrations())
    if schema != newest:
        return Finding(
            "Postgres", "warn", f"schema {schema}, not {newest}", "start `bullpen telemetry` of this version"
        )
    if unwritten:
        return Finding("Postgres", "warn", f"schema {schema}, but {unwritten}", "see the database's own log")
    ignored = read_database_url(url).ignored
    return Finding("Postgres", "ok", f"schema {schema}{'; not used: ' if ignored else ''}{', '.join(ignored)}")
