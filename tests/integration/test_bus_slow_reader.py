"""A reader that stops reading is its own problem: it is cut, and nobody else waits for it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from bus import Bus, BusSettings, InboxReply, Message
from bus import connected_clients as census
from contracts import Piece
from tests.servers import NatsServer
from tests.support import eventually

SLOW = "_INBOX.slow"
PIECE = Piece("x" * 8_000)
MOST = 20_000
"""Pieces: more than twice of what the server keeps for one client."""
NOTICEABLE = 0.75
"""Seconds. What is seen is a few milliseconds; when the server holds up whoever sends, it is more than a second.

When the machine holds up everybody, pieces of a sender that has nothing to do with it all are late as well.
"""


@asynccontextmanager
async def connected(nats: NatsServer, name: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(name, BusSettings(servers=(nats.url,)), watchdog=False)
    try:
        await bus.flush(30)
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def deaf(nats: NatsServer) -> AsyncIterator[socket.socket]:
    """Subscribes, and then reads nothing any more."""
    with socket.create_connection(("127.0.0.1", nats.port)) as deaf:
        deaf.sendall(f'CONNECT {{"verbose":false,"name":"deaf"}}\r\nSUB {SLOW} 1\r\nPING\r\n'.encode())
        said = b""
        while b"PONG" not in said:
            said += deaf.recv(4096)
        yield deaf


async def test_who_does_not_read_holds_up_nobody_and_is_cut(nats: NatsServer, deaf: socket.socket) -> None:
    async with (
        connected(nats, "manager") as manager,
        connected(nats, "other") as other,
        connected(nats, "bystander") as bystander,
    ):
        assert nats.process is not None
        server = psutil.Process(nats.process.pid)
        before = server.memory_info().rss
        slow = InboxReply(manager, SLOW, "t-slow", "r-slow", streaming=True)
        async with Heartbeat(manager, other) as heartbeat, Heartbeat(bystander, other) as undisturbed:
            for number in range(MOST):
                await slow.chunk(PIECE)
                slow.delivered.clear()  # or we would be slower than what we measure
                if number % 20 == 0:
                    await asyncio.sleep(0.001)
                if slow.abandoned.is_set():
                    break
            await eventually(slow.abandoned.is_set)
            assert server.memory_info().rss - before < 300 << 20
            await eventually(lambda: _gone(other, "deaf"), every=0.1)
        assert max(heartbeat.delays) < NOTICEABLE + max(undisturbed.delays)
        assert manager.reconnects == 0


async def _gone(bus: Bus, name: str) -> bool:
    return name not in (await census.connected(bus) or {name})


class Heartbeat:
    """Another stream over a connection: how long each of its pieces is under way, in seconds."""

    def __init__(self, sender: Bus, reader: Bus) -> None:
        self.delays: list[float] = []
        self._sender = sender
        self._inbox = reader.listen(self._read)
        self._clock = asyncio.get_running_loop().time

    async def __aenter__(self) -> "Heartbeat":
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await asyncio.wait([self._beating])

    async def _beat(self) -> None:
        stream = InboxReply(self._sender, self._inbox.subject, "t-other", "r-other", streaming=True)
        for _ in range(5_000):
            await stream.chunk(Piece(str(self._clock())))
            await asyncio.sleep(0.005)

    def _read(self, message: Message) -> None:
        self.delays.append(self._clock() - float(json.loads(message.data)["delta"]))
