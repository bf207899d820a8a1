"""How a question becomes turns and parts, and an answer comes back; LiteLLM's proxy as a real server of that API."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest, Outcome
from tests.backends.providers import Failure, GeminiProvider, Json, OpenAIProvider, configured
from tests.servers import free_port
from tests.support import eventually
from workers.base import Done, Job
from workers.gemini.backend import GeminiBackend, GeminiConfig

ROOT = Path(__file__).resolve().parents[2]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
PROXY_KEY = "sk-only-for-this-test"
SIGNATURE = base64.b64encode(b"thoughts").decode()


class Scripted(GeminiProvider):
    """Answers with the events it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Json] = []
        self.described: dict[str, Json] = {"m": {}}
        """The models that it knows, besides their names."""

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_get("/v1beta/models/{name}", self.model)

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "m")
        if name not in self.described:
            return web.Response(status=404, text=self.error(404))
        return web.json_response({"name": f"models/{name}", **self.described[name]})

    def pieces(self, body: Json) -> list[str]:
        return [f"data: {json.dumps(told)}\n\n" for told in self.script] or super().pieces(body)


def event(*parts: Json, finish: str | None = None, **more: Any) -> Json:
    candidate: Json = {
        "content": {"role": "model", "parts": list(parts)},
        **({"finishReason": finish} if finish else {}),
    }
    return {"candidates": [{**candidate, **more}]}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "test")
    monkeypatch.delenv("GEMINI_BASE_URL", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    async with Scripted() as provider:
        yield provider


@pytest.fixture
async def backend(provider: Scripted, request: pytest.FixtureRequest) -> AsyncIterator[GeminiBackend]:
    options = getattr(request, "param", {})
    model = {"name": "m", "capabilities": ["chat", "stream", "tools", "json", "logprobs"], "options": options}
    config = configured(GeminiConfig, {"base_url": provider.url, "models": [model]})
    assert isinstance(config, GeminiConfig)
    backend = GeminiBackend(config)
    await backend.start(lambda _: None)
    yield backend
    await backend.close()


def job(backend: GeminiBackend, *messages: ChatMessage, prefix: str = "", **asked: Any) -> Job:
    question: Json = {"messages": messages} if messages else {"prompt": "How warm is it?"}
    return Job(InferenceRequest(**{**question, **asked}), backend.models()[0], 50, prefix)


async def received(provider: Scripted, backend: GeminiBackend, *messages: ChatMessage, **asked: Any) -> Json:
    await backend.infer(job(backend, *messages, **asked))
    return provider.received[-1]


def called(call_id: str, name: str, arguments: str = "{}", **more: Any) -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


# What it needs


def test_it_needs_nothing_that_its_image_lacks() -> None:
    """The SDK brings httpx2. Plain httpx comes with other backends' SDKs only."""
    code = "import sys; sys.modules.update(httpx=None, openai=None, ollama=None); import workers.gemini.backend"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr


async def test_a_server_that_is_not_there_is_not_available_key_or_not(provider: Scripted) -> None:
    config = GeminiConfig(base_url=provider.url)
    assert (await GeminiBackend.available(config)).available
    await provider.__aexit__()
    assert not (await GeminiBackend.available(config)).available


async def test_google_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await GeminiBackend.available(GeminiConfig())).available
    monkeypatch.delenv("GEMINI_API_KEY")
    told = await GeminiBackend.available(GeminiConfig())
    assert not told.available
    assert "GEMINI_API_KEY" in told.cure


# What is asked


async def test_turns_have_two_sides_only(provider: Scripted, backend: GeminiBackend) -> None:
    body = await received(
        provider,
        backend,
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Hi"),
        ChatMessage(role="user", content="there"),
        ChatMessage(role="assistant", content="Ho"),
        ChatMessage(role="developer", content="Be kind."),
        ChatMessage(role="user", content="So?"),
        prefix="We",
    )
    assert [(turn["role"], [part["text"] for part in turn["parts"]]) for turn in body["contents"]] == [
        ("user", ["Hi", "there"]),
        ("model", ["Ho"]),
        ("user", ["So?"]),
        ("model", ["We"]),
    ]
    assert body["systemInstruction"]["parts"] == [{"text": "Be brief.\n\nBe kind."}]


