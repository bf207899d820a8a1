"""Clients that send too much, too slowly, or nonsense, by raw sockets: each is cut off, and the others are served."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from pydantic_core import from_json

from gateway import streaming
from gateway.connection import LONGEST_HEADER, LONGEST_LINE, MOST_HEADERS
from gateway.keys.office import KeyOffice
from tests.fake_worker import Asked, acting
from tests.gateway import PATIENT, AbleWorker, Door, door_of
from tests.mesh import SmallMesh
from tests.support import eventually

CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
MB = 1 << 20


@pytest.fixture
async def door(mesh: SmallMesh) -> AsyncIterator[Door]:
    async with door_of(mesh, body_limit_mb=1) as door:
        yield door


async def told(door: Door, *pieces: bytes, every: float = 0.0) -> tuple[int, str]:
    """The status and body of what is answered; 0: the connection was closed without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)

    async def send() -> None:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(every)

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(PATIENT):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                return 0, ""
            length = next(line for line in head.splitlines() if line.startswith("Content-Length: "))
            said = await reader.readexactly(int(length.rpartition(" ")[2]))
        return int(head.split()[1]), said.decode()
    finally:
        sending.cancel()
        writer.close()


async def serves(door: Door) -> bool:
    async with aiohttp.ClientSession() as session, session.get(door.url + "/v1/models") as answer:
        return answer.status == 200


async def test_headers_beyond_the_limits_and_nonsense_are_answered_in_json(door: Door) -> None:
    many = b"".join(b"x-%d: y\r\n" % number for number in range(5000))
    for sent, wanted, why in (
        (HEAD + many + b"\r\n", 431, f"more than {MOST_HEADERS}"),
        (HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n", 431, str(LONGEST_HEADER)),
        (HEAD + b"y" * 100_000, 431, str(LONGEST_HEADER)),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, str(LONGEST_LINE)),
        (b"\x16\x03\x01\x00\x00\r\n\r\n", 400, "no valid HTTP"),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400, "no valid HTTP"),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "no valid HTTP"),
    ):
        status, said = await told(door, sent)
        assert status == wanted, sent[:60]
        assert why in from_json(said)["error"]["message"]
    assert await serves(door)


async def test_headers_that_come_byte_by_byte_are_not_waited_for(mesh: SmallMesh) -> None:
    async with door_of(mesh, headers_within=0.5) as door:
        assert await told(door, HEAD, *[b"x"] * 1000, every=0.1) == (0, "")


async def test_a_connection_that_is_kept_open_may_rest_between_two_requests(mesh: SmallMesh) -> None:
    async with door_of(mesh, headers_within=0.2) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(line for line in head.splitlines() if line.startswith("Content-Length: "))
            await reader.readexactly(int(length.rpartition(" ")[2]))
            await asyncio.sleep(0.5)
        assert not reader.at_eof()
        writer.close()


async def test_a_body_that_trickles_is_not_waited_for(mesh: SmallMesh) -> None:
    async with door_of(mesh, body_within=0.5) as door:
        status, said = await told(door, HEAD + b"Content-Length: 1000\r\n\r\n", *[b"{"] * 1000, every=0.1)
        assert status == 408
        assert "within 0.5 s" in said
        assert await serves(door)


async def test_packed_bodies_count_unpacked_and_broken_ones_are_refused(door: Door) -> None:
    def packed(body: bytes) -> bytes:
        return HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    status, said = await told(door, packed(gzip.compress(b" " * 50 * MB)))
    assert (status, from_json(said)["error"]["code"]) == (413, "too_large")
    assert (await told(door, packed(b"hello")))[0] == 400
    assert (await told(door, packed(gzip.compress(b"[]"))))[0] == 400
    assert await serves(door)


async def test_a_body_that_is_too_large_is_told_in_the_dialects_form(door: Door) -> None:
    for path, kind in (
        ("/v1/messages", "request_too_large"),
        ("/v1/responses", "invalid_request_error"),
        ("/api/chat", None),
    ):
        status, said = await told(door, HEAD.replace(CHAT.encode(), path.encode()) + b"Content-Length: 9999999\r\n\r\n")
        assert status == 413
        error = from_json(said)["error"]
        assert (None if isinstance(error, str) else error["type"]) == kind
        assert "larger than" in str(error)


@asynccontextmanager
async def open_stream(door: Door, secret: str) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-api-key": secret}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(door.url + CHAT, json=body) as answer,
    ):
        yield answer


async def test_a_key_may_have_so_many_streams_open(mesh: SmallMesh) -> None:
    end = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not end.is_set():
            await asked.progress(1, moved=1)
            await asyncio.sleep(0.2)
        await asked.answer("so be it")

    async with AbleWorker(mesh.bus, "fake-1", acting(script)):
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        office = await KeyOffice.open(mesh.bus)
        (_, one), (_, other) = await office.create("acme"), await office.create("acme")
        async with door_of(mesh, keys="required", streams_per_key=1) as door:
            async with open_stream(door, one) as first, open_stream(door, other) as second:
                assert (first.status, second.status) == (200, 200)
                async with open_stream(door, one) as refused:
                    assert refused.status == 429
                    assert refused.headers["retry-after"] == "1"
                    assert "streams open" in (await refused.json())["error"]["message"]
                end.set()
                assert (await first.text()).endswith("data: [DONE]\n\n")
            async with open_stream(door, one) as again:
                assert again.status == 200


async def test_a_client_with_too_much_unread_is_cut_off_before_its_time(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MOST_UNREAD", MB)

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not any(order.op == "cancel" for order in worker.told):
            await asked.chunk("word " * 20_000)
            await asyncio.sleep(0.01)

    async with AbleWorker(mesh.bus, "fake-1", acting(script)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh, slow_reader_timeout=600) as door:
            _, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=1024)
            body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
            sent = json.dumps(body).encode()
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(sent) + sent)
            await eventually(lambda: door.figure("http_slow_readers_total") == 1, timeout=PATIENT)
            writer.close()
