"""A server that comes back to two hundred clients: they arrive spread out, each once, and leave nothing behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from bus import Bus, BusSettings, Message
from bus import connected_clients as census
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

CLIENTS = 200
MOST_AT_ONCE = 100
"""Arrivals in a tenth of a second. Without jitter nearly all of them come in one."""


class Crowd:
    def __init__(self, buses: list[Bus]) -> None:
        self.buses = buses
        self.arrivals: list[float] = []
        for bus in buses:
            bus.on_reconnect.append(self._arrived)

    async def _arrived(self) -> None:
        self.arrivals.append(asyncio.get_running_loop().time())

    def everybody_is_back(self) -> bool:
        return all(bus.is_connected for bus in self.buses) and len(self.arrivals) >= CLIENTS

    def most_at_once(self) -> int:
        return max(sum(start <= arrival < start + 0.1 for arrival in self.arrivals) for start in self.arrivals)

    async def all_hear(self) -> None:
        """Each one itself, over its new connection."""
        heard = [asyncio.Event() for _ in self.buses]
        for bus, event in zip(self.buses, heard, strict=True):
            inbox = bus.listen(_setting(event))
            await bus.publish(inbox.subject, b"")
        async with asyncio.timeout(5):
            await asyncio.gather(*(event.wait() for event in heard))


@pytest.fixture
async def crowd(nats: NatsServer) -> AsyncIterator[Crowd]:
    settings = BusSettings(servers=(nats.url,))
    buses = [await Bus.connect(f"client-{number}", settings) for number in range(CLIENTS)]
    yield Crowd(buses)
    await asyncio.gather(*(bus.close() for bus in buses))


def _setting(event: asyncio.Event) -> Callable[[Message], None]:
    return lambda _: event.set()


def left_open() -> tuple[int, int]:
    """What this process holds: file descriptors and tasks."""
    return psutil.Process().num_fds(), len(asyncio.all_tasks())


async def test_a_restarted_server_is_not_stormed(nats: NatsServer, crowd: Crowd) -> None:
    before = left_open()
    nats.kill()
    await eventually(lambda: not any(bus.is_connected for bus in crowd.buses))
    await nats.start()
    await eventually(crowd.everybody_is_back, timeout=10)
    assert crowd.most_at_once() <= MOST_AT_ONCE
    await _all_is_as_before(crowd, before)
    assert [bus.reconnects for bus in crowd.buses] == [1] * CLIENTS


async def test_a_thawed_server_is_joined_by_each_once(nats: NatsServer, crowd: Crowd) -> None:
    before = left_open()
    nats.send(signal.SIGSTOP)
    await eventually(lambda: not any(bus.is_connected for bus in crowd.buses), timeout=10)
    await asyncio.sleep(3)  # longer than a connection may take, so that some were opened in vain
    nats.send(signal.SIGCONT)
    await eventually(crowd.everybody_is_back, timeout=15)
    await _all_is_as_before(crowd, before)


async def _all_is_as_before(crowd: Crowd, before: tuple[int, int]) -> None:
    await crowd.all_hear()
    times = [bus.reconnects for bus in crowd.buses]
    await asyncio.sleep(2.5)  # longer than the watchdog needs to find fault with a connection
    assert [bus.reconnects for bus in crowd.buses] == times
    assert left_open() == before
    assert sorted(await census.connected(crowd.buses[0], within=2) or ()) == sorted(bus.name for bus in crowd.buses)
