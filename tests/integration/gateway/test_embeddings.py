"""The openai and ollama clients, unmodified, ask a gateway for vectors; real NATS, a real Manager and real workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from math import hypot
from typing import Any

import aiohttp
import openai
import pytest

from contracts.embedding import packed, unpacked
from gateway.dialects.embeddings import PART
from gateway.keys.office import KeyOffice
from tests.fake_worker import Asked, acting
from tests.gateway import PATIENT, AbleWorker, Door, door_of, played
from tests.mesh import SmallMesh
from tests.support import eventually

MODELS: dict[str, Any] = {
    "models": [
        {"name": "chatter", "capabilities": ["chat", "stream"]},
        {"name": "embedder", "aliases": ["text-embedding-3-small"], "capabilities": ["embed"]},
    ]
}


@pytest.fixture
async def door(mesh: SmallMesh) -> AsyncIterator[Door]:
    await mesh.worker("w-1", **MODELS)
    async with door_of(mesh, aliases={"text-embedding-*": "embedder"}) as door:
        yield door


@pytest.fixture
async def sdk(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=door.v1, api_key="none", max_retries=0, timeout=PATIENT) as client:
        yield client


async def post(door: Door, path: str, body: Any, headers: Any = None) -> tuple[int, Any, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(door.url + path, json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


async def test_the_openai_sdk_gets_vectors_in_order(sdk: openai.AsyncOpenAI) -> None:
    """It asks for base64 by itself, and makes numbers of it."""
    answer = await sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two", "one"])
    assert [one.index for one in answer.data] == [0, 1, 2]
    first, second, third = (one.embedding for one in answer.data)
    assert first == third != second
    assert (len(first), answer.model) == (256, "embedder")
    assert hypot(*first) == pytest.approx(1.0)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    told = await sdk.embeddings.with_raw_response.create(
        model="text-embedding-3-large", input="one", dimensions=8, encoding_format="float", user="u-1"
    )
    [vector] = told.parse().data
    assert len(vector.embedding) == 8
    assert told.headers["x-bullpen-model"] == "embedder"
    assert (told.headers["x-bullpen-ignored"], told.headers["x-bullpen-worker"]) == ("user", "w-1")


async def test_more_texts_than_fit_into_a_message_are_asked_for_in_parts(sdk: openai.AsyncOpenAI) -> None:
    texts = [f"text {number}" for number in range(2 * PART + 1)]
    answer = await sdk.embeddings.create(model="auto", input=texts)
    alone = await sdk.embeddings.create(model="embedder", input=[texts[0], texts[-1]])
    assert [one.index for one in answer.data] == list(range(len(texts)))
    assert [answer.data[0].embedding, answer.data[-1].embedding] == [one.embedding for one in alone.data]
    assert answer.usage.prompt_tokens == 2 * len(texts)


async def test_all_parts_are_asked_of_the_model_that_answered_the_first(mesh: SmallMesh) -> None:
    asked: list[Any] = []

    async def answers(request: Asked) -> None:
        asked.append(request.body)
        await request.answer("", tokens=0, embeddings=(packed([1.0]),) * len(request.body["input"]))

    async with played(mesh, answers) as (door, _):
        body = {"model": "auto", "input": ["text"] * (2 * PART + 1)}
        status, told, _ = await post(door, "/v1/embeddings", body)
    assert (status, len(told["data"])) == (200, 2 * PART + 1)
    assert sorted(len(one["input"]) for one in asked) == [1, PART, PART]
    assert [(one.get("model"), one.get("backend")) for one in asked] == [(None, None)] + [("fake", "fake")] * 2


@pytest.mark.parametrize(
    ("wrong", "param", "words"),
    [
        ({"input": [1, 2, 3]}, "input", "numbers of tokens"),
        ({"input": [[1, 2], [3]]}, "input", "numbers of tokens"),
        ({"input": []}, "input", "empty"),
        ({"input": ["a", ""]}, "input.1", "empty"),
        ({"input": ["a"] * 2049}, "input", "2048"),
        ({"input": None}, "input", "is empty"),
        ({"dimensions": 0}, "dimensions", "1 at least"),
        ({"encoding_format": "int8"}, "encoding_format", "float or base64"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(door: Door, wrong: Any, param: str, words: str) -> None:
    status, told, _ = await post(door, "/v1/embeddings", {"model": "embedder", "input": "a", **wrong})
    assert (status, told["error"]["param"]) == (400, param)
    assert words in told["error"]["message"]


async def test_a_model_that_cannot_is_an_error_that_lists_those_that_can(door: Door, sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="`chatter` does not embed; those that do are embedder"):
        await sdk.embeddings.create(model="chatter", input="a")
    with pytest.raises(openai.NotFoundError, match="`embedder` does not chat; those that do are chatter"):
        await sdk.chat.completions.create(model="embedder", messages=[{"role": "user", "content": "hi"}])
    status, told, _ = await post(door, "/api/embed", {"model": "chatter", "input": "a"})
    assert (status, "those that do are embedder" in told["error"]) == (404, True)


async def test_the_ollama_client_gets_vectors(door: Door) -> None:
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    async with AsyncExitStack() as stack:
        client = ollama.AsyncClient(host=door.url, timeout=PATIENT)
        stack.push_async_callback(client.close)
        answer = await client.embed(model="embedder:latest", input=["one", "two"], dimensions=4)
        assert [len(vector) for vector in answer.embeddings] == [4, 4]
        assert (answer.model, answer.prompt_eval_count) == ("embedder:latest", 2)
        assert answer.total_duration > 0
        one = await client.embeddings(model="embedder", prompt="one")
        assert list(one.embedding) == list((await client.embed(model="embedder", input="one")).embeddings[0])
        assert list((await client.embed(model="embedder", input="")).embeddings) == []
        assert "embedding" in (await client.show("embedder")).capabilities


async def test_too_long_a_text_is_cut_for_ollamas_clients_unless_they_say_no(door: Door) -> None:
    body = {"model": "embedder", "input": "word " * 10_000}
    assert (await post(door, "/api/embed", body))[0] == 200
    status, told, _ = await post(door, "/api/embed", {**body, "truncate": False})
    assert (status, "context window" in told["error"]) == (400, True)


async def test_a_client_that_leaves_stops_the_work(mesh: SmallMesh) -> None:
    asked = asyncio.Event()

    async def never(request: Asked) -> None:
        await request.claim()
        asked.set()

    async with played(mesh, never) as (door, worker):
        waiting = asyncio.create_task(post(door, "/v1/embeddings", {"model": "fake", "input": "a"}))
        await asked.wait()
        waiting.cancel()
        await eventually(lambda: [order for order in worker.told if order.op == "cancel"], timeout=PATIENT)


async def test_a_key_opens_its_models_and_its_tenant_is_billed(mesh: SmallMesh) -> None:
    bodies: list[Any] = []

    async def answers(request: Asked) -> None:
        bodies.append(request.body)
        await request.answer("", tokens=0, embeddings=(packed([1.0, 0.0]),))

    office = await KeyOffice.open(mesh.bus)
    async with AbleWorker(mesh.bus, "fake-1", acting(answers)):
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        _, secret = await office.create("acme", models=("fake",))
        async with door_of(mesh) as door:
            headers = {"Authorization": f"Bearer {secret}"}
            body = {"model": "fake", "input": "a", "metadata": {"tenant": "other"}, "encoding_format": "base64"}
            status, told, _ = await post(door, "/v1/embeddings", body, headers)
            assert status == 200
            assert unpacked(told["data"][0]["embedding"]) == (1.0, 0.0)
            assert bodies[0]["metadata"] == {"tenant": "acme"}
            assert (await post(door, "/v1/embeddings", {**body, "model": "auto"}, headers))[0] == 403
            assert (await post(door, "/v1/embeddings", body))[0] == 401
