"""A stream is made and raised, never lowered; a durable consumer is pulled from at speed, and nothing gets lost."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from bus import Bus, BusError, BusSettings, pull
from bus.jetstream import JetStreamRefuses, PullConsumer, StreamSpec, api, ensure_stream, says_there_is_none
from bus.pull import ACK, TERM, settle
from tests.servers import NatsServer, PlainNats
from tests.support import eventually

SPEC = StreamSpec("S", ("s.>",), max_age_s=3600, max_bytes=64 << 20, duplicate_window_s=60)


async def config(bus: Bus) -> dict[str, object]:
    told: dict[str, object] = (await api(bus, "STREAM.INFO.S"))["config"]
    return told


async def test_what_an_operator_raised_stays_and_what_is_ours_is_put_right(bus: Bus) -> None:
    await ensure_stream(bus, SPEC)
    made = await config(bus)
    assert (made["max_bytes"], made["max_age"], made["discard"]) == (64 << 20, 3600 * 10**9, "new")
    theirs = {
        "max_bytes": 128 << 20,
        "max_age": 7200 * 10**9,
        "duplicate_window": 120 * 10**9,
        "subjects": ["s.>", "extra.>"],
        "compression": "s2",
        "description": "the accountant's",
    }
    await api(bus, "STREAM.UPDATE.S", {**made, **theirs})
    await ensure_stream(bus, SPEC)
    now = await config(bus)
    assert {key: now[key] for key in theirs} == theirs
    await api(
        bus, "STREAM.UPDATE.S", {**now, "max_bytes": 1 << 20, "max_age": 0, "discard": "old", "subjects": ["t.>"]}
    )
    await ensure_stream(bus, SPEC)
    now = await config(bus)
    assert (now["max_bytes"], now["max_age"], now["discard"]) == (64 << 20, 0, "new")
    assert now["subjects"] == ["t.>", "s.>"]


async def test_a_stream_that_fits_is_left_alone(bus: Bus) -> None:
    await ensure_stream(bus, SPEC)
    updates: list[object] = []
    await bus.subscribe_inline("$JS.EVENT.ADVISORY.STREAM.UPDATED.S", updates.append)
    await bus.flush(30)
    await ensure_stream(bus, SPEC)
    await ensure_stream(bus, StreamSpec("S", ("s.>",), max_bytes=65 << 20))
    await eventually(lambda: updates)
    await bus.flush(30)
    assert len(updates) == 1


async def test_no_jetstream_is_told_from_one_that_is_away(bus: Bus, nats: NatsServer) -> None:
    with pytest.raises(JetStreamRefuses) as refused:
        await api(bus, "STREAM.INFO.NONE")
    assert not says_there_is_none(refused.value)
    assert says_there_is_none(JetStreamRefuses("INFO", 10039, "jetstream not enabled for account"))
    nats.kill()
    with pytest.raises(BusError) as away:
        await api(bus, "INFO", timeout=0.3)
    assert not says_there_is_none(away.value)


async def test_every_message_comes_once_in_order_and_is_settled_together(bus: Bus) -> None:
    await ensure_stream(bus, SPEC)
    for number in range(1000):
        await bus.publish("s.x", b"%d" % number, headers={"Nats-Msg-Id": str(number)})
    consumer = await PullConsumer.open(bus, stream="S", durable="d")
    await eventually(lambda: pending(consumer, 1000))
    found: list[int] = []
    while len(found) < 1000:
        batch = await consumer.fetch(300, timeout=0.3)
        assert [message.stream_seq for message in batch] == [int(message.data) + 1 for message in batch]
        assert {message.deliveries for message in batch} <= {1}
        await settle(bus, batch[1:], ACK)
        await settle(bus, batch[:1], TERM)
        found += [int(message.data) for message in batch]
    assert found == list(range(1000))
    await eventually(lambda: pending(consumer, 0))
    await consumer.close()


async def pending(consumer: PullConsumer, count: int) -> bool:
    with suppress(BusError):
        return await consumer.pending() == count
    return False


async def test_what_came_and_was_not_fetched_is_given_back_at_once(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    await ensure_stream(bus, SPEC)
    for number in range(100):
        await bus.publish("s.x", b"%d" % number)
    first = await PullConsumer.open(bus, stream="S", durable="d")
    await eventually(lambda: pending(first, 100))
    monkeypatch.setattr(pull, "LINGER", 30)
    asking = asyncio.create_task(first.fetch(200, timeout=30))
    await eventually(lambda: delivered(bus, 100))
    asking.cancel()
    await asyncio.wait({asking})
    monkeypatch.undo()
    await first.close()
    second = await PullConsumer.open(bus, stream="S", durable="d")
    found: set[bytes] = set()

    async def all_came() -> bool:
        batch = await second.fetch(100, timeout=0.3)
        found.update(message.data for message in batch)
        await settle(bus, batch, ACK)
        return len(found) == 100

    await eventually(all_came)
    await second.close()


async def delivered(bus: Bus, count: int) -> bool:
    with suppress(BusError):
        return bool((await api(bus, "CONSUMER.INFO.S.d"))["num_ack_pending"] == count)
    return False


async def test_one_that_is_larger_than_asked_for_comes_alone(bus: Bus) -> None:
    await ensure_stream(bus, SPEC)
    for size in (10, 50_000, 10):
        await bus.publish("s.x", b"x" * size)
    consumer = await PullConsumer.open(bus, stream="S", durable="d")
    found: list[list[int]] = []

    async def all_came() -> bool:
        batch = await consumer.fetch(10, timeout=0.3, max_bytes=1000)
        found.append([len(message.data) for message in batch])
        await settle(bus, batch, ACK)
        return sum(map(len, found)) == 3

    await eventually(all_came)
    assert [sizes for sizes in found if sizes] == [[10], [50_000], [10]]
    await consumer.close()


async def test_a_server_that_was_killed_is_asked_again(bus: Bus, nats: NatsServer) -> None:
    await ensure_stream(bus, SPEC)
    consumer = await PullConsumer.open(bus, stream="S", durable="d")
    asking = asyncio.create_task(consumer.fetch(10, timeout=30))
    await asyncio.wait({asking}, timeout=0.1)
    nats.kill()
    await nats.start()
    await eventually(lambda: bus.is_connected and bus.reconnects)
    asking.cancel()
    await asyncio.wait({asking})
    await bus.publish("s.x", b"later")
    batch = await consumer.fetch(10, timeout=30)
    assert [message.data for message in batch] == [b"later"]
    await consumer.close()


async def test_a_consumer_that_is_gone_is_an_error(bus: Bus) -> None:
    await ensure_stream(bus, SPEC)
    consumer = await PullConsumer.open(bus, stream="S", durable="d")
    asking = asyncio.create_task(consumer.fetch(10, timeout=100))
    await eventually(lambda: waiting_pulls(bus))
    await api(bus, "CONSUMER.DELETE.S.d")
    async with asyncio.timeout(60):
        with pytest.raises(BusError, match="deleted"):
            await asking
        with pytest.raises(BusError, match="does not exist"):
            await consumer.fetch(1, timeout=100)
    await consumer.close()


async def waiting_pulls(bus: Bus) -> bool:
    with suppress(BusError):
        return bool((await api(bus, "CONSUMER.INFO.S.d"))["num_waiting"])
    return False


async def test_a_stream_takes_what_room_there_is(tmp_path: Path) -> None:
    server = PlainNats(tmp_path, f'jetstream {{store_dir: "{tmp_path}", max_file_store: 300MB}}')
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,)))
    try:
        for _ in range(2):  # made, and found
            await ensure_stream(bus, StreamSpec("S", ("s.>",), max_bytes=8 << 30))
            assert (await api(bus, "STREAM.INFO.S"))["config"]["max_bytes"] == 128 << 20
        with pytest.raises(JetStreamRefuses, match="insufficient storage"):
            await ensure_stream(bus, StreamSpec("T", ("t.>",), max_bytes=200 << 20))
    finally:
        await bus.close()
        server.kill()
