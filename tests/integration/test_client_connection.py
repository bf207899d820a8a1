"""The client whose connection breaks, or that may not ask."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bus import Message
from client import Bullpen, BusError, BusUnreachable
from contracts import Chunk, FinalResponse, Resumed
from tests.fake_manager import FakeManager
from tests.servers import NatsServer, PlainNats
from tests.support import eventually


@pytest.mark.usefixtures("trusting")
async def test_a_question_asked_while_nats_is_away_leaves_when_it_is_back(
    manager: FakeManager, bp: Bullpen, nats: NatsServer
) -> None:
    nats.kill()
    await eventually(lambda: not bp.bus.is_connected)
    asking = asyncio.create_task(bp.ask("hi", deadline_ms=60_000))
    called_off = asyncio.create_task(bp.ask("never mind"))
    await asyncio.sleep(0.5)
    called_off.cancel()
    await asyncio.wait({called_off})
    await nats.start()
    assert (await asking).output == "Paris"
    [(message, _)] = manager.requests
    assert int(message.headers["Bullpen-Deadline"]) / 1000 - time.time() < 59.6, "the deadline began to run when asked"


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_frozen_is_no_lost_manager(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    async def slowly(message: Message, task_id: str) -> None:
        await asyncio.sleep(0.3)
        await manager.answer(message, task_id)

    manager.script = slowly
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    nats.send(signal.SIGSTOP)
    await asyncio.sleep(1.5)
    nats.send(signal.SIGCONT)
    assert (await asking).output == "Paris"
    assert len(manager.requests) == 1


async def test_pieces_lost_with_the_connection_come_again(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    async def over_two_connections(message: Message, task_id: str) -> None:
        if len(manager.requests) > 1:
            await manager.answer(message, task_id)
            return
        await manager.chunks(message, task_id, "Pa")
        await eventually(lambda: bp.bus.reconnects and manager.bus.reconnects)
        await manager.chunks(message, task_id, "is", first=2)
        await manager.final(message, task_id)

    manager.script = over_two_connections
    events = bp.stream("hi")
    first = await anext(events)
    nats.kill()
    await nats.start()
    rest = [event async for event in events]
    assert [type(event) for event in (first, *rest)] == [Chunk, Resumed, Chunk, Chunk, Chunk, FinalResponse]
    assert "".join(event.delta for event in rest if isinstance(event, Chunk)) == "Paris"


async def test_an_answer_still_arrives_after_a_reconnect(manager: FakeManager, bp: Bullpen, nats: NatsServer) -> None:
    manager.script = manager.silence
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    nats.kill()
    await nats.start()
    await eventually(lambda: bp.bus.is_connected and bp.bus.reconnects and manager.bus.reconnects)
    message, request = manager.requests[0]
    await manager.answer(message, request["task_id"])
    assert (await asking).output == "Paris"


async def test_a_connection_lost_for_good_fails_the_question_at_once(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = manager.silence
    asking = asyncio.create_task(bp.ask("hi"))
    await eventually(lambda: manager.requests)
    await bp.bus.nats.close()
    with pytest.raises(BusError, match="lost for good"):
        await asking


async def test_who_may_not_ask_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_USER", "u")
    monkeypatch.setenv("NATS_PASSWORD", "p")
    server = PlainNats(
        tmp_path, 'authorization {users: [{user: u, password: p, permissions: {publish: {deny: "infer.>"}}}]}'
    )
    await server.start()
    try:
        async with Bullpen.connect(server.url) as bp:
            with pytest.raises(BusError, match=r"may not publish on infer\.auto"):
                await bp.ask("hi")
            with pytest.raises(BusError, match=r"may not publish on infer\.auto"):
                [_ async for _ in bp.stream("hi")]
    finally:
        server.kill()


async def test_no_server_is_told_with_what_to_do() -> None:
    with pytest.raises(BusUnreachable, match="bullpen up"):
        async with Bullpen.connect("nats://127.0.0.1:1"):
            pass
