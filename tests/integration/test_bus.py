"""The bus against a real server: every fact about nats-py that the code works around has its test here."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from nats.errors import SlowConsumerError
from structlog.testing import capture_logs

from bus import (
    Bus,
    BusError,
    BusSettings,
    BusUnreachable,
    Denied,
    Message,
    NoResponders,
    RequestTimeout,
    patched_client,
)
from bus.connection import PENDING_BYTES
from bus.service import EndpointStats, Service, serve_info
from contracts import BullpenError, ErrorCode
from tests.proxy import Proxy
from tests.servers import NatsServer, PlainNats, nats_cluster
from tests.support import eventually


@pytest.fixture
async def bus(nats_server: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(nats_server,)))
    yield bus
    await bus.close()


async def raw(url: str, *lines: bytes) -> None:
    """Speaks the protocol by hand, as a hostile client would."""
    host, port = url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n' + b"".join(lines) + b"PING\r\n")
    await writer.drain()
    while (line := await reader.readline()) and line != b"PONG\r\n":
        assert not line.startswith(b"-ERR"), line
    writer.close()
    await writer.wait_closed()


async def test_request_gets_the_answer_and_its_headers(bus: Bus) -> None:
    async def answer(message: Message) -> None:
        await bus.publish(message.reply, message.data.upper(), headers={"Kind": "shout"})

    await bus.subscribe("shout", answer)
    reply = await bus.request("shout", b"hello", timeout=30, headers={"A": "b"})
    assert (reply.data, reply.headers["Kind"]) == (b"HELLO", "shout")


async def test_nobody_listening_is_told_at_once(bus: Bus) -> None:
    with pytest.raises(NoResponders):
        await bus.request("nobody.here", b"", timeout=60)


async def test_silence_is_a_timeout_and_leaves_no_listener_behind(bus: Bus) -> None:
    async def silent(message: Message) -> None: ...

    await bus.subscribe("silent", silent)
    with pytest.raises(RequestTimeout):
        await bus.request("silent", b"", timeout=0.05)
    assert len(bus._inbox) <= 1  # the watchdog's own


async def test_messages_are_handled_side_by_side(bus: Bus) -> None:
    arrived = asyncio.Barrier(5)

    async def meet(message: Message) -> None:
        async with asyncio.timeout(30):
            await arrived.wait()  # would never pass if one handler waited for another
        await bus.publish(message.reply, b"met")

    await bus.subscribe("meet", meet)
    replies = await asyncio.gather(*(bus.request("meet", b"", timeout=40) for _ in range(5)))
    assert [reply.data for reply in replies] == [b"met"] * 5


async def test_oversize_is_refused_before_it_is_sent(bus: Bus) -> None:
    with pytest.raises(BullpenError) as caught:
        await bus.publish("anything", b"x" * (bus.max_payload + 1))
    assert caught.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    assert str(bus.max_payload) in caught.value.message


def fits(bus: Bus, size: int, headers: dict[str, str]) -> bool:
    try:
        bus.check_size(bytes(size), headers)
    except BullpenError:
        return False
    return True


@pytest.mark.parametrize("headers", [{}, {"A": "b"}, {"A": "\u2603" * 9}])
async def test_the_largest_message_that_we_let_through_is_one_that_the_server_takes(
    bus: Bus, headers: dict[str, str]
) -> None:
    """One that is a byte larger would end the connection for good."""
    most = next(size for size in range(bus.max_payload, 0, -1) if fits(bus, size, headers))
    heard = asyncio.Event()

    async def hear(message: Message) -> None:
        heard.set()

    await bus.subscribe("ears", hear)
    await bus.publish("ears", b"x" * most, headers=headers)
    async with asyncio.timeout(30):
        await heard.wait()
    assert not bus.lost.is_set()


@pytest.mark.parametrize(
    "poison",
    [
        b"PUB ears \xff\xfe 1\r\nx\r\n",
        b"PUB ears.\xff 1\r\nx\r\n",
        b"HPUB ears 20 21\r\nNATS/1.0 \xff\xff\xff\xff\xff\xff\xff\r\n\r\nx\r\n",
        b"HPUB ears 20 21\r\nNATS/1.0 503 \xff\xff\xff\r\n\r\nx\r\n",
        b"HPUB ears 20 21\r\nNATS/1.0\r\nA: \xff\xff\xff\r\n\r\nx\r\n",
    ],
    ids=["reply", "subject", "status", "description", "header"],
)
async def test_a_message_that_is_not_utf8_does_not_deafen_us(bus: Bus, nats_server: str, poison: bytes) -> None:
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    await bus.subscribe_inline("ears.*", lambda message: heard.append(message.data))
    await bus.flush(30)
    await raw(nats_server, poison)
    for number in range(3):
        await bus.publish("ears", b"%d" % number)
    await eventually(lambda: heard[-3:] == [b"0", b"1", b"2"])


async def test_a_cancelled_flush_does_not_deafen_us(bus: Bus) -> None:
    heard: list[bytes] = []
    await bus.subscribe_inline("ears", lambda message: heard.append(message.data))
    await bus.flush(30)
    for _ in range(3):
        flushing = asyncio.create_task(bus.nats.flush())
        await asyncio.sleep(0)
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
    await bus.publish("ears", b"still here")
    await eventually(lambda: heard == [b"still here"])
    await bus.flush(30)


async def test_a_flush_goes_after_all_that_was_said_before(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py sends its PING past what still waits to be written: a neighbour then spoke too early, to nobody."""
    wire = Wire(bus, monkeypatch)
    await bus.subscribe_inline("ears", lambda message: None)
    await bus.publish("ears", b"first")
    await bus.flush(30)
    assert [line.split()[0] for line in wire.lines if line] == [b"SUB", b"PUB", b"first", b"PING"]


