"""Whose fault it is: what one model, or one request, meets takes no answer from another, asked at its worker directly.

The providers are stand-ins at their HTTP boundary; the worker, its heartbeat and NATS are real.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from contracts import Heartbeat, ModelCard
from contracts import subjects as s
from tests.backends.providers import Failure, Json, OllamaProvider, OpenAIProvider
from tests.mesh import SmallMesh
from tests.support import eventually
from workers.base.runtime import health

DIRECT = s.infer_backend("openai")
QUICK = {"health_interval": 0.2}
RARE = {"health_interval": 3600}


class Choosy(OpenAIProvider):
    """Fails as each model is told to; lists what it is told to, and may refuse that as well."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, Failure] = {}
        self.listed = ["a", "b"]
        self.list_status = 200
        self.looks = 0
        self.held: dict[str, asyncio.Event] = {}
        """A model's answers wait for this."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        if model in self.held:
            self.received.append({"model": model})
            await self.held[model].wait()
        self.failure = self.failures.get((await request.json())["model"], Failure())
        return await super().answer(request)

    async def models(self, request: web.Request) -> web.Response:
        self.looks += 1
        if self.list_status != 200:
            return web.Response(status=self.list_status, text=self.error(self.list_status))
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.listed]})

    def config(self) -> Json:
        return {"base_url": f"{self.url}/v1", "models": [{"name": "a"}, {"name": "b"}]}


class Installed(OllamaProvider):
    """Has the models it is told to have."""

    def __init__(self) -> None:
        super().__init__()
        self.installed: dict[str, Json] = {"a": {"capabilities": ["completion"]}}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = (await request.json())["model"]
        self.failure = Failure() if name in self.installed else Failure(status=404)
        return await super().answer(request)

    async def tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [{"model": name} for name in self.installed]})

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response({"model_info": {}, **self.installed[(await request.json())["model"]]})


@pytest.fixture
async def provider() -> AsyncIterator[Choosy]:
    async with Choosy() as provider:
        yield provider


def beat(mesh: SmallMesh) -> Heartbeat:
    return mesh.beats["w-1"]


def card(mesh: SmallMesh, model: str) -> ModelCard:
    return next(card for card in beat(mesh).models if card.model_id == model)


def offered(mesh: SmallMesh) -> list[str]:
    """For chat. Models that only embed are in the heartbeat as well."""
    return [card.model_id for card in beat(mesh).models if "chat" in card.capabilities]


FAILING = {
    "limited": Failure(status=429, headers={"Retry-After": "45"}, body="{}"),
    "too large for the memory": Failure(status=500, body=json.dumps({"error": "model requires more system memory"})),
    "unknown": Failure(status=404),
    "refusing": Failure(status=400),
    "flagging": Failure(status=403),
    "too dear": Failure(status=402),
    "cut off": Failure(truncate=True),
    "talking rubbish": Failure(garbage="<html>no</html>"),
}


@pytest.mark.parametrize("failure", FAILING.values(), ids=FAILING.keys())
async def test_one_failing_model_takes_nothing_from_its_neighbour(
    mesh: SmallMesh, provider: Choosy, failure: Failure
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **QUICK)
    provider.failures["a"] = failure
    told = [(await mesh.ask(DIRECT, model="a"), await mesh.ask(DIRECT, model="b")) for _ in range(15)]
    assert all(one["error"]["fault"] == "model" for one, _ in told)
    assert all("output" in other for _, other in told)
    assert beat(mesh).state == "ready"


async def test_a_limited_model_says_when_it_can_be_asked_again_and_is_left_alone(
    mesh: SmallMesh, provider: Choosy
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    provider.failures["a"] = FAILING["limited"]
    first, again = [(await mesh.ask(DIRECT, model="a"))["error"] for _ in range(2)]
    assert first["retry_after_ms"] == 45_000
    assert 30_000 < again["retry_after_ms"] <= 45_000
    assert len(provider.received) == 1
    assert (await mesh.ask(DIRECT))["model_id"] == "b", "whoever names no model gets one that can answer"


async def test_a_limit_that_only_the_headers_time_is_told_as_long_as_it_lasts(
    mesh: SmallMesh, provider: Choosy
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "45s"}
    provider.failures["a"] = Failure(status=429, headers=headers, body="{}")
    error = (await mesh.ask(DIRECT, model="a"))["error"]
    assert 30_000 < error["retry_after_ms"] <= 45_000


async def test_a_model_that_refuses_nearly_everything_says_so_until_it_answers(
    mesh: SmallMesh, provider: Choosy
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    secret = json.dumps({"error": {"message": "I do not like 'my secret prompt'"}})
    provider.failures["a"] = Failure(status=422, body=secret)
    for _ in range(10):
        assert (await mesh.ask(DIRECT, model="a"))["error"]["code"] == "invalid_request"
    await eventually(lambda: card(mesh, "a").trouble == "refused 10 of its last 10 requests (invalid_request)")
    assert (beat(mesh).state, card(mesh, "b").trouble) == ("ready", "")
    assert card(mesh, "a").capabilities, "whether it is asked is not the worker's decision"
    provider.failures.clear()
    assert "output" in await mesh.ask(DIRECT, model="a")
    await eventually(lambda: not card(mesh, "a").trouble)


async def test_a_flagged_prompt_degrades_no_worker(
    mesh: SmallMesh, provider: Choosy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One health check is made of it, not one of each."""
    monkeypatch.setattr(health, "APART", 600.0)
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    looks = provider.looks
    provider.failures["a"] = Failure(status=403)
    for _ in range(5):
        assert (await mesh.ask(DIRECT, model="a"))["error"]["code"] == "upstream_auth"
        assert "output" in await mesh.ask(DIRECT, model="b")
    await eventually(lambda: provider.looks > looks)
    assert provider.looks - looks == 1
    assert beat(mesh).state == "ready"