async def test_results_name_their_functions_and_stand_in_one_turn(provider: Scripted, backend: GeminiBackend) -> None:
    """The API wants as many results in the next turn as there were calls, by name; others know them by id."""
    signed = {"extra_content": {"google": {"thought_signature": SIGNATURE}}}
    calls = (called("c1", "weather", '{"in": "Paris"}', **signed), called("c2", "forecast", '{"in": "Rome"}'))
    body = await received(
        provider,
        backend,
        ChatMessage(role="user", content="How warm is it in Paris and Rome?"),
        ChatMessage(role="assistant", tool_calls=calls),
        ChatMessage(role="tool", tool_call_id="c1", content="20"),
        ChatMessage(role="tool", tool_call_id="c2", content="25"),
        tools=(TOOL,),
    )
    asked, made, results = body["contents"]
    assert [part["functionCall"] for part in made["parts"]] == [
        {"name": "weather", "args": {"in": "Paris"}},
        {"name": "forecast", "args": {"in": "Rome"}},
    ]
    assert [part.get("thoughtSignature") for part in made["parts"]] == [SIGNATURE, None]
    assert [part["functionResponse"]["name"] for part in results["parts"]] == ["weather", "forecast"]
    assert [part["functionResponse"]["response"] for part in results["parts"]] == [{"result": "20"}, {"result": "25"}]
    assert asked["role"] == results["role"] == "user"


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        (None, None),
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (TOOL, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
async def test_which_function_to_call(
    provider: Scripted, backend: GeminiBackend, choice: str | Json | None, config: Json | None
) -> None:
    body = await received(provider, backend, tools=(TOOL,), tool_choice=choice)
    (declared,) = body["tools"][0]["functionDeclarations"]
    assert list(declared.values()) == ["weather", {"type": "object"}]  # the SDK spells the keys in two ways
    assert body.get("toolConfig", {}).get("functionCallingConfig") == config


async def test_json_after_a_schema(provider: Scripted, backend: GeminiBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    generation = (await received(provider, backend, response_format=wanted))["generationConfig"]
    assert (generation["responseMimeType"], generation["responseJsonSchema"]) == ("application/json", schema)


async def test_a_seed_fits_into_what_the_api_takes(provider: Scripted, backend: GeminiBackend) -> None:
    body = await received(provider, backend, seed=-(2**62) - 1, stop=("", "END"))
    assert 0 <= body["generationConfig"]["seed"] < 2**31
    assert body["generationConfig"]["stopSequences"] == ["END"]
    assert body["generationConfig"]["responseLogprobs"] is True


@pytest.mark.parametrize("backend", [{"top_k": 5, "thinking_config": {"thinking_budget": 0}}], indirect=True)
async def test_options_go_to_the_server(provider: Scripted, backend: GeminiBackend) -> None:
    generation = (await received(provider, backend))["generationConfig"]
    assert generation["topK"] == 5
    assert list(generation["thinkingConfig"].values()) == [0]  # the SDK spells the key in two ways


@pytest.mark.parametrize(
    "broken",
    [
        ChatMessage(role="assistant", tool_calls=(called("c1", "add", "no json"),)),
        ChatMessage(role="assistant", tool_calls=(called("c1", "add", "[1]"),)),
        ChatMessage(role="assistant", tool_calls=({"id": "c1"},)),
    ],
)
async def test_a_question_that_is_wrong_everywhere_is_asked_nowhere(
    provider: Scripted, backend: GeminiBackend, broken: ChatMessage
) -> None:
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend, ChatMessage(role="user", content="Hm?"), broken))
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_REQUEST, "messages")
    assert caught.value.fault == "request"
    assert not provider.received


async def test_a_model_that_only_embeds_is_served_for_that_whatever_its_name(provider: Scripted) -> None:
    provider.described = {"m": {"supportedGenerationMethods": ["embedContent", "countTokens"]}}
    backend = GeminiBackend(GeminiConfig.model_validate({"base_url": provider.url, "models": [{"name": "m"}]}))
    await backend.start(lambda _: None)
    assert [card.capabilities for card in backend.models()] == [("embed",)]
    await backend.close()


async def test_a_model_that_is_gone_or_cannot_chat_takes_no_other_along(provider: Scripted) -> None:
    names = ("a", "b", "painter")
    provider.described = {"a": {}, "b": {}, "painter": {"supportedGenerationMethods": ["predict"]}}
    config = configured(GeminiConfig, {"base_url": provider.url, "models": [{"name": name} for name in names]})
    assert isinstance(config, GeminiConfig)
    backend = GeminiBackend(config)
    await backend.start(lambda _: None)
    assert [card.model_id for card in backend.models() if card.capabilities] == ["a", "b"]
    assert backend.models()[2].trouble == "it cannot chat or embed, only predict"
    del provider.described["a"]
    await backend.health()
    assert [card.model_id for card in backend.models() if card.capabilities] == ["b"]
    provider.described = {"a": {"supportedGenerationMethods": ["generateContent"]}, "b": {}}
    await backend.health()
    assert [card.model_id for card in backend.models() if card.capabilities] == ["a", "b"]
    provider.described = {}
    await backend.health()
    assert all(card.capabilities for card in backend.models()), "a server that describes none serves all"
    await backend.close()


async def test_options_that_fit_no_question_are_the_model_s_fault(provider: Scripted) -> None:
    """Else a worker with a wrong config would end every request for good."""
    model = {"name": "m", "options": {"temperature": "hot"}}
    config = configured(GeminiConfig, {"base_url": provider.url, "models": [model]})
    assert isinstance(config, GeminiConfig)
    backend = GeminiBackend(config)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend, ChatMessage(role="user", content="Hm?")))
    assert (caught.value.code, caught.value.fault) == (ErrorCode.INVALID_REQUEST, "model")
    await backend.close()


# What is answered


