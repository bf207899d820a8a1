"""TLS: whom we trust, what we refuse, and that a server that dies or freezes is left as quickly as without."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.transport import TcpTransport

from bus import Bus, BusSettings, BusUnreachable
from bus.settings import DEFAULT_URL
from tests import certificates
from tests.certificates import Certificates
from tests.servers import PlainNats
from tests.support import eventually


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture
async def server(tmp_path: Path, ours: Certificates) -> AsyncIterator[PlainNats]:
    server = PlainNats(tmp_path, ours.as_config() + 'ping_interval: "1s"\n')
    await server.start()
    yield server
    server.kill()


def settings(server: PlainNats, ca: Path | None, scheme: str = "tls", host: str = "127.0.0.1") -> BusSettings:
    urls = f"{scheme}://{host}:{server.port}"
    return BusSettings.from_environment({"NATS_URL": urls, **({"NATS_CA_FILE": str(ca)} if ca else {})})


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_whose_authority_we_know_is_talked_to(
    server: PlainNats, ours: Certificates, scheme: str
) -> None:
    bus = await Bus.connect("test", settings(server, ours.ca, scheme))
    assert await _echoes(bus)
    await bus.close()


async def _echoes(bus: Bus) -> bool:
    heard: list[bytes] = []
    with bus.listen(lambda message: heard.append(message.data)) as inbox:
        await bus.publish(inbox.subject, b"echo")
        await eventually(lambda: heard == [b"echo"])
    return True


async def test_a_certificate_of_another_authority_is_reported_at_once(server: PlainNats, tmp_path: Path) -> None:
    theirs = certificates.make(tmp_path / "theirs")
    with pytest.raises(BusUnreachable, match=r"is not trusted \(.*certificate.*\): set NATS_CA_FILE"):
        await Bus.connect("test", settings(server, theirs.ca), patience=30)


async def test_an_unknown_authority_is_told_when_no_certificate_was_asked_for(server: PlainNats) -> None:
    with pytest.raises(BusUnreachable, match="set NATS_CA_FILE"):
        await Bus.connect("test", settings(server, None, "nats"), patience=30)


async def test_a_certificate_made_for_another_name_is_told(server: PlainNats, ours: Certificates) -> None:
    with pytest.raises(BusUnreachable, match=r"localhost.*the name in NATS_URL that it was made for"):
        await Bus.connect("test", settings(server, ours.ca, host="localhost"), patience=30)


@pytest.mark.parametrize("content", [None, "not a certificate"], ids=["absent", "garbage"])
async def test_a_certificate_file_of_no_use_is_told(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BusUnreachable, match=r"NATS_CA_FILE .*ca\.pem is not a readable certificate"):
        await Bus.connect("test", BusSettings(servers=(DEFAULT_URL,), ca_file=str(file)), patience=30)


@pytest.mark.parametrize(("scheme", "with_ca"), [("tls", False), ("nats", True)])
async def test_a_server_without_tls_is_not_told_our_password(
    nats_server: str, ours: Certificates, scheme: str, *, with_ca: bool
) -> None:
    url = f"{scheme}://{nats_server.rpartition('/')[2]}"
    ca = str(ours.ca) if with_ca else None
    with pytest.raises(BusUnreachable, match="does not speak TLS"):
        await Bus.connect("test", BusSettings(servers=(url,), ca_file=ca, user="u", password="p"), patience=30)


async def test_a_server_that_leaves_tls_to_us_is_talked_to_in_tls(tmp_path: Path, ours: Certificates) -> None:
    server = PlainNats(tmp_path, ours.as_config() + "allow_non_tls: true\n")
    await server.start()
    try:
        bus = await Bus.connect("test", settings(server, ours.ca))
        assert isinstance(bus.nats._transport, TcpTransport)
        assert bus.nats._transport._io_writer is not None
        assert bus.nats._transport._io_writer.get_extra_info("ssl_object") is not None
        await bus.close()
    finally:
        server.kill()


async def test_a_server_killed_and_restarted_is_found_again_over_tls(server: PlainNats, ours: Certificates) -> None:
    bus = await Bus.connect("test", settings(server, ours.ca))
    server.kill()
    await eventually(lambda: not bus.is_connected)
    await server.start()
    await eventually(lambda: bus.is_connected and bus.reconnects)
    assert await _echoes(bus)
    await bus.close()


async def test_a_frozen_server_is_left_for_another_over_tls(
    server: PlainNats, ours: Certificates, tmp_path: Path
) -> None:
    """With unsent data: nats-py alone waited 33 seconds for the old connection to close."""
    (tmp_path / "other").mkdir()
    other = PlainNats(tmp_path / "other", ours.as_config())
    await other.start()
    bus = await Bus.connect("test", settings(server, ours.ca))
    bus.nats.set_server_pool([f"tls://127.0.0.1:{other.port}"])
    server.send(signal.SIGSTOP)
    try:
        for _ in range(7):
            await bus.publish("nobody", b"x" * 1_000_000)
        await eventually(lambda: bus.reconnects >= 1 and bus.is_connected)
        assert await _echoes(bus)
    finally:
        server.send(signal.SIGCONT)
        await bus.close()
        other.kill()


async def test_leaving_while_the_server_is_taken_for_an_impostor_takes_no_time(
    server: PlainNats, ours: Certificates, tmp_path: Path
) -> None:
    bus = await Bus.connect("test", settings(server, ours.ca))
    server.kill()
    server.config = certificates.make(tmp_path / "theirs").as_config()
    await server.start()
    await asyncio.wait_for(bus.lost.wait(), 60)
    async with asyncio.timeout(30):
        await bus.close()