@pytest.mark.parametrize("status", [402, 403])
async def test_a_refusal_that_the_health_check_meets_too_takes_the_worker_out(
    mesh: SmallMesh, provider: Choosy, status: int
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    provider.failures["a"] = Failure(status=status)
    provider.list_status = status
    assert (await mesh.ask(DIRECT, model="a"))["error"]["fault"] == "model", "not confirmed yet"
    assert str(status) in (await mesh.state("w-1", "degraded")).reason


async def test_what_was_asked_before_a_refusal_was_confirmed_is_the_account_s_fault(
    mesh: SmallMesh, provider: Choosy
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    provider.failures = {"a": Failure(status=403), "b": Failure(status=403)}
    provider.held["a"], provider.list_status = asyncio.Event(), 403
    waiting = asyncio.create_task(mesh.ask(DIRECT, model="a"))
    await eventually(lambda: provider.received)
    await mesh.ask(DIRECT, model="b")
    await mesh.state("w-1", "degraded")
    provider.held["a"].set()
    assert (await waiting)["error"]["fault"] == "account"


async def test_a_refused_key_takes_the_worker_out_at_once_and_a_good_one_back(
    mesh: SmallMesh, provider: Choosy
) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), health_interval=1.0)
    provider.failures["a"] = Failure(status=401)
    provider.list_status = 401
    assert (await mesh.ask(DIRECT, model="a"))["error"]["fault"] == "account"
    await mesh.state("w-1", "degraded")
    provider.list_status = 200
    await mesh.state("w-1", "ready")


async def test_an_unreachable_provider_is_the_worker_s_fault(mesh: SmallMesh) -> None:
    async with Choosy() as provider:
        await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    error = (await mesh.ask(DIRECT))["error"]
    assert (error["code"], error["fault"]) == ("upstream_error", "worker")


