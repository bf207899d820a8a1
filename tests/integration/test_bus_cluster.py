"""Three servers, one of them lost under load: clients move, nothing is silent, the books go on."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
from nats import errors as nats_errors

from bus import Bus, BusError, BusSettings, Message
from bus.connection import Handler
from bus.jetstream import StreamSpec, ensure_stream, jetstream_is_there
from tests.servers import PlainNats, nats_cluster
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

WITHIN = 1.0
"""Seconds after which a request is given up; none waits in silence."""
STREAM = StreamSpec(name="TELEMETRY", subjects=("telemetry.>",), max_bytes=10 << 20, replicas=3)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[PlainNats]]:
    nodes = nats_cluster(tmp_path)
    await asyncio.gather(*(node.start() for node in nodes))
    yield nodes
    for node in nodes:
        node.kill()


@asynccontextmanager
async def connected(name: str, first: PlainNats, nodes: list[PlainNats]) -> AsyncIterator[Bus]:
    """Connected to `first`, and knowing of the others."""
    bus = await Bus.connect(name, BusSettings(servers=(first.url,)))
    bus.nats.set_server_pool([node.url for node in nodes])
    try:
        yield bus
    finally:
        await bus.close()


class Caller:
    """Asks one question after the other, and keeps events until they are stored, as the outbox does."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.answered = 0
        self.failed = 0
        self.stored = 0

    async def ask(self) -> None:
        while True:
            try:
                await self.bus.request("question", b"", timeout=WITHIN)
                self.answered += 1
            except BusError:
                self.failed += 1
            await asyncio.sleep(0.01)

    async def store(self) -> None:
        while True:
            body = b"%d" % self.stored
            message_id = {"Nats-Msg-Id": f"{self.bus.name}-{self.stored}"}
            try:
                ack = await self.bus.request("telemetry.response", body, timeout=WITHIN, headers=message_id)
            except BusError:
                continue
            if b'"error"' not in ack.data:
                self.stored += 1
            await asyncio.sleep(0.02)


class Load:
    """One caller and one who answers on each server."""

    def __init__(self, nodes: list[PlainNats]) -> None:
        self._nodes = nodes
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.callers: list[Caller] = []
        self.answering: list[Bus] = []

    async def __aenter__(self) -> Self:
        for number, node in enumerate(self._nodes):
            bus = await self._stack.enter_async_context(connected(f"answers-{number}", node, self._nodes))
            await bus.subscribe("question", _answering(bus), queue="q")
            self.answering.append(bus)
            bus = await self._stack.enter_async_context(connected(f"asks-{number}", node, self._nodes))
            self.callers.append(Caller(bus))
        await eventually(lambda: jetstream_is_there(self.callers[0].bus))
        await eventually(self._stream_is_made, every=0.2)
        for caller in self.callers:
            self._tasks += [asyncio.create_task(caller.ask()), asyncio.create_task(caller.store())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._stack.aclose()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def buses(self) -> list[Bus]:
        return [*self.answering, *(caller.bus for caller in self.callers)]

    async def goes_on(self, timeout: float = 60) -> None:
        """Everybody is answered again and again, and stores again, without another failure for a second."""
        await eventually(self._quiet_second, timeout=timeout)

    async def _quiet_second(self) -> bool:
        before = [(c.answered, c.failed, c.stored) for c in self.callers]
        await asyncio.sleep(1)
        after = [(c.answered, c.failed, c.stored) for c in self.callers]
        return all(a[0] > b[0] and a[1] == b[1] and a[2] > b[2] for b, a in zip(before, after, strict=True))

    async def _stream_is_made(self) -> bool:
        try:
            await ensure_stream(self.callers[0].bus, STREAM)
        except BusError:
            return False
        return True


def _answering(bus: Bus) -> Handler:
    async def answer(message: Message) -> None:
        await bus.publish(message.reply, b"answer")

    return answer


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_one_server_of_three_is_lost_under_load(nodes: list[PlainNats], number: signal.Signals) -> None:
    async with Load(nodes) as load:
        await load.goes_on()
        lost, *others = nodes
        lost.send(number)
        await load.goes_on()
        await eventually(lambda: all(bus.is_connected for bus in load.buses))
        assert not any(bus.lost.is_set() for bus in load.buses)
        assert {_port(bus) for bus in load.buses} <= {node.port for node in others}
        if number is signal.SIGSTOP:
            lost.send(signal.SIGCONT)
            await load.goes_on()
        await load.stop()
        await eventually(lambda: _all_is_stored(load))
        for caller in load.callers:
            print(caller.bus.name, caller.answered, caller.failed, caller.stored)


def _port(bus: Bus) -> int | None:
    url = bus.nats.connected_url
    return url.port if url else None


async def _all_is_stored(load: Load) -> bool:
    """What was acknowledged is there, once; what one was about to hear of when it was stopped may be there too."""
    try:
        info = await load.callers[0].bus.nats.jetstream().stream_info(STREAM.name)
    except (nats_errors.Error, TimeoutError):
        return False
    acknowledged = sum(caller.stored for caller in load.callers)
    assert acknowledged <= info.state.messages <= acknowledged + len(load.callers)
    return True
