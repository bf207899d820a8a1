"""One bad worker, or one bad model, takes answers from nobody: it is left alone, says why, and comes back when well."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from aiohttp import web

from manager.routing import circuit_breaker, forecast
from manager.routing.circuit_breaker import CircuitBreaker
from tests.backends.providers import Failure, Json, OpenAIProvider
from tests.mesh import SmallMesh
from tests.support import eventually

FREE = {"input_per_mtok": 0, "output_per_mtok": 0}
QUESTIONS = 60
NEARLY_NONE = 12
"""Questions that reach a worker which refuses all: five, and more from requests that run at once."""


class Refusing(OpenAIProvider):
    """Its list of models is fine; only chats fail, with all models or those named in `bad`."""

    def __init__(self, *models: str) -> None:
        super().__init__()
        self.names = models or ("m",)
        self.bad: tuple[str, ...] = self.names
        self.asked: Counter[str] = Counter()

    def config(self) -> Json:
        models = [{"name": name, "capabilities": ["chat", "stream"], "price": FREE} for name in self.names]
        return {**super().config(), "models": models, "health_interval": 0.5}

    async def models(self, request: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "us"} for name in self.names]
        return web.json_response({"object": "list", "data": listed})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        self.asked[model] += 1
        failure = self.failure
        try:
            self.failure = failure if model in self.bad else Failure()
            return await super().answer(request)
        finally:
            self.failure = failure


async def ask_many(mesh: SmallMesh, count: int, **request: Any) -> list[Json]:
    """Six at a time."""
    places = asyncio.Semaphore(6)

    async def one() -> Json:
        async with places:
            return await mesh.ask(**request)

    return await asyncio.gather(*(one() for _ in range(count)))


def ten_minutes_later(patch: pytest.MonkeyPatch) -> None:
    """For the breakers."""
    admits, rest = CircuitBreaker.admits, CircuitBreaker.rest
    patch.setattr(CircuitBreaker, "admits", lambda breaker, now: admits(breaker, now + 600))
    patch.setattr(CircuitBreaker, "rest", lambda breaker, now: rest(breaker, now + 600))


def failures(answers: list[Json]) -> list[str]:
    return [f"{answer['error']['code']}: {answer['error']['message']}" for answer in answers if "error" in answer]


@pytest.mark.timeout(120)  # sixty questions, then the rest of a breaker
@pytest.mark.parametrize("status", [400, 422, 402, 403, 404, 413, 500])
async def test_a_worker_whose_provider_refuses_everything_takes_no_answers_and_comes_back(
    mesh: SmallMesh, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "FIRST_REST", 600.0)  # nothing is tried again before we say so
    monkeypatch.setattr(forecast, "FADES", 0.5)  # seconds, instead of half a minute until a failure is half forgiven
    async with Refusing() as bad, Refusing() as good:
        bad.failure = Failure(status=status)
        await mesh.worker("bad", bad.backend, **bad.config())
        for name in ("good-1", "good-2"):
            await mesh.worker(name, good.backend, **good.config())
        await mesh.manager()
        assert failures(await ask_many(mesh, QUESTIONS)) == []
        assert bad.asked["m"] <= NEARLY_NONE
        assert mesh.beats["bad"].state == "ready"
        bad.failure = Failure()
        ten_minutes_later(monkeypatch)

        async def is_back() -> bool:
            return bool((await mesh.ask())["worker_id"] == "bad")

        await eventually(is_back)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_a_failing_model_takes_nothing_from_the_other_model_of_its_worker(mesh: SmallMesh, status: int) -> None:
    async with Refusing("good", "bad") as provider:
        provider.bad, provider.failure = ("bad",), Failure(status=status, headers={"retry-after": "45"})
        await mesh.worker("w-1", provider.backend, **provider.config())
        await mesh.manager()
        wrong = await ask_many(mesh, 8, model="bad", deadline_ms=5000)
        assert len(failures(wrong)) == 8
        assert failures(await ask_many(mesh, 12, model="good")) == []
        assert failures(await ask_many(mesh, 12)) == []


async def test_a_rate_limit_of_one_model_tells_how_long_it_lasts(mesh: SmallMesh) -> None:
    async with Refusing("good", "bad") as provider:
        provider.bad, provider.failure = ("bad",), Failure(status=429, headers={"retry-after": "60"})
        await mesh.worker("w-1", provider.backend, **provider.config())
        await mesh.manager()
        await mesh.ask(model="bad", deadline_ms=5000)
        error = (await mesh.ask(model="bad", deadline_ms=5000))["error"]
        assert error["code"] == "rate_limited"
        assert 10_000 <= error["retry_after_ms"] <= 60_000
        assert "error" not in await mesh.ask(model="good")


async def test_a_question_that_two_different_backends_refuse_is_the_callers_fault(mesh: SmallMesh) -> None:
    """No breaker moves for it: the next plain question is answered by the same workers."""
    async with Refusing() as one, Refusing() as good:
        one.failure = Failure(status=400)
        await mesh.worker("w-1", one.backend, **one.config())
        await mesh.manager()
        for _ in range(8):
            error = (await mesh.ask())["error"]
            assert (error["code"], error["retryable"]) == ("invalid_request", False)
        one.failure = Failure()
        assert (await mesh.ask())["worker_id"] == "w-1"
        assert good.asked == Counter()


class Wordless(Refusing):
    """Ends its answers well, and says nothing in them."""

    def pieces(self, body: Json) -> list[str]:
        if body["model"] not in self.bad:
            return super().pieces(body)
        return [self._chunk({"content": "\n"}), self._chunk({}, "stop"), self._usage(), "data: [DONE]\n\n"]


async def test_an_answer_without_a_word_is_asked_for_elsewhere(mesh: SmallMesh) -> None:
    async with Wordless() as silent, Refusing() as good:
        good.bad = ()
        await mesh.worker("w-silent", "openai", **silent.config())
        await mesh.manager()
        told = await mesh.ask(prompt="Who?", max_tokens=40)
        assert told["error"]["code"] == "empty_answer"
        await mesh.worker("w-good", "openai", **good.config())
        answers = await ask_many(mesh, 12, prompt="Who?")
        assert failures(answers) == []
        assert {answer["output"] for answer in answers} == {"The capital is Paris."}
