"""The bus against a real server: every fact about nats-py that the code works around has its test here."""

import asyncio

import pytest
from nats.errors import SlowConsumerError
from structlog.testing import capture_logs

from bus import Bus, BusError, Message, NoResponders, RequestTimeout
from bus.service import EndpointStats, Service, serve_info
from contracts import BullpenError, ErrorCode
from tests.support import eventually


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


async def test_messages_that_had_to_be_dropped_are_counted_and_told_now_and_then(bus: Bus) -> None:
    slow = await bus.subscribe_inline("ears", lambda message: None)
    with capture_logs() as logs:
        for _ in range(9):
            await bus._on_error(SlowConsumerError("ears", "", 1, slow._nats))
    assert [entry["dropped"] for entry in logs] == [1, 2, 4, 8]


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


@pytest.mark.parametrize("length", [2049, 5000, 1 << 20])
async def test_a_subject_that_is_too_long_for_the_server_costs_no_connection(bus: Bus, length: int) -> None:
    with pytest.raises(BusError, match="no subject of"):
        await bus.publish("x" * length, b"")
    await bus.flush(30)
    assert bus.reconnects == 0