class Wire:
    """Notes what is written to the server, in its order."""

    def __init__(self, bus: Bus, patch: pytest.MonkeyPatch) -> None:
        self.written = b""
        transport = bus.nats._transport
        assert transport is not None
        self._write, self._writelines = transport.write, transport.writelines
        patch.setattr(transport, "write", self.write)
        patch.setattr(transport, "writelines", self.writelines)

    @property
    def lines(self) -> list[bytes]:
        return self.written.split(b"\r\n")

    def write(self, data: bytes) -> None:
        self.written += data
        self._write(data)

    def writelines(self, data: list[bytes]) -> None:
        self.written += b"".join(data)
        self._writelines(data)


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


@pytest.mark.parametrize("way", ["subscribe", "subscribe_inline", "listen"])
async def test_a_handler_that_fails_is_told_of_and_called_again(bus: Bus, way: str) -> None:
    heard: list[bytes] = []

    def fail(message: Message) -> None:
        heard.append(message.data)
        raise ValueError(message.data)

    async def fail_later(message: Message) -> None:
        fail(message)

    subject = "ears"
    if way == "subscribe":
        await bus.subscribe(subject, fail_later)
    elif way == "subscribe_inline":
        await bus.subscribe_inline(subject, fail)
    else:
        subject = bus.listen(fail).subject
    with capture_logs() as logs:
        for number in range(3):
            await bus.publish(subject, b"%d" % number)
        await eventually(lambda: heard == [b"0", b"1", b"2"])
        await eventually(lambda: len([entry for entry in logs if entry["log_level"] == "error"]) == 3)


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
        time.sleep(0.002)

    await bus.subscribe_inline("ears", slowly)
    await bus.flush(30)
    other = await Bus.connect("other", BusSettings(servers=(nats_server,)), watchdog=False)
    for _ in range(1500):
        await other.publish("ears", b"x" * 10_000)
    await eventually(lambda: len(read) == 1500)
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


MAY_NOT = "authorization {{users: [{{user: u, password: p, permissions: {{{}}}}}]}}"


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[Bus]]]:
    """Connects to a server that gives us these permissions."""
    running: list[tuple[PlainNats, Bus]] = []

    async def connect(permissions: str) -> Bus:
        server = PlainNats(tmp_path, MAY_NOT.format(permissions))
        await server.start()
        bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"), watchdog=False)
        running.append((server, bus))
        return bus

    yield connect
    for server, bus in running:
        await bus.close()
        server.kill()


async def test_a_request_that_we_may_not_make_fails_at_once(strict: Callable[[str], Awaitable[Bus]]) -> None:
    bus = await strict("publish: {deny: Secret}")
    with pytest.raises(Denied, match="may not publish on secret: check NATS_USER"):
        await bus.request("Secret", b"", timeout=100)
    with pytest.raises(NoResponders):
        await bus.request("other", b"", timeout=100)


async def test_who_may_not_hear_answers_is_told_so(strict: Callable[[str], Awaitable[Bus]]) -> None:
    bus = await strict('subscribe: {deny: "_INBOX.>"}')
    for _ in range(2):
        with pytest.raises(Denied, match=r"may not hear answers on _inbox.* check NATS_INBOX_PREFIX"):
            await bus.request("other", b"", timeout=60)


