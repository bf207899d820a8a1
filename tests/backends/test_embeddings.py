"""Vectors, asked of every backend that gives them; only the providers are imitated, as HTTP servers on loopback.

What comes back broken is a failed attempt, whatever an SDK makes of it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from contracts import BullpenError, EmbeddingRequest, ErrorCode, SilenceOk
from contracts.embedding import packed
from tests.backends.embedders import EMBEDDERS, TEXTS, VECTORS, Embedder, OllamaEmbedder, OpenAIEmbedder
from tests.backends.providers import Json, configured
from tests.support import eventually
from workers.base import Backend, Embedded, EmbeddingJob
from workers.base.interface.discovery import discover
from workers.simulated.backend import SimulatedBackend, SimulatedConfig


class Subject:
    def __init__(self, provider: Embedder, backend: Backend[Any]) -> None:
        self.provider = provider
        self.backend = backend

    def job(self, silence_ok: SilenceOk | None = None, **asked: Any) -> EmbeddingJob:
        request = EmbeddingRequest(**{"input": TEXTS, **asked})
        return EmbeddingJob(request, self.backend.models()[0], silence_ok)

    async def ask(self, **asked: Any) -> Embedded:
        return await self.backend.vectors(self.job(**asked))

    async def failure(self, **asked: Any) -> BullpenError:
        with pytest.raises(BullpenError) as raised:
            await self.ask(**asked)
        return raised.value


@pytest.fixture(params=sorted(EMBEDDERS))
async def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
    name: str = request.param
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "sk-test")
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(EMBEDDERS[name]())
        folder = discover()[name].load()
        backend = folder(configured(folder.config_class, provider.config()))
        stack.push_async_callback(backend.close)
        await backend.start(lambda _: None)
        yield Subject(provider, backend)


def lists(told: Embedded) -> list[list[float]]:
    return [list(vector) for vector in told.vectors]


async def test_a_model_that_embeds_says_so_and_does_not_chat(subject: Subject) -> None:
    assert [card.capabilities for card in subject.backend.models()] == [("embed",)]


async def test_each_text_gets_its_vector(subject: Subject) -> None:
    told = await subject.ask()
    assert lists(told) == VECTORS
    assert told.prompt_tokens == (None if subject.backend.name == "gemini" else 7)  # Google counts none of them
    assert subject.provider.dimensions(subject.provider.received[0]) is None
    assert lists(await subject.ask(input="alone")) == VECTORS[:1]


async def test_the_wish_for_shorter_vectors_is_passed_on(subject: Subject) -> None:
    await subject.ask(dimensions=2)
    assert subject.provider.dimensions(subject.provider.received[0]) == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.INVALID_REQUEST),
        (401, ErrorCode.UPSTREAM_AUTH),
        (404, ErrorCode.NO_SUCH_MODEL),
        (429, ErrorCode.RATE_LIMITED),
        (500, ErrorCode.UPSTREAM_ERROR),
    ],
)
async def test_a_providers_status_means_the_same_as_of_an_answer(
    subject: Subject, status: int, code: ErrorCode
) -> None:
    subject.provider.failure.status = status
    assert (await subject.failure()).code is code


@pytest.mark.parametrize("body", ["[]", "{}", "null", "not json", '{"data": 7, "embeddings": 7}', '"vectors"'])
async def test_what_is_no_answer_is_a_failure(subject: Subject, body: str) -> None:
    subject.provider.reply = lambda _: web.Response(text=body, content_type="application/json")
    assert (await subject.failure()).code is ErrorCode.UPSTREAM_ERROR


@pytest.mark.parametrize("vector", ["7", '["a"]', "[[1]]", "{}", '"%%%"'])
async def test_what_is_no_vector_is_a_failure(subject: Subject, vector: str) -> None:
    usual = json.dumps(subject.provider.usual([[1.5, 2.5]])).replace("[1.5, 2.5]", vector)
    subject.provider.reply = lambda _: web.Response(text=usual, content_type="application/json")
    assert (await subject.failure(input="one")).code is ErrorCode.UPSTREAM_ERROR


async def test_leaving_ends_the_providers_work(subject: Subject) -> None:
    subject.provider.failure.mute = True
    asking = asyncio.create_task(subject.ask())
    await subject.provider.hangs.wait()
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(subject.provider.closed.is_set)


async def test_a_provider_that_says_nothing_is_given_up(subject: Subject) -> None:
    subject.provider.failure.mute = True
    with pytest.raises(BullpenError, match=r"silent for 0\.3 s before its first token"):
        await subject.backend.vectors(subject.job(SilenceOk(first_token=300, next_token=300)))


async def test_a_server_that_cannot_be_reached_is_the_workers_fault(subject: Subject) -> None:
    await subject.provider.__aexit__()
    assert (await subject.failure()).fault == "worker"


# What servers of OpenAI's API do differently


@pytest.fixture
async def openai(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Subject]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    async with OpenAIEmbedder() as provider:
        folder = discover()["openai"].load()
        backend = folder(configured(folder.config_class, provider.config()))
        await backend.start(lambda _: None)
        try:
            yield Subject(provider, backend)
        finally:
            await backend.close()


def data(*entries: Json) -> Json:
    return {"data": list(entries)}


async def test_numbers_are_asked_for_and_base64_is_read_all_the_same(openai: Subject) -> None:
    openai.provider.reply = lambda _: data({"index": 0, "embedding": packed([0.5, -0.25])})
    assert lists(await openai.ask(input="one")) == [[0.5, -0.25]]
    assert openai.provider.received[0]["encoding_format"] == "float"


async def test_a_server_that_does_not_know_the_format_is_asked_without_it(openai: Subject) -> None:
    def picky(body: Json) -> web.StreamResponse | Json:
        if "encoding_format" in body:
            why = {"error": {"message": "encoding_format: extra inputs are not permitted", "code": 400}}
            return web.json_response(why, status=400)
        return openai.provider.usual(VECTORS)

    openai.provider.reply = picky
    assert lists(await openai.ask()) == VECTORS
    assert ["encoding_format" in body for body in openai.provider.received] == [True, False]


async def test_the_order_is_that_of_the_indexes(openai: Subject) -> None:
    shuffled = [{"index": index, "embedding": VECTORS[index]} for index in (2, 0, 1)]
    openai.provider.reply = lambda _: data(*shuffled)
    assert lists(await openai.ask()) == VECTORS
    openai.provider.reply = lambda _: data(*({"embedding": vector} for vector in VECTORS))
    assert lists(await openai.ask()) == VECTORS


@pytest.mark.parametrize("indexes", [(0, 0, 1), (1, 2, 3), (0, 1, None), ("0", "1", "2")])
async def test_a_vector_that_belongs_to_no_text_is_a_failure(openai: Subject, indexes: tuple[object, ...]) -> None:
    entries = [{"index": index, "embedding": vector} for index, vector in zip(indexes, VECTORS, strict=True)]
    openai.provider.reply = lambda _: data(*entries)
    assert "indexes" in (await openai.failure()).message


async def test_an_error_in_a_good_answer_is_an_error(openai: Subject) -> None:
    openai.provider.reply = lambda _: {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    assert (await openai.failure()).code is ErrorCode.RATE_LIMITED


async def test_ollama_cuts_a_long_text_only_if_wanted() -> None:
    async with OllamaEmbedder() as provider:
        folder = discover()["ollama"].load()
        backend = folder(configured(folder.config_class, provider.config()))
        await backend.start(lambda _: None)
        for wanted in (False, True):
            await Subject(provider, backend).ask(truncate=wanted)
        await backend.close()
    assert [body["truncate"] for body in provider.received] == [False, True]


async def test_simulated_vectors_depend_on_the_text_alone() -> None:
    first, second = (SimulatedBackend(SimulatedConfig(seed=seed)) for seed in (1, 2))
    ask = Subject(OpenAIEmbedder(), first).ask
    assert lists(await ask(dimensions=3)) == lists(await ask(dimensions=3))
    assert lists(await ask()) != lists(await Subject(OpenAIEmbedder(), second).ask())
    assert [len(vector) for vector in (await ask()).vectors] == [256] * 3


async def test_one_that_cannot_says_so() -> None:
    backend = discover()["anthropic"].load()
    request = EmbeddingRequest(input="one")
    card = SimulatedBackend(SimulatedConfig()).models()[0]
    with pytest.raises(BullpenError, match="cannot do this: embed"):
        backend.embed(object.__new__(backend), EmbeddingJob(request, card))
