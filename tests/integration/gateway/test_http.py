"""What HTTP does to a gateway: clients that leave, dawdle, send too much or nonsense, and a gateway that has to go."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts import ControlRequest
from gateway.gateway import HEARTBEATS
from tests.fake_worker import Asked, acting
from tests.gateway import PATIENT, AbleWorker, Door, door_of
from tests.mesh import SmallMesh
from tests.support import eventually
from workers.base import BackendConfig

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture
async def door(mesh: SmallMesh) -> AsyncIterator[Door]:
    await mesh.worker("w-1")
    async with door_of(mesh, body_limit_mb=1, body_within=1.0) as door:
        yield door


async def busy(asked: Asked) -> None:
    """A worker that is at it for ever, and says so."""
    await asked.claim()
    while True:
        await asked.progress(moved=1)
        await asyncio.sleep(0.3)


@asynccontextmanager
async def before_a_busy_worker(mesh: SmallMesh, **config: Any) -> AsyncIterator[tuple[Door, AbleWorker]]:
    async with AbleWorker(mesh.bus, "fake-1", acting(busy)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh, **config) as door:
            yield door, worker


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "auto", "messages": HELLO, **fields}).encode()


async def post(door: Door, body: bytes, path: str = CHAT, **headers: str) -> tuple[int, Any, Any]:
    """Status, what was said, and the headers."""
    async with aiohttp.ClientSession() as session:
        told = {"Content-Type": "application/json", **headers}
        async with session.post(door.url + path, data=io.BytesIO(body), headers=told) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text, answer.headers


def cancels(worker: AbleWorker) -> list[ControlRequest]:
    return [order for order in worker.told if order.op == "cancel"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_the_work(mesh: SmallMesh, stream: bool) -> None:
    """While it waits for the first word as well."""
    async with before_a_busy_worker(mesh) as (door, worker):
        waiting = asyncio.create_task(post(door, chat(model="fake", stream=stream)))
        await eventually(lambda: worker.asked, timeout=PATIENT)
        waiting.cancel()
        await eventually(lambda: cancels(worker), timeout=PATIENT)
        await eventually(lambda: door.figure("http_clients_left_total") == 1, timeout=PATIENT)


async def test_a_question_with_a_key_is_finished_for_a_client_that_comes_back(mesh: SmallMesh) -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not go_on.is_set():
            await asked.progress(moved=1)
            await asyncio.sleep(0.2)
        await asked.answer("the only one")

    key = {"Idempotency-Key": "order-66"}
    async with AbleWorker(mesh.bus, "fake-1", acting(script)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh) as door:
            first = asyncio.create_task(post(door, chat(model="fake"), **key))
            await eventually(lambda: worker.asked, timeout=PATIENT)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
            second = asyncio.create_task(post(door, chat(model="fake"), **key))
            await eventually(lambda: door.figure("http_clients_left_total") == 1, timeout=PATIENT)
            go_on.set()
            status, told, headers = await second
            assert cancels(worker) == []
    assert (status, told["choices"][0]["message"]["content"]) == (200, "the only one")
    assert headers["x-bullpen-replayed"] == "true"
    assert len(worker.asked) == 1


async def test_a_silent_stream_says_that_it_lives(mesh: SmallMesh) -> None:
    async with (
        before_a_busy_worker(mesh, keep_alive_every=0.2) as (door, _),
        aiohttp.ClientSession() as session,
        session.post(door.url + CHAT, data=chat(model="fake", stream=True)) as answer,
    ):
        lines = [await answer.content.readline() for _ in range(6)]
    assert lines[0].startswith(b"data: ")
    assert lines.count(b": keep-alive\n") == 2


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"hi"', b'{"model": NaN}', b"\xff{}", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(door: Door, body: bytes) -> None:
    status, told, _ = await post(door, body)
    assert status == 400
    assert told["error"]["type"] == "invalid_request_error"


async def test_json_of_another_name_is_json(door: Door) -> None:
    status, _, _ = await post(door, chat(max_tokens=1), **{"Content-Type": "text/plain"})
    assert status == 200


@pytest.mark.parametrize("told_before", [True, False])
async def test_a_body_that_is_too_large_is_a_413(door: Door, told_before: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 17)

    async with aiohttp.ClientSession() as session:
        data: Any = io.BytesIO(b" " * (20 << 17)) if told_before else pieces()
        async with session.post(door.url + CHAT, data=data) as answer:
            assert answer.status == 413
            assert "larger than 1048576 bytes" in (await answer.json())["error"]["message"]


async def test_what_nats_does_not_take_is_told_with_its_cure(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    async with door_of(mesh) as door:
        long = [{"role": "user", "content": "x" * (mesh.bus.max_payload + 1)}]
        status, told, _ = await post(door, chat(messages=long))
    assert status == 413
    assert f"the server takes {mesh.bus.max_payload}" in told["error"]["message"]
    assert "max_payload" in told["error"]["message"]


async def test_a_body_that_does_not_come_is_not_waited_for(door: Door) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    assert b" 408 " in await asyncio.wait_for(reader.readline(), PATIENT)
    writer.close()


async def test_headers_that_do_not_come_are_not_waited_for(mesh: SmallMesh) -> None:
    async with door_of(mesh, idle_timeout=0.5) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
        assert await asyncio.wait_for(reader.read(), PATIENT) == b""
        writer.close()


async def test_a_client_that_reads_nothing_is_cut_off(mesh: SmallMesh) -> None:
    """And the worker stopped: it would write on for nobody."""

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not cancels(worker):
            await asked.chunk("word " * 20_000)
            await asyncio.sleep(0.01)

    async with AbleWorker(mesh.bus, "fake-1", acting(script)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh, slow_reader_timeout=0.5) as door:
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=1024)
            body = chat(model="fake", stream=True)
            writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await eventually(lambda: door.figure("http_slow_readers_total") == 1, timeout=PATIENT)
            await eventually(lambda: cancels(worker), timeout=PATIENT)
            writer.close()
            del reader


async def test_connections_are_bounded(mesh: SmallMesh) -> None:
    async with door_of(mesh, max_connections=1) as door:
        _, first = await asyncio.open_connection("127.0.0.1", door.port)
        await eventually(lambda: door.figure("http_connections") == 1, timeout=PATIENT)
        reader, second = await asyncio.open_connection("127.0.0.1", door.port)
        assert b" 503 " in await asyncio.wait_for(reader.readline(), PATIENT)
        first.close()
        second.close()


async def test_a_gateway_that_leaves_finishes_its_streams_and_takes_nothing_new(mesh: SmallMesh) -> None:
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.chunk("before ")
        while not go_on.is_set():
            await asked.progress(1, moved=1)
            await asyncio.sleep(0.2)
        await asked.chunk("after")
        await asked.answer("before after")

    async with AbleWorker(mesh.bus, "fake-1", acting(script)):
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh, drain_within=PATIENT) as door, aiohttp.ClientSession() as session:
            async with session.get(door.url + "/healthz"):
                pass  # a connection that stays open
            other = aiohttp.ClientSession()
            async with session.post(door.url + CHAT, data=chat(model="fake", stream=True)) as answer:
                async with other.get(door.url + "/healthz"):
                    pass
                door.stop.set()
                await eventually(lambda: door.status.why_not() != "", timeout=PATIENT)
                async with other.post(door.url + CHAT, data=chat(model="fake")) as refused:
                    assert refused.status == 503
                    assert refused.headers["retry-after"] == "1"
                    assert "x-should-retry" not in refused.headers
                go_on.set()
                said = await answer.text()
            await other.close()
    assert '"content":"after"' in said
    assert said.endswith("data: [DONE]\n\n")


async def test_a_stream_that_does_not_end_is_told_that_the_gateway_leaves(mesh: SmallMesh) -> None:
    async with before_a_busy_worker(mesh, drain_within=0.2) as (door, worker), aiohttp.ClientSession() as session:
        async with session.post(door.url + CHAT, data=chat(model="fake", stream=True)) as answer:
            await answer.content.readline()
            door.stop.set()
            said = (await answer.content.read()).decode()
        await eventually(lambda: cancels(worker), timeout=PATIENT)
    assert '"code":"draining"' in said
    assert "[DONE]" not in said


async def test_a_page_of_another_site_may_not_ask(door: Door) -> None:
    status, told, _ = await post(door, chat(), Origin="https://evil.example")
    assert (status, told["error"]["code"]) == (403, "origin_refused")
    status, _, _ = await post(door, chat(max_tokens=1), Origin="http://localhost:3000")
    assert status == 200


async def test_a_page_of_a_listed_site_may_read_whatever_it_is_answered(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    site = "https://chat.example.com"
    async with door_of(mesh, keys="required", origins=(site,)) as door, aiohttp.ClientSession() as session:
        asks = {"Origin": site, "Access-Control-Request-Method": "POST"}
        async with session.options(door.url + CHAT, headers=asks) as answer:
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, site)
        async with session.options(door.url + CHAT, headers={**asks, "Origin": "https://evil.example"}) as answer:
            assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (403, None)
        for path in ("/v1/models", "/api/tags"):
            async with session.get(door.url + path, headers={"Origin": site}) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (401, site)
    async with door_of(mesh, origins=(site,)) as door:
        for asked, wanted in (({}, 200), ({"stream": True}, 200), ({"n": 0}, 400)):
            status, _, headers = await post(door, chat(max_tokens=1, **asked), Origin=site)
            assert (status, headers["Access-Control-Allow-Origin"]) == (wanted, site)


async def test_an_answer_says_where_its_time_went(door: Door) -> None:
    def parts(headers: Any) -> dict[str, float]:
        told = [part.split(";dur=") for part in headers["Server-Timing"].split(", ")]
        return {name: float(ms) for name, ms in told}

    for asked, wanted in (
        ({}, {"read", "mesh", "answer", "queue"}),
        ({"stream": True}, {"read", "mesh"}),
        ({"n": 0}, {"read"}),
    ):
        _, _, headers = await post(door, chat(max_tokens=1, **asked))
        assert parts(headers).keys() == wanted
        assert all(ms >= 0 for ms in parts(headers).values())


async def test_a_stream_names_its_task_first_and_its_request_at_the_end(door: Door) -> None:
    _, said, headers = await post(door, chat(max_tokens=1, stream=True))
    assert headers["x-request-id"] in said
    at_the_end = [line for line in said.splitlines() if line.startswith(": x-request-id: ")]
    assert len(at_the_end) == 1
    assert at_the_end[0] != f": x-request-id: {headers['x-request-id']}"


async def test_what_is_saved_in_its_config_counts_from_the_next_request_on(mesh: SmallMesh, tmp_path: Path) -> None:
    await mesh.worker("w-1")
    path = tmp_path / "config.yaml"
    path.write_text("aliases: {}\n", encoding="utf-8")
    async with door_of(mesh, file=path) as door:

        async def status(**fields: Any) -> int:
            return (await post(door, chat(max_tokens=1, **fields)))[0]

        assert await status(model="gpt-x") == 404
        path.write_text("aliases: {gpt-*: auto}\nbody_limit_mb: 0.001\nkeys: required\n", encoding="utf-8")

        async def is_taken() -> bool:
            return await status(model="gpt-x") == 200

        await eventually(is_taken, timeout=PATIENT)
        assert await status(model="gpt-x", user="x" * 2000) == 413


async def test_it_serves_after_the_time_in_which_every_worker_beats_its_heart(mesh: SmallMesh) -> None:
    """Before, clients would be told that a model does not exist."""
    now = asyncio.get_running_loop().time
    began = now()
    async with door_of(mesh, as_shipped=True):
        assert now() - began >= HEARTBEATS > BackendConfig().heartbeat_interval


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("POST", "/nothing", 404),
        ("PUT", "/api/nothing", 404),
        ("POST", "/chat/completions", 400),
    ],
)
async def test_paths_that_are_no_questions(door: Door, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, door.url + path) as answer:
        assert answer.status == status


async def test_without_a_manager_an_error_says_so(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh, door_of(mesh) as door:
        status, told, _ = await post(door, chat(deadline_ms=500))
        assert status in (503, 504)
        assert "Manager" in told["error"]["message"]
