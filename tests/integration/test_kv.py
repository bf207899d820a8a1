"""Keys and values on a real JetStream: made once, changed only by who saw the last value."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats import errors as nats_errors
from nats.js.api import StreamConfig

from bus import Bus, BusError, BusSettings, kv
from bus.kv import Bucket
from contracts import new_id
from tests.servers import NatsServer, PlainNats, nats_cluster
from tests.support import eventually

NAME = "letters"


async def make(bus: Bus) -> Bucket:
    return await Bucket.open(bus, NAME, max_age_s=60, max_bytes=1 << 20)


async def config(bus: Bus) -> StreamConfig:
    return (await bus.nats.jetstream().stream_info(f"KV_{NAME}")).config


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False, patience=20)
    yield bus
    await bus.close()


async def test_a_key_is_made_once_and_changed_by_who_saw_its_last_value(bus: Bus) -> None:
    bucket = await make(bus)
    assert await bucket.get("a", within=20) is None
    first = await bucket.put("a", b"one", after=0, within=20)
    assert first
    assert await bucket.put("a", b"two", after=0, within=20) is None
    second = await bucket.put("a", b"two", after=first, within=20)
    assert second
    assert await bucket.put("a", b"three", after=first, within=20) is None
    entry = await bucket.get("a", within=20)
    assert entry
    assert (entry.value, entry.revision) == (b"two", second)


async def test_of_many_who_make_a_key_at_once_one_succeeds(bus: Bus) -> None:
    bucket = await make(bus)
    made = await asyncio.gather(*(bucket.put("a", b"x", after=0, within=20) for _ in range(50)))
    assert sum(revision is not None for revision in made) == 1


async def test_updates_made_at_the_same_time_all_count(bus: Bus) -> None:
    bucket = await make(bus)

    def counted(value: bytes) -> tuple[bytes, int]:
        number = int(value or b"0") + 1
        return str(number).encode(), number

    made = await asyncio.gather(*(bucket.update("a", counted, within=20) for _ in range(20)))
    assert sorted(made) == list(range(1, 21)), "each update saw the one before it"
    kept = await bucket.get("a", within=20)
    assert kept
    assert kept.value == b"20"


async def test_an_update_that_others_are_always_faster_than_is_an_error(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await make(bus)

    async def too_late(key: str, value: bytes, *, after: int, within: float) -> None:
        return None

    monkeypatch.setattr(bucket, "put", too_late)
    monkeypatch.setattr(kv, "UPDATE_TRIES", 3)
    with pytest.raises(BusError, match="at the same time"):
        await bucket.update("a", lambda value: (b"x", None), within=20)


async def test_a_change_is_heard_by_who_follows_the_key(bus: Bus) -> None:
    bucket = await make(bus)
    heard: list[bytes] = []
    following = await bucket.follow("a", heard.append)
    await bucket.put("b", b"another key", after=0, within=20)
    await bucket.put("a", b"one", after=0, within=20)
    await eventually(lambda: heard == [b"one"])
    await following.stop()


async def test_what_an_operator_changed_stays(bus: Bus) -> None:
    await make(bus)
    changed = await config(bus)
    changed.max_bytes = 2 << 20
    await bus.nats.jetstream().update_stream(changed)
    bucket = await make(bus)
    assert (await config(bus)).max_bytes == 2 << 20
    assert await bucket.put("a", b"x", after=0, within=20)


async def test_the_oldest_go_when_the_bucket_is_full(bus: Bus) -> None:
    bucket = await make(bus)
    for number in range(5):
        await bucket.put(f"k{number}", bytes(300 << 10), after=0, within=20)
    assert await bucket.get("k0", within=20) is None
    assert await bucket.get("k4", within=20)


async def test_without_jetstream_it_is_a_bus_error(tmp_path: Path) -> None:
    server = PlainNats(tmp_path)
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,)), patience=20)
    with pytest.raises(BusError):
        await make(bus)
    await bus.close()
    server.kill()


async def test_a_bucket_with_replicas_says_too_who_was_late(tmp_path: Path) -> None:
    nodes = nats_cluster(tmp_path)
    await asyncio.gather(*(node.start() for node in nodes))
    buses = [await Bus.connect("test", BusSettings(servers=(node.url,)), patience=20) for node in nodes]
    try:
        await eventually(lambda: _with_replicas(buses[0]), timeout=40, every=0.2)
        buckets = [await make(bus) for bus in buses]
        made: list[int] = []

        async def make_one() -> bool:
            """Many at once; not counted when one hears nothing, as while the servers choose a leader."""
            key = new_id()
            puts = (bucket.put(key, b"x", after=0, within=5) for bucket in buckets for _ in range(4))
            told = await asyncio.gather(*puts, return_exceptions=True)
            if not any(isinstance(one, BusError) for one in told):
                made.append(sum(isinstance(one, int) for one in told))
            return len(made) == 10

        await eventually(make_one, timeout=50)
        assert made == [1] * 10
    finally:
        for bus in buses:
            await bus.close()
        for node in nodes:
            node.kill()


async def _with_replicas(bus: Bus) -> bool:
    """Makes the bucket on all three servers, as soon as they have found a leader."""
    try:
        await make(bus)
        wanted = await config(bus)
        wanted.num_replicas = 3
        info = await bus.nats.jetstream().update_stream(wanted)
    except (BusError, nats_errors.Error):
        return False
    peers = info.cluster.replicas if info.cluster else None
    return len(peers or []) == 2 and all(peer.current for peer in peers or [])
