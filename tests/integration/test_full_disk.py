"""A real disk that is full and then has room again, under a real NATS server."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bullpen.doctor import jetstream_finding
from bullpen.supervision import store_watch
from bullpen.supervision.store_watch import StoreWatch
from bus import Bus, BusSettings
from bus.jetstream import StreamSpec, ensure_stream, write_refused
from contracts import subjects as s
from tests.servers import NatsServer, PlainNats
from tests.support import eventually

SPEC = StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,))
LITTLE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of our own."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "bullpen-test", str(place)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
async def server(disk: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(disk)
    await server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(server.url,)))
    yield bus
    await bus.close()


def fill(disk: Path) -> Path:
    """Takes all the room there is; removing the file gives it back."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return filler


async def until_refused(bus: Bus) -> None:
    """Writes until the server has met the end of the disk."""

    async def refused() -> bool:
        return await write_refused(bus, s.TELEMETRY_CHECK, timeout=0.2) is not None

    await eventually(refused)


@pytest.mark.root
async def test_a_server_that_met_a_full_disk_is_restarted_as_soon_as_there_is_room(
    disk: Path, server: NatsServer, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_watch, "WITHIN", 3.0)
    monkeypatch.setattr(store_watch, "LEAST_ROOM", LITTLE)
    monkeypatch.setattr(store_watch.no_room, "__defaults__", (LITTLE,))
    told: list[str] = []
    restarts: list[float] = []

    async def restart() -> None:
        restarts.append(asyncio.get_running_loop().time())
        server.stop()
        await server.start()

    watch = StoreWatch(bus, disk, restart, told.append)
    await ensure_stream(bus, SPEC)
    await watch.look()
    assert (told, restarts) == ([], [])
    filler = fill(disk)
    await until_refused(bus)
    for _ in range(2):
        await watch.look()
    assert restarts == [], "a full disk is not mended by a restart"
    assert len(told) == 1, "said once"
    assert "the disk is full" in told[0]
    filler.unlink()
    assert await write_refused(bus, s.TELEMETRY_CHECK, timeout=0.2) is not None, "the server goes on refusing"
    await watch.look()
    assert len(restarts) == 1
    assert "restarting it" in told[-1]
    await eventually(lambda: bus.is_connected)
    await watch.look()
    assert told[-1] == "NATS keeps what is written again"


@pytest.mark.root
async def test_doctor_sees_that_nothing_is_kept_though_the_server_looks_well(
    disk: Path, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bullpen.doctor.WITHIN", 3.0)
    await ensure_stream(bus, SPEC)
    assert (await jetstream_finding(bus)).state == "ok"
    filler = fill(disk)
    await until_refused(bus)
    filler.unlink()
    found = await jetstream_finding(bus)
    assert found.state == "fail"
    assert "keeps nothing" in found.detail
    assert "restart the server" in found.cure


async def test_a_stream_that_is_full_by_its_own_limit_is_no_reason_to_restart(tmp_path: Path) -> None:
    """The server says so itself: `stuck` is kept for one that does not."""
    server = NatsServer(tmp_path)
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,)))
    try:
        assert await write_refused(bus, s.TELEMETRY_CHECK, timeout=30) is None, "there is no stream yet"
        await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,), max_bytes=256))

        async def full() -> bool:
            refusal = await write_refused(bus, s.TELEMETRY_CHECK, timeout=30)
            return refusal is not None and not refusal.stuck and "maximum bytes" in refusal.reason

        await eventually(full)
    finally:
        await bus.close()
        server.kill()


async def test_a_server_whose_jetstream_went_off_is_stuck(tmp_path: Path) -> None:
    server = PlainNats(tmp_path)
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,)))
    try:
        refusal = await write_refused(bus, s.TELEMETRY_CHECK, timeout=30)
        assert refusal is not None
        assert (refusal.stuck, refusal.reason) == (True, "JetStream is off")
    finally:
        await bus.close()
        server.kill()
