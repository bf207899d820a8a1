"""No event is lost: JetStream away, slow or frozen, no stream yet, this process killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bus import Bus, BusSettings, watchdog
from bus.backoff import Backoff
from bus.jetstream import ensure_stream
from contracts import subjects as s
from outbox import outbox
from outbox.outbox import Outbox, OutboxSettings
from telemetry.config import TelemetryConfig
from telemetry.stream import spec
from tests.books import response
from tests.books_stream import stored
from tests.servers import NatsServer
from tests.support import eventually


@asynccontextmanager
async def opened(nats: NatsServer, spool: Path | None = None, **more: Any) -> AsyncIterator[Outbox]:
    settings = OutboxSettings(spool=spool and spool / "spool", **more)
    box = await Outbox.open("w-1", BusSettings(servers=(nats.url,)), settings, patience=20)
    try:
        yield box
    finally:
        await box.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may stand still for seconds, and is not left for that."""
    monkeypatch.setattr(watchdog, "ECHO_WAIT", 10.0)


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    connected = await Bus.connect("test", BusSettings(servers=(nats.url,)), patience=20, watchdog=False)
    yield connected
    await connected.close()


async def make_stream(bus: Bus) -> None:
    await ensure_stream(bus, spec(TelemetryConfig()))


def on_disk(spool: Path) -> list[bytes]:
    return [line for path in spool.rglob("*.events") for line in path.read_bytes().splitlines()]


def put(box: Outbox, *names: str) -> list[outbox.Waiting]:
    return [box.put(s.TELEMETRY_RESPONSE, response(task_id=name), name) for name in names]


async def test_what_jetstream_takes_never_touches_the_disk(
    nats: NatsServer, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACK_WITHIN", "OLD"):
        monkeypatch.setattr(outbox, name, 15.0)
    await make_stream(bus)
    async with opened(nats, tmp_path) as box:
        put(box, "a", "b")
        await eventually(lambda: box.pending == 0)
        assert box.spooled_bytes == 0
    assert len(await stored(bus)) == 2
    assert on_disk(tmp_path) == []


async def test_without_a_stream_events_go_to_disk_and_from_there_to_the_stream(
    nats: NatsServer, bus: Bus, tmp_path: Path
) -> None:
    async with opened(nats, tmp_path) as box:
        put(box, *map(str, range(200)))
        await eventually(lambda: box.pending == 0)
        assert box.spooled_bytes > 0
        await make_stream(bus)
        await eventually(lambda: box.spooled_bytes == 0)
    assert len(await stored(bus)) == 200


async def test_a_disk_that_had_no_room_at_the_start_is_used_as_soon_as_it_has(
    nats: NatsServer, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here something stands in the way of the folder."""
    monkeypatch.setattr(outbox, "REOPEN", Backoff(0.05, 0.05))
    (tmp_path / "spool").write_text("in the way")
    async with opened(nats, tmp_path) as box:
        put(box, "a", "b")
        await eventually(lambda: box.refusal)
        assert (box.spooled_bytes, box.pending) == (0, 2)
        (tmp_path / "spool").unlink()
        await eventually(lambda: box.spooled_bytes > 0 and box.pending == 0)
        await make_stream(bus)
        await eventually(lambda: box.spooled_bytes == 0)
        assert (box.refusal, box.refused_for, box.trouble) == ("", 0.0, "")
    assert len(await stored(bus)) == 2


async def test_an_outbox_says_for_how_long_nothing_is_taken_and_that_its_disk_is_full_too(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with opened(nats, tmp_path, spool_max_bytes=0) as box:
        put(box, "a")
        await eventually(lambda: "there are 0 bytes already" in box.trouble)
        assert "no subscriber on telemetry" in box.trouble
        await eventually(lambda: box.refused_for > 0.1)
        figures = {figure.name: figure.value for figure in box.figures()}
        assert figures["outbox_refused_seconds"] > 0.1
        assert figures["outbox_events"] == 1


async def test_without_a_spool_events_wait_in_memory(nats: NatsServer, bus: Bus) -> None:
    async with opened(nats) as box:
        put(box, "a", "b")
        await eventually(lambda: box.refusal)
        assert box.pending == 2
        await make_stream(bus)
        await eventually(lambda: box.pending == 0)
    assert len(await stored(bus)) == 2


async def test_what_waits_for_a_frozen_server_survives_kill_9(nats: NatsServer, bus: Bus, tmp_path: Path) -> None:
    """The next process of that role brings it to the stream."""
    await make_stream(bus)
    nats.send(signal.SIGSTOP)
    box = await _frozen(nats, tmp_path)
    put(box, *map(str, range(100)))
    await eventually(lambda: box.spooled_bytes > 0 and box.pending == 0)
    await box._tasks.cancel()  # as kill -9 does: nothing is closed in order
    assert box._spool is not None
    os.close(box._spool._lock)
    nats.send(signal.SIGCONT)
    async with opened(nats, tmp_path) as heir:
        await eventually(lambda: heir.spooled_bytes == 0)
    assert len(await stored(bus)) == 100
    await box._bus.close()


async def _frozen(nats: NatsServer, spool: Path) -> Outbox:
    """One that connected before the server froze."""
    nats.send(signal.SIGCONT)
    box = await Outbox.open("w-1", BusSettings(servers=(nats.url,)), OutboxSettings(spool=spool / "spool"), patience=20)
    nats.send(signal.SIGSTOP)
    return box


async def test_closing_an_outbox_is_quick_without_a_stream(nats: NatsServer, tmp_path: Path) -> None:
    """Not as slow as it may be while JetStream takes events: here half a minute, and then half of that is too much."""
    settings = OutboxSettings(spool=tmp_path / "spool")
    box = await Outbox.open("w-1", BusSettings(servers=(nats.url,)), settings, patience=20)
    put(box, *map(str, range(100)))
    await eventually(lambda: box.spooled_bytes > 0)
    async with asyncio.timeout(15):
        await box.close(timeout=30)
    assert len(on_disk(tmp_path)) == 100


async def test_beyond_memory_and_disk_it_is_dropped_and_said(
    nats: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_BYTES", 2000)
    async with opened(nats, tmp_path, spool_max_bytes=3000) as box:
        events = put(box, *map(str, range(50)))
        assert 0 < box.dropped < 50
        assert sum(event.is_safe for event in events) == box.dropped
        assert box.spooled_bytes <= 3000


async def test_secured_is_what_jetstream_has_or_the_disk(nats: NatsServer, bus: Bus, tmp_path: Path) -> None:
    async with opened(nats, tmp_path) as box:
        await box.secure(put(box, "before"))
        assert b"before" in on_disk(tmp_path)[0]
        await make_stream(bus)
        await eventually(lambda: box.spooled_bytes == 0)
        (after,) = put(box, "after")
        await box.secure([after])
        assert after.is_safe
    assert len(await stored(bus)) == 2


async def test_a_subscriber_may_acknowledge_instead_of_jetstream(nats: NatsServer, bus: Bus, tmp_path: Path) -> None:
    answers = [b'{"error": {"code": 503}}', b'{"stored": true}']
    taken: list[str] = []

    async def take(message: Any) -> None:
        taken.append(message.headers["Nats-Msg-Id"])
        await bus.publish(message.reply, answers[min(len(taken), 2) - 1])

    await bus.subscribe(s.TELEMETRY_ANY, take)
    await bus.flush(30)
    async with opened(nats, tmp_path) as box:
        put(box, "a")
        await eventually(lambda: len(taken) > 1 and box.spooled_bytes == 0 and not box.pending)
