"""A server that comes back to two hundred clients: they arrive spread out, each once, and leave nothing behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest
from nats.aio.client import Server

from bus import Bus, BusSettings, Message, connection
from bus import connected_clients as census
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

CLIENTS = 200
MOST_AT_ONCE = 100
"""First tries in a tenth of a second. Without jitter nearly all of them come in one."""


class Crowd:
    def __init__(self) -> None:
        self.buses: list[Bus] = []
        self.arrivals = 0
        self.tries: list[float] = []
        """When each client means to try, whatever keeps it from being punctual."""

    def follow(self, buses: list[Bus]) -> None:
        self.buses = buses
        for bus in buses:
            bus.on_reconnect.append(self._arrived)

    async def _arrived(self) -> None:
        self.arrivals += 1

    def everybody_is_back(self) -> bool:
        return all(bus.is_connected for bus in self.buses) and self.arrivals >= CLIENTS

    async def is_content(self) -> bool:
        """Nobody connects anew for longer than the watchdog needs to find fault with a connection."""
        times = [bus.reconnects for bus in self.buses]
        await asyncio.sleep(2.5)
        return [bus.reconnects for bus in self.buses] == times

    async def are_all_that_are_connected(self) -> bool:
        there = await census.connected(self.buses[0], within=10)
        return sorted(there or ()) == sorted(bus.name for bus in self.buses)

    def most_at_once(self) -> int:
        first = self.tries[:CLIENTS]
        return max(sum(start <= at < start + 0.1 for at in first) for start in first)

    async def all_hear(self) -> None:
        """Each one itself, over its new connection."""
        heard = [asyncio.Event() for _ in self.buses]
        for bus, event in zip(self.buses, heard, strict=True):
            inbox = bus.listen(_setting(event))
            await bus.publish(inbox.subject, b"")
        async with asyncio.timeout(60):
            await asyncio.gather(*(event.wait() for event in heard))


@pytest.fixture
async def crowd(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    crowd = Crowd()
    choose = connection.next_server

    def noted(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        server, wait = choose(servers, info)
        crowd.tries.append(asyncio.get_running_loop().time() + wait)
        return server, wait

    monkeypatch.setattr(connection, "next_server", noted)
    settings = BusSettings(servers=(nats.url,))
    buses = [await Bus.connect(f"client-{number}", settings) for number in range(CLIENTS)]
    crowd.tries.clear()
    crowd.follow(buses)
    yield crowd
    await asyncio.gather(*(bus.close() for bus in buses))


def _setting(event: asyncio.Event) -> Callable[[Message], None]:
    return lambda _: event.set()


def left_open() -> tuple[int, int]:
    """What this process holds: file descriptors and tasks."""
    return psutil.Process().num_fds(), len(asyncio.all_tasks())


async def test_a_restarted_server_is_not_stormed(
    nats: NatsServer, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.watchdog.ECHO_WAIT", 30.0)  # it is not to find fault with what a busy machine delays
    before = left_open()
    nats.kill()
    await eventually(lambda: not any(bus.is_connected for bus in crowd.buses))
    await nats.start()
    await eventually(crowd.everybody_is_back)
    assert crowd.most_at_once() <= MOST_AT_ONCE
    await _all_is_as_before(crowd, before)
    assert [bus.reconnects for bus in crowd.buses] == [1] * CLIENTS


async def test_a_thawed_server_is_joined_by_each_once(nats: NatsServer, crowd: Crowd) -> None:
    before = left_open()
    nats.send(signal.SIGSTOP)
    await eventually(lambda: not any(bus.is_connected for bus in crowd.buses))
    await asyncio.sleep(3)  # longer than a connection may take, so that some were opened in vain
    nats.send(signal.SIGCONT)
    await eventually(crowd.everybody_is_back)
    await _all_is_as_before(crowd, before)


async def _all_is_as_before(crowd: Crowd, before: tuple[int, int]) -> None:
    await eventually(crowd.is_content, timeout=60)
    await crowd.all_hear()
    await eventually(lambda: left_open() == before)
    await eventually(crowd.are_all_that_are_connected)