async def test_permissions_that_changed_count_after_the_next_connection(tmp_path: Path) -> None:
    server = PlainNats(tmp_path, MAY_NOT.format('subscribe: {deny: "_INBOX.>"}'))
    await server.start()
    bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"), watchdog=False)
    try:
        with pytest.raises(Denied):
            await bus.request("other", b"", timeout=60)
        server.kill()
        server.config = MAY_NOT.format("publish: {deny: secret}")
        await server.start()
        await eventually(lambda: bus.is_connected and bus.reconnects)
        with pytest.raises(NoResponders):
            await bus.request("other", b"", timeout=60)
    finally:
        await bus.close()
        server.kill()


async def test_what_we_may_not_say_is_told_in_the_log(tmp_path: Path) -> None:
    server = PlainNats(
        tmp_path, "authorization {users: [{user: u, password: p, permissions: {publish: {deny: secret}}}]}"
    )
    await server.start()
    try:
        bus = await Bus.connect("test", BusSettings(servers=(server.url,), user="u", password="p"))
        with capture_logs() as logs:
            await bus.publish("secret", b"")
            await eventually(lambda: [entry for entry in logs if entry["event"] == "bus_denied"])
        assert "secret" in next(entry["error"] for entry in logs if entry["event"] == "bus_denied")
        assert not bus.lost.is_set()
        await bus.close()
    finally:
        server.kill()


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


async def test_messages_that_had_to_be_dropped_are_counted_and_told_now_and_then(bus: Bus) -> None:
    slow = await bus.subscribe_inline("ears", lambda message: None)
    with capture_logs() as logs:
        for _ in range(9):
            await bus._on_error(SlowConsumerError("ears", "", 1, slow._nats))
    assert [entry["dropped"] for entry in logs] == [1, 2, 4, 8]


async def test_closing_ourselves_is_not_being_lost(nats: NatsServer) -> None:
    bus = await Bus.connect("test", BusSettings(servers=(nats.url,)))
    await bus.close()
    assert not bus.lost.is_set()


async def test_draining_a_subscription_keeps_the_answers_of_work_in_flight(bus: Bus) -> None:
    """Fact 10: `nc.drain()` would close the reply inbox first and lose exactly these."""
    release = asyncio.Event()

    async def upstream(message: Message) -> None:
        await release.wait()
        await bus.publish(message.reply, b"late")

    async def relay(message: Message) -> None:
        answer = await bus.request("upstream", b"", timeout=60)
        await bus.publish(message.reply, answer.data)

    await bus.subscribe("upstream", upstream)
    front = await bus.subscribe("front", relay)
    asking = [asyncio.create_task(bus.request("front", b"", timeout=60)) for _ in range(20)]
    await eventually(lambda: len(front._tasks) == 20)
    draining = asyncio.create_task(front.drain())
    await eventually(lambda: front._nats._closed)
    release.set()
    assert [(await task).data for task in asking] == [b"late"] * 20
    await draining


async def test_service_discovery_answers_all_three_ways(bus: Bus) -> None:
    stats = EndpointStats("auto", "infer.auto", "q")
    stats.count(0.5)
    stats.count(0.1, ErrorCode.UPSTREAM_ERROR)
    await serve_info(bus, Service("bullpen-test", "t-1", "1.0.0", "a test", {"k": "v"}, (stats,)))
    for suffix in ("", ".bullpen-test", ".bullpen-test.t-1"):
        reply = await bus.request(f"$SRV.PING{suffix}", b"", timeout=30)
        assert b'"io.nats.micro.v1.ping_response"' in reply.data
    info = await bus.request("$SRV.INFO.bullpen-test", b"", timeout=30)
    assert b'"subject":"infer.auto"' in info.data
    told = await bus.request("$SRV.STATS.bullpen-test", b"", timeout=30)
    assert b'"num_requests":2,"num_errors":1,"last_error":"upstream_error"' in told.data


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


@pytest.mark.parametrize("length", [2049, 5000, 1 << 20])
async def test_a_subject_that_is_too_long_for_the_server_costs_no_connection(bus: Bus, length: int) -> None:
    with pytest.raises(BusError, match="no subject of"):
        await bus.publish("x" * length, b"")
    await bus.flush(30)
    assert bus.reconnects == 0