async def test_thoughts_are_paid_and_not_shown(provider: Scripted, backend: GeminiBackend) -> None:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 90}
    provider.script = [
        event({"text": "Let me see …", "thought": True}),
        event({"text": "20 degrees"}),
        {**event(finish="STOP"), "usageMetadata": usage},
    ]
    answer = await backend.infer(job(backend))
    assert answer.text == "20 degrees"
    assert answer.done == Done("stop", 7, 93, reasoning_tokens=90)


async def test_calls_come_back_with_their_signatures(provider: Scripted, backend: GeminiBackend) -> None:
    call = {"functionCall": {"name": "weather", "args": {"in": "Köln"}}, "thoughtSignature": SIGNATURE}
    provider.script = [event(call), event({"functionCall": {"name": "weather"}}), event(finish="STOP")]
    done = (await backend.infer(job(backend))).done
    assert done.finish_reason == "tool_calls"
    first, second = done.tool_calls
    assert json.loads(first["function"]["arguments"]) == {"in": "Köln"}
    assert first["extra_content"] == {"google": {"thought_signature": SIGNATURE}}
    assert second["function"] == {"name": "weather", "arguments": "{}"}
    assert len({first["id"], second["id"]}) == 2


@pytest.mark.parametrize(
    ("last", "finish"),
    [
        (event(finish="MAX_TOKENS"), "length"),
        (event(finish="SAFETY"), "content_filter"),
        (event(finish="PROHIBITED_CONTENT"), "content_filter"),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
    ],
)
async def test_why_it_ended(provider: Scripted, backend: GeminiBackend, last: Json, finish: str) -> None:
    provider.script = [event({"text": "Hm."}), last]
    assert (await backend.infer(job(backend))).done.finish_reason == finish


@pytest.mark.filterwarnings("ignore:TOMORROWS_REASON")
@pytest.mark.parametrize("reason", ["OTHER", "TOMORROWS_REASON"])
async def test_an_ending_that_is_a_failure(provider: Scripted, backend: GeminiBackend, reason: str) -> None:
    provider.script = [event({"text": "Hm."}), event(finish=reason)]
    with pytest.raises(BullpenError, match=f"ended its answer with '{reason}'") as caught:
        await backend.infer(job(backend))
    assert caught.value.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("told", "logprobs"),
    [
        ({"logprobsResult": {"chosenCandidates": [{"logProbability": -0.1}, {"logProbability": -2}]}}, (-0.1, -2.0)),
        ({"avgLogprobs": -0.7}, (-0.7,)),
        ({}, ()),
    ],
)
async def test_probabilities(
    provider: Scripted, backend: GeminiBackend, told: Json, logprobs: tuple[float, ...]
) -> None:
    provider.script = [event({"text": "20 degrees"}), event(finish="STOP", **told)]
    answer = await backend.infer(job(backend))
    assert answer.logprobs == logprobs
    assert answer.text == "20 degrees"


@pytest.mark.parametrize(("headers", "wait"), [({}, 34_000), ({"Retry-After": "3"}, 3000)])
async def test_google_says_in_the_body_how_long_to_wait(
    provider: Scripted, backend: GeminiBackend, headers: dict[str, str], wait: int
) -> None:
    details = [{"@type": "…QuotaFailure"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]
    body = json.dumps({"error": {"code": 429, "message": "quota", "status": "EXHAUSTED", "details": details}})
    provider.failure = Failure(status=429, headers=headers, body=body)
    with pytest.raises(BullpenError, match="quota") as caught:
        await backend.infer(job(backend))
    assert caught.value.retry_after_ms == wait


# A real server


@asynccontextmanager
async def proxy(litellm: str, behind: OpenAIProvider, directory: Path) -> AsyncIterator[str]:
    """LiteLLM's proxy in front of `behind`; its address."""
    params = {"model": "openai/m", "api_base": f"{behind.url}/v1", "api_key": "none"}
    models = [{"model_name": "m", "litellm_params": params}]
    config = directory / "litellm.yaml"  # JSON is YAML
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": PROXY_KEY}}))
    port = free_port()
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HOME": str(directory)}
    told = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (directory / "litellm.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(litellm, *told, stdout=log, stderr=log, env=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        await eventually(lambda: answers(f"{url}/health/liveliness"), timeout=60, every=0.5)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def answers(url: str) -> bool:
    with suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.ok
    return False


@pytest.mark.timeout(120)
async def test_through_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy speaks Gemini's API to us, and OpenAI's to the server behind it."""
    litellm = shutil.which("litellm")
    if litellm is None:
        pytest.skip("litellm is not on the PATH: pip install 'litellm[proxy]' somewhere and put it there")
    monkeypatch.setenv("GEMINI_API_KEY", PROXY_KEY)
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(OpenAIProvider())
        url = await stack.enter_async_context(proxy(litellm, behind, tmp_path))
        backend = GeminiBackend(GeminiConfig.model_validate({"base_url": url, "models": [{"name": "m"}]}))
        stack.push_async_callback(backend.close)
        await backend.start(lambda _: None)
        answer = await backend.infer(job(backend, temperature=0.5))
        assert answer.text == "The capital is Paris."
        assert answer.done.finish_reason == "stop"
        assert answer.done.completion_tokens
        assert behind.received[-1]["temperature"] == 0.5