async def test_a_request_that_is_wrong_is_at_fault_itself(mesh: SmallMesh, provider: Choosy) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}
    content = [{"type": "text", "text": "?"}, image]
    told = await mesh.ask(DIRECT, prompt=None, messages=[{"role": "user", "content": content}])
    error = told["error"]
    assert (error["status"], error["fault"]) == (400, "request")
    assert error["field"] == "messages.0.content.1.image_url.url"
    assert not provider.received


async def test_what_the_worker_itself_refuses_says_whose_fault_it_is_too(mesh: SmallMesh, provider: Choosy) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **RARE, first_token_timeout=0.2)
    tool = {"type": "function", "function": {"name": "look"}}
    assert (await mesh.ask(DIRECT, model="nobody"))["error"]["fault"] == "model"
    assert (await mesh.ask(DIRECT, tools=[tool]))["error"]["fault"] == "request"
    assert (await mesh.ask_raw(b"{}", DIRECT))["error"]["fault"] == "request"
    provider.failures["a"] = Failure(mute=True)
    assert (await mesh.ask(DIRECT, model="a"))["error"]["fault"] == "model"


async def test_a_removed_model_is_noticed_with_its_first_404_and_a_loaded_one_with_the_next_check(
    mesh: SmallMesh, provider: Choosy
) -> None:
    provider.listed = ["gpt-a", "gpt-b", "gpt-embed"]
    await mesh.worker("w-1", "openai", base_url=f"{provider.url}/v1", **RARE)
    assert offered(mesh) == ["gpt-a", "gpt-b"]
    provider.listed, provider.failures = ["gpt-b", "gpt-c"], {"gpt-a": Failure(status=404)}
    assert (await mesh.ask(DIRECT, model="gpt-a"))["error"]["code"] == "no_such_model"
    await eventually(lambda: offered(mesh) == ["gpt-b", "gpt-c"])
    assert "output" in await mesh.ask(DIRECT, model="gpt-c")
    refused = (await mesh.ask(DIRECT, model="gpt-a"))["error"]
    assert "does not serve gpt-a" in refused["message"]


async def test_a_named_model_that_is_gone_is_told_and_comes_back(mesh: SmallMesh, provider: Choosy) -> None:
    await mesh.worker("w-1", "openai", **provider.config(), **QUICK)
    provider.listed = ["b"]
    await eventually(lambda: offered(mesh) == ["b"])
    assert card(mesh, "a").trouble == "its server does not list it any more"
    refused = (await mesh.ask(DIRECT, model="a"))["error"]
    assert (refused["code"], refused["fault"]) == ("no_such_model", "model")
    assert (await mesh.ask(DIRECT))["model_id"] == "b"
    provider.listed = ["a", "b"]
    await eventually(lambda: offered(mesh) == ["a", "b"])


async def test_what_is_pulled_into_an_ollama_or_removed_from_it_is_noticed(mesh: SmallMesh) -> None:
    direct = s.infer_backend("ollama")
    async with Installed() as provider:
        await mesh.worker("w-1", "ollama", host=provider.url, **RARE)
        provider.installed = {
            "b": {"capabilities": ["completion"]},
            "embedder": {"capabilities": ["embedding"]},
        }
        assert (await mesh.ask(direct, model="a"))["error"]["code"] == "no_such_model"
        await eventually(lambda: offered(mesh) == ["b"])
        assert (await mesh.ask(direct))["model_id"] == "b"


async def test_an_ollama_s_missing_model_takes_no_other_along(mesh: SmallMesh) -> None:
    direct = s.infer_backend("ollama")
    async with Installed() as provider:
        models = [{"name": "missing"}, {"name": "a"}]
        await mesh.worker("w-1", "ollama", host=provider.url, models=models, **QUICK)
        assert "ollama pull missing" in card(mesh, "missing").trouble
        answers = await asyncio.gather(*(mesh.ask(direct, model="a") for _ in range(5)))
        assert all("output" in answer for answer in answers)
        provider.installed["missing"] = {"capabilities": ["completion"]}
        await eventually(lambda: offered(mesh) == ["missing", "a"])
