"""A connection that only seems to be there is made anew, and the new one is left alone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bus import Bus, BusSettings, watchdog
from tests.proxy import Direction, Proxy
from tests.servers import NatsServer
from tests.support import eventually


@pytest.fixture
async def proxy(nats: NatsServer) -> AsyncIterator[Proxy]:
    async with Proxy(nats.port) as proxy:
        yield proxy


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_whoever_stood_still_makes_a_deaf_connection_anew(proxy: Proxy, direction: Direction) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(f"nats://127.0.0.1:{proxy.port}",)), watchdog=False)
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    await bus.prove()
    assert bus.reconnects == 0
    proxy.blackhole(direction)
    await bus.prove()
    await proxy.heal()
    await eventually(lambda: bus.reconnects == 1, timeout=15)
    await bus.publish("ears", b"back")
    await eventually(lambda: heard == [b"back"])
    await bus.close()


async def test_an_echo_that_went_with_its_connection_is_not_owed_by_the_next_one(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ECHO_WAIT", 1.0)
    bus = await Bus.connect("test", BusSettings(servers=(f"nats://127.0.0.1:{proxy.port}",)), watchdog=False)
    proxy.to_client.delay = 0.3
    proving = asyncio.create_task(bus.prove())
    await asyncio.sleep(0.1)  # the echo is on its way
    proxy.to_client.delay = 0.0
    proxy.reset()
    await proving
    await eventually(lambda: bus.is_connected and bus.reconnects)
    assert bus.reconnects == 1
    await bus.close()
