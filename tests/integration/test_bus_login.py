"""Which server, and who we are there."""

import asyncio
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bus import Bus, BusSettings, BusUnreachable
from tests.proxy import Proxy
from tests.servers import NatsServer, PlainNats, nats_cluster
from tests.support import eventually


async def test_wrong_credentials_are_told_at_once(nats: NatsServer) -> None:
    settings = BusSettings(servers=(nats.url,), user="nobody", password="wrong")
    async with asyncio.timeout(60):
        with pytest.raises(BusUnreachable, match="refuses the connection"):
            await Bus.connect("test", settings, patience=600)


async def test_no_server_is_told_with_what_to_do() -> None:
    with pytest.raises(BusUnreachable, match="bullpen up"):
        await Bus.connect("test", BusSettings(servers=("nats://127.0.0.1:1",)))


async def test_one_dead_server_of_two_is_no_loss(nats_server: str) -> None:
    for _ in range(6):  # which one is tried first is a matter of chance
        bus = await Bus.connect("test", BusSettings(servers=("nats://127.0.0.1:1", nats_server)))
        assert bus.is_connected
        assert not bus.lost.is_set()
        await bus.close()


async def test_a_stop_ends_the_patience() -> None:
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(60):
        with pytest.raises(BusUnreachable):
            await Bus.connect("test", BusSettings(servers=("nats://127.0.0.1:1",)), patience=600, stop=stop)


async def test_patience_waits_for_a_server_that_starts_later(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    connecting = asyncio.create_task(Bus.connect("test", BusSettings(servers=(server.url,)), patience=60))
    await asyncio.wait({connecting}, timeout=0.2)  # it tries in vain
    await server.start()
    try:
        bus = await connecting
        assert bus.is_connected
        await bus.close()
    finally:
        server.stop()


async def test_a_server_that_lets_us_in_no_more_is_no_reason_to_wait_in_silence(tmp_path: Path) -> None:
    users = "authorization {{users: [{{user: u, password: {}}}]}}"
    server = PlainNats(tmp_path, users.format("old"))
    await server.start()
    try:
        bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="old"))
        server.kill()
        server.config = users.format("new")
        await server.start()
        with capture_logs() as logs:
            await asyncio.wait_for(bus.lost.wait(), 60)
        assert "check NATS_USER and NATS_PASSWORD" in next(e["error"] for e in logs if e["event"] == "bus_refused")
        await bus.close()
    finally:
        server.kill()


@pytest.mark.parametrize("url", ["nats://host:port", "::::", "nats://", "http://host:1", "nats://a b:1", "nats://h:0"])
async def test_an_address_that_leads_nowhere_is_named_at_once(url: str) -> None:
    with pytest.raises(BusUnreachable, match="is not a server's address") as told:
        await Bus.connect("test", BusSettings(servers=("nats://127.0.0.1:1", url)), patience=10)
    assert url in str(told.value)


async def test_a_wrong_address_does_not_show_its_password() -> None:
    with pytest.raises(BusUnreachable) as told:
        await Bus.connect("test", BusSettings(servers=("nats://me:secret@:4222",)))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("auth", "login"),
    [
        ('user: "a:b", password: "p@s/s#é%"', "a%3Ab:p%40s%2Fs%23%C3%A9%25"),
        ('token: "t@k/én"', "t%40k%2F%C3%A9n"),
        ('user: u, password: "p@ss?#"', "u:p@ss?#"),
    ],
)
async def test_a_login_in_the_address_is_decoded_also_after_a_reconnect(tmp_path: Path, auth: str, login: str) -> None:
    server = PlainNats(tmp_path, f"authorization {{{auth}}}")
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(f"nats://{login}@127.0.0.1:{server.port}",)))
    server.kill()
    await server.start()
    await eventually(lambda: bus.is_connected and bus.reconnects)
    await bus.flush(30)
    await bus.close()
    server.kill()


async def test_a_server_that_was_only_heard_of_is_told_the_login_too(tmp_path: Path) -> None:
    first, second = nats_cluster(tmp_path, 2, 'authorization {user: u, password: "p@ss"}\njetstream {\n}\n')
    await asyncio.gather(first.start(), second.start())
    bus = await Bus.connect("test", BusSettings(servers=(f"nats://u:p%40ss@127.0.0.1:{first.port}",)))
    await eventually(lambda: len(bus.nats.servers) == 2)
    first.kill()
    await eventually(lambda: bus.is_connected and bus.reconnects)
    await bus.flush(30)
    await bus.close()
    second.kill()


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_a_server_on_ipv6_is_found(nats: NatsServer) -> None:
    async with Proxy(nats.port, listen="::1") as proxy:
        bus = await Bus.connect("test", BusSettings(servers=(f"nats://[::1]:{proxy.port}",)))
        await bus.flush(30)
        await bus.close()
