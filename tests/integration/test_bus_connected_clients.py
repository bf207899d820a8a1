"""Who is connected, as every kind of server tells it. With roles and passwords: see test_nats_roles.py."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from bus import Bus, BusSettings
from bus import connected_clients as census
from tests.servers import PlainNats, nats_cluster
from tests.support import eventually


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(name, BusSettings(servers=(url,)), watchdog=False)
    try:
        yield bus
    finally:
        await bus.close()


async def test_the_embedded_server_lists_its_clients(nats_server: str) -> None:
    async with connected(nats_server, "manager:m1") as bus:
        async with connected(nats_server, "worker:local:w1"):
            assert await sees(bus, "manager:m1", "worker:local:w1")
        await eventually(lambda: sees(bus, "manager:m1"))


async def sees(bus: Bus, *names: str, within: float = 10) -> bool:
    seen = await census.connected(bus, within)
    assert seen is not None
    return sorted(seen) == sorted(names)


async def test_a_bare_server_tells_it_too(tmp_path: Path) -> None:
    server = PlainNats(tmp_path)
    await server.start()
    try:
        async with connected(server.url, "manager:m1") as bus, connected(server.url, "worker:local:w1"):
            assert await sees(bus, "manager:m1", "worker:local:w1")
    finally:
        server.stop()


async def test_a_server_that_stands_alone_is_not_waited_for(nats_server: str) -> None:
    async with connected(nats_server, "m") as bus, asyncio.timeout(60):
        assert await sees(bus, "m", within=600)


async def test_a_server_that_does_not_tell_is_no_server_without_connections(tmp_path: Path) -> None:
    denied = 'authorization {users: [{user: u, password: p, permissions: {publish: {deny: "$SYS.>"}}}]}'
    server = PlainNats(tmp_path, denied)
    await server.start()
    try:
        bus = await Bus.connect("m", BusSettings(servers=(server.url,), user="u", password="p"), watchdog=False)
        assert await census.connected(bus, within=0.1) is None
        await bus.close()
    finally:
        server.kill()


async def test_more_connections_than_fit_one_page(nats_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "PAGE", 3)
    async with AsyncExitStack() as stack:
        buses = [await stack.enter_async_context(connected(nats_server, f"w{number}")) for number in range(8)]
        assert await sees(buses[0], *(f"w{number}" for number in range(8)))


async def test_each_server_of_a_cluster_tells_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "PAGE", 1)  # the second page of one is beyond the end of the others
    nodes = nats_cluster(tmp_path)
    await asyncio.gather(*(node.start() for node in nodes))
    try:
        async with AsyncExitStack() as stack:
            first, *_ = [await stack.enter_async_context(connected(node.url, f"on-{node.port}")) for node in nodes]
            await stack.enter_async_context(connected(nodes[1].url, "another"))
            everybody = [*(f"on-{node.port}" for node in nodes), "another"]
            await eventually(lambda: sees(first, *everybody, within=1))
    finally:
        for node in nodes:
            node.kill()
