"""What the openai and anthropic SDKs, unmodified, ask again by themselves, and how often it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import pytest

from contracts import BullpenError, ErrorCode
from contracts import headers as h
from gateway.undelivered import TRIES
from tests.fake_worker import Asked
from tests.gateway import PATIENT, Door, played
from tests.mesh import SmallMesh
from tests.proxy import Proxy
from tests.support import eventually

HELLO: Any = [{"role": "user", "content": "hello there"}]
HERE_IT_IS = "here it is: " + "word " * 10_000
"""Longer than what is read at once."""
MIDDLE = 20_000
"""Bytes of it, with its headers."""


class Ask(Protocol):
    async def __call__(self, **headers: str) -> tuple[str, Any]:
        """The text of the answer, and its headers. Raises the SDK's own error."""


@asynccontextmanager
async def openai_chat(port: int) -> AsyncIterator[Ask]:
    openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
    base = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", timeout=PATIENT, max_retries=5) as client:

        async def ask(**headers: str) -> tuple[str, Any]:
            create = client.chat.completions.with_raw_response.create
            raw = await create(model="fake", messages=HELLO, extra_headers=headers)
            return raw.parse().choices[0].message.content, raw.headers

        yield ask


@asynccontextmanager
async def openai_responses(port: int) -> AsyncIterator[Ask]:
    openai = pytest.importorskip("openai", reason="the openai SDK is not installed")
    base = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", timeout=PATIENT, max_retries=5) as client:

        async def ask(**headers: str) -> tuple[str, Any]:
            create = client.responses.with_raw_response.create
            raw = await create(model="fake", input="hello there", extra_headers=headers)
            return raw.parse().output_text, raw.headers

        yield ask


@asynccontextmanager
async def anthropic_messages(port: int) -> AsyncIterator[Ask]:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic SDK is not installed")
    base = f"http://127.0.0.1:{port}"
    async with anthropic.AsyncAnthropic(base_url=base, api_key="none", timeout=PATIENT, max_retries=5) as client:

        async def ask(**headers: str) -> tuple[str, Any]:
            create = client.messages.with_raw_response.create
            raw = await create(model="fake", messages=HELLO, max_tokens=100, extra_headers=headers)
            return (await raw.parse()).content[0].text, raw.headers

        yield ask


SDKS = (openai_chat, openai_responses, anthropic_messages)


def requests(worker: Any) -> set[str]:
    """The requests of which a worker was asked, each once."""
    return {asked.headers[h.REQUEST] for asked in worker.asked}


def cancels(worker: Any) -> list[Any]:
    return [order for order in worker.told if order.op == "cancel"]


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_sdk_does_not_ask_again_when_a_worker_has_failed(mesh: SmallMesh, sdk: Any) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke"))

    async with played(mesh, script) as (door, worker), sdk(door.port) as ask:
        with pytest.raises(Exception, match="it broke") as failed:
            await ask()
    assert getattr(failed.value, "status_code", None) == 502
    assert len(requests(worker)) == door.figure("http_requests_failed_total") == 1


@pytest.mark.parametrize("sdk", SDKS)
async def test_an_answer_whose_connection_broke_in_the_middle_comes_again_and_is_not_made_again(
    mesh: SmallMesh, sdk: Any
) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        proxy.to_client.cut_after(MIDDLE)
        await asked.answer(HERE_IT_IS)

    async with played(mesh, script) as (door, worker), Proxy(door.port) as proxy, sdk(proxy.port) as ask:
        text, headers = await ask()
        assert (text, headers["x-bullpen-replayed"]) == (HERE_IT_IS, "true")
        assert headers["x-request-id"] in requests(worker)
        assert (len(worker.asked), door.figure("http_requests_answered_total")) == (1, 2)


@pytest.mark.parametrize("key", ["", "order-66"])
@pytest.mark.parametrize("sdk", SDKS)
async def test_a_question_asked_again_after_a_lost_connection_never_runs_twice_at_once(
    mesh: SmallMesh, sdk: Any, key: str
) -> None:
    """Without a key the first is stopped; with one, the first is the answer to both."""
    lost = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not lost.is_set():
            await asked.progress(moved=1)
            await asyncio.sleep(0.2)
        await asked.answer(HERE_IT_IS)

    async with played(mesh, script) as (door, worker), Proxy(door.port) as proxy, sdk(proxy.port) as ask:
        asking = asyncio.create_task(ask(**({"Idempotency-Key": key} if key else {})))
        await eventually(lambda: worker.asked, timeout=PATIENT)
        proxy.reset()
        await eventually(lambda: door.figure("http_clients_left_total") >= 1, timeout=PATIENT)
        if not key:
            await eventually(lambda: cancels(worker), timeout=PATIENT)
        lost.set()
        text, _ = await asking
    assert text == HERE_IT_IS
    assert len(requests(worker)) == (1 if key else 2)
    assert bool(cancels(worker)) is not bool(key)


async def test_an_answer_that_arrived_is_nobody_elses(mesh: SmallMesh) -> None:
    """Its client has asked something else on the same connection, and left."""

    async def script(asked: Asked) -> None:
        await asked.answer(HERE_IT_IS)

    async def ask(door: Door, tries: str) -> None:
        body = {"model": "fake", "messages": HELLO}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{door.v1}/chat/completions", json=body, headers={TRIES: tries}) as answer:
                assert "x-bullpen-replayed" not in answer.headers
                await answer.read()
            async with session.get(f"{door.v1}/models") as models:
                await models.read()
        await eventually(lambda: not door.figure("http_connections"), timeout=PATIENT)

    async with played(mesh, script) as (door, worker):
        await ask(door, "0")
        await ask(door, "1")
    assert len(worker.asked) == 2
