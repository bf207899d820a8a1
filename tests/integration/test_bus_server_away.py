"""A server that is away, frozen or restarted, and a connection that is dead without saying so."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bus import Bus, BusError, BusSettings, Message, patched_client
from bus.connection import PENDING_BYTES
from tests.servers import NatsServer
from tests.support import eventually


async def test_a_flush_while_the_server_is_away_does_not_say_that_all_is_well(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    nats.kill()
    await eventually(lambda: not bus.is_connected)
    with pytest.raises(BusError, match="away"):
        await bus.flush(30)
    await bus.close()


async def test_what_was_said_while_the_server_was_away_arrives_up_to_a_limit_that_is_told(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data[:4]))
    await bus.flush(30)
    nats.kill()
    await eventually(lambda: not bus.is_connected)
    said: list[bytes] = []
    with pytest.raises(BusError, match=r"cannot publish on ears: the server is away, and 8 MiB wait"):
        for number in range(100):
            await bus.publish("ears", b"%04d" % number + b"x" * 500_000)
            said.append(b"%04d" % number)
    await nats.start()
    await eventually(lambda: heard == said)
    assert len(said) > 10
    await bus.close()


async def test_a_publisher_can_be_cancelled_while_the_server_takes_nothing(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False)

    async def talk() -> None:
        while True:
            await bus.publish("ears", b"x" * 1_000_000)

    nats.send(signal.SIGSTOP)
    try:
        talking = asyncio.create_task(talk())
        await eventually(lambda: bus.nats.pending_data_size > PENDING_BYTES)
        talking.cancel()
        await asyncio.wait([talking], timeout=30)
        assert talking.cancelled()
    finally:
        nats.kill()
        await eventually(lambda: not bus.is_connected)
        await bus.close()


async def test_a_bug_while_reconnecting_does_not_end_it(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    monkeypatch.setattr(patched_client, "AFTER_A_BUG", 0.1)
    greet = bus.nats._process_connect_init
    greetings: list[int] = []

    async def stumble() -> None:
        greetings.append(1)
        if len(greetings) == 1:
            raise RuntimeError("a bug")
        await greet()

    monkeypatch.setattr(bus.nats, "_process_connect_init", stumble)
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    await bus.nats.force_reconnect()
    await eventually(lambda: bus.reconnects)
    await bus.publish("ears", b"back")
    await eventually(lambda: heard == [b"back"])
    await bus.close()


async def test_the_watchdog_notices_deafness_and_reconnects(bus: Bus) -> None:
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    await bus.flush(30)
    reading = bus.nats._reading_task
    assert reading is not None
    reading.cancel()  # the read loop is dead, and the client still calls itself connected
    assert bus.is_connected
    await eventually(lambda: bus.reconnects)
    await bus.publish("ears", b"again")
    await eventually(lambda: heard == [b"again"])


async def test_a_busy_connection_is_not_taken_for_a_dead_one(bus: Bus, nats_server: str) -> None:
    """What it said to itself comes late, behind all that came before."""
    read: list[int] = []

    def slowly(message: Message) -> None:
        read.append(len(message.data))
        time.sleep(0.01)

    await bus.subscribe_inline("ears", slowly)
    await bus.flush(30)
    other = await Bus.connect("other", BusSettings(servers=(nats_server,)), watchdog=False)
    for _ in range(300):  # as much as the server need not keep for us, or it would cut a slow reader
        await other.publish("ears", b"x" * 10_000)
    await eventually(lambda: len(read) == 300)
    assert bus.reconnects == 0
    await other.close()


async def test_a_frozen_server_is_noticed_however_much_is_said_to_it(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))

    async def talk() -> None:
        while bus.is_connected:
            await bus.publish("ears", b"x" * 15_000)
            await asyncio.sleep(0.01)

    nats.send(signal.SIGSTOP)
    async with asyncio.timeout(60):
        await talk()
    nats.kill()
    await bus.close()


async def test_a_server_killed_and_restarted_is_found_again(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False)
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    nats.kill()
    await eventually(lambda: not bus.is_connected)
    await nats.start()
    await eventually(lambda: bus.is_connected and bus.reconnects == 1)
    await bus.publish("ears", b"back")
    await eventually(lambda: heard == [b"back"])
    await asyncio.sleep(1.5)  # longer than an old connection may take to close; nothing tells of that
    assert bus.is_connected
    assert bus.reconnects == 1  # the new connection is left alone
    await bus.close()


async def test_a_frozen_server_is_left_for_another(nats: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = NatsServer(tmp_path / "other")
    await other.start()
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    bus.nats.set_server_pool([nats.url, other.url])
    nats.send(signal.SIGSTOP)
    try:
        await eventually(lambda: bus.reconnects >= 1 and bus.is_connected)
    finally:
        nats.send(signal.SIGCONT)
        await bus.close()
        other.stop()


async def test_a_client_closed_for_good_says_so(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    await bus.nats._process_err("'maximum connections exceeded'")
    async with asyncio.timeout(30):
        await bus.lost.wait()
    await bus.close()


async def test_a_question_under_way_survives_a_restart_of_the_server(nats: NatsServer) -> None:
    settings = BusSettings(servers=(nats.url,))
    asker, answerer = await Bus.connect("asker", settings), await Bus.connect("answerer", settings)
    asked: list[str] = []
    await answerer.subscribe_inline("question", lambda message: asked.append(message.reply))
    await answerer.flush(30)
    asking = asyncio.create_task(asker.request("question", b"", timeout=90))
    await eventually(lambda: asked)
    nats.kill()
    await eventually(lambda: not asker.is_connected and not answerer.is_connected)
    await nats.start()
    await eventually(lambda: asker.is_connected and asker.reconnects and answerer.is_connected and answerer.reconnects)
    await asker.flush(30)  # the server knows of its inbox
    await answerer.publish(asked[0], b"answer")
    assert (await asking).data == b"answer"
    await asker.close()
    await answerer.close()


async def test_closing_is_not_cancelled_with_somebody_else_who_waits_for_its_end(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False)
    transport = bus.nats._transport
    assert transport is not None
    waiting = asyncio.create_task(transport.wait_closed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await bus.close()
    assert bus.nats.is_closed
    assert not bus.lost.is_set()


async def test_closing_ourselves_is_not_being_lost(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    await bus.close()
    assert not bus.lost.is_set()


async def test_a_connection_that_closed_with_bytes_to_send_can_be_aborted_still() -> None:
    """asyncio's transport has then forgotten its loop; the exception once ended reconnecting for ever."""
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing.wait()
        received.set_result(await reader.read())
        writer.close()

    closing = asyncio.Event()
    async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 20_000_000)
        writer.close()
        closing.set()
        assert len(await received) == 20_000_000
        await writer.wait_closed()
        patched_client._abort(writer)
