"""A worker that somebody wrote in another language with nothing but the wire's page: a heartbeat, and answers.

It claims nothing, tells no progress, and knows neither attempts nor request ids.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from bus import Bus, Message
from tests.mesh import Json, SmallMesh

QUARTER_SECOND = 0.25
SEED: Json = {"model_id": "bash-1", "output": "hello from bash", "tokens_used": 9, "duration_ms": 5, "confidence": 0.5}


Answer = Callable[[Json], list[Any]]


def seed(asked: Json) -> list[Any]:
    return [{"task_id": asked.get("task_id", "?"), **SEED}]


@asynccontextmanager
async def plain_worker(mesh: SmallMesh, name: str, answer: Answer = seed, *, takes: float = 0.0) -> AsyncIterator[None]:
    """`answer`: the messages, bytes or objects, for a request."""
    bus: Bus = mesh.bus

    async def serve(message: Message) -> None:
        await asyncio.sleep(takes)
        for told in answer(json.loads(message.data)):
            await bus.publish(message.reply, told if isinstance(told, bytes) else json.dumps(told).encode())

    async def beat() -> None:
        for seq in count(2):
            await asyncio.sleep(0.2)
            await bus.publish("worker.heartbeat", json.dumps(_heartbeat(name, seq)).encode())

    listening = await bus.subscribe(f"infer.bash.w.{name}", serve)
    await bus.publish("worker.heartbeat", json.dumps(_heartbeat(name, 1)).encode())
    await bus.flush(30)
    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await listening.stop()


def _heartbeat(name: str, seq: int) -> Json:
    model = {"model_id": "bash-1", "context_window": 8192, "capabilities": ["chat", "stream", "dance"], "local": True}
    return {
        "worker_id": name,
        "backend": "bash",
        "models": [{**model, "aliases": [], "price": None}],
        "state": "ready",
        "capacity": 4,
        "epoch": 1764000000,
        "seq": seq,
        "started_at": "2026-11-23T12:00:00Z",
    }


async def test_the_first_six_fields_are_an_answer(mesh: SmallMesh) -> None:
    await mesh.manager()
    async with plain_worker(mesh, "b-1"):
        answer = await mesh.ask(backend="bash", task_id="mine")
    assert {name: answer[name] for name in ("output", "model_id", "tokens_used", "confidence")} == {
        name: SEED[name] for name in ("output", "model_id", "tokens_used", "confidence")
    }
    assert (answer["task_id"], answer["backend"], answer["worker_id"]) == ("mine", "bash", "b-1")
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_a_worker_without_claims_is_waited_for_when_it_is_the_only_one(mesh: SmallMesh) -> None:
    await mesh.manager(claim_timeout=QUARTER_SECOND)
    async with plain_worker(mesh, "b-1", takes=0.8):
        answer = await mesh.ask(backend="bash")
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_who_asked_for_a_stream_gets_one_of_a_whole_answer(mesh: SmallMesh) -> None:
    await mesh.manager()
    async with plain_worker(mesh, "b-1"):
        piece, final, end = await mesh.stream(backend="bash")
    assert piece is not None
    assert final is not None
    assert (piece["seq"], piece["delta"], final["type"], final["output"]) == (
        0,
        SEED["output"],
        "response",
        SEED["output"],
    )
    assert end is None


async def test_its_own_stream_is_passed_on_with_its_end(mesh: SmallMesh) -> None:
    await mesh.manager()

    def stream(asked: Json) -> list[Any]:
        pieces = [
            {"type": "chunk", "task_id": None, "seq": n, "delta": text} for n, text in enumerate(("hello", " you"))
        ]
        return [*pieces, {**seed(asked)[0], "type": "response", "output": "hello you"}, b""]

    async with plain_worker(mesh, "b-1", stream):
        *pieces, final, end = await mesh.stream(backend="bash")
    assert "".join(piece["delta"] for piece in pieces if piece) == "hello you"
    assert final is not None
    assert final["output"] == "hello you"
    assert end is None


async def test_a_pool_of_workers_without_claims_goes_on_answering(mesh: SmallMesh) -> None:
    """Each loses its question to the other after a quarter second, and answers it all the same."""
    await mesh.manager(claim_timeout=QUARTER_SECOND)
    async with AsyncExitStack() as stack:
        for name in ("b-1", "b-2"):
            await stack.enter_async_context(plain_worker(mesh, name, takes=0.4))
        routes: list[Json] = []
        await mesh.bus.subscribe_inline("metrics.route", lambda message: routes.append(json.loads(message.data)))
        for _ in range(12):
            assert (await mesh.ask(backend="bash"))["output"]
    passed_over = {candidate["passed_over"] for route in routes for candidate in route["candidates"]}
    assert [why for why in passed_over if why and "failing" in why] == []


async def test_one_that_is_always_full_is_told_as_that(mesh: SmallMesh) -> None:
    await mesh.manager()
    full = {"error": {"code": "overloaded", "status": 429, "message": "busy", "retryable": True}}
    async with plain_worker(mesh, "b-1", lambda asked: [full]):
        answer = await mesh.ask(backend="bash")
    assert (answer["error"]["code"], answer["error"]["retry_after_ms"]) == ("overloaded", 1000)
