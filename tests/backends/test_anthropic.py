"""What only this backend does: the Messages API's turns and blocks, its errors on the way, its way to count."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import web

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest, JsonObject
from tests.backends.providers import AnthropicProvider, Failure, Json, configured
from workers.anthropic.backend import AnthropicBackend, AnthropicConfig
from workers.anthropic.limits import accepted
from workers.anthropic.question import UNTOLD_MAX_TOKENS
from workers.base import Job
from workers.base.interface.discovery import find
from workers.base.provider.connection import listening

Start = Callable[..., Awaitable[AnthropicBackend]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator["Listing"]:
    async with Listing() as provider:
        yield provider


@pytest.fixture
async def start(provider: AnthropicProvider) -> AsyncIterator[Start]:
    """Starts a backend against the provider; every one of them is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def started(**told: Any) -> AnthropicBackend:
            config = configured(AnthropicConfig, {**provider.config(), **told})
            assert isinstance(config, AnthropicConfig)
            backend = AnthropicBackend(config)
            stack.push_async_callback(backend.close)
            await backend.start(lambda _: None)
            return backend

        yield started


def job(backend: AnthropicBackend, prefix: str = "", max_tokens: int | None = 50, **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": "What is the capital of France?", **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


async def received(provider: AnthropicProvider, backend: AnthropicBackend, asked: Job) -> Json:
    await backend.infer(asked)
    return provider.received[-1]


async def test_without_a_key_it_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    told = await AnthropicBackend.available(AnthropicConfig())
    assert (told.available, told.reason) == (False, "no key")
    assert "ANTHROPIC_API_KEY" in told.cure


class Listing(AnthropicProvider):
    """Lists the models it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = ["m"]

    async def models(self, request: web.Request) -> web.Response:
        listed = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
            for name in self.listed
        ]
        return web.json_response({"data": listed, "has_more": False, "first_id": None, "last_id": None})


async def test_a_model_that_is_gone_is_out_of_service_until_it_is_back(provider: Listing, start: Start) -> None:
    provider.listed = ["a", "b"]
    backend = await start(models=[{"name": "a"}, {"name": "b"}, {"name": "an-alias"}])
    for there, out in (["b"], ["a"]), (["a", "b"], []):
        provider.listed = there
        await backend.health()
        assert [card.model_id for card in backend.models() if not card.capabilities] == out
        assert [card.model_id for card in backend.models() if card.trouble] == out


async def test_the_house_s_config_names_models_with_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find("anthropic")
    config = folder.config_file(folder.path / "config.yaml").load()
    assert all(model.price is not None for model in config.models)


async def test_the_system_text_stands_apart_and_turns_alternate(provider: AnthropicProvider, start: Start) -> None:
    messages = [
        ("system", "Be brief."),
        ("user", "One."),
        ("user", "Two."),
        ("assistant", "Three."),
        ("user", "Four?"),
    ]
    asked = InferenceRequest.model_validate_json(
        json.dumps({"messages": [{"role": role, "content": text} for role, text in messages]})
    )
    backend = await start()
    body = await received(provider, backend, Job(asked, backend.models()[0], 50))
    assert body["system"] == "Be brief."
    texts = [[block["text"] for block in turn["content"]] for turn in body["messages"]]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert texts == [["One.", "Two."], ["Three."], ["Four?"]]


async def test_max_tokens_is_always_sent(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    assert (await received(provider, backend, job(backend)))["max_tokens"] == 50
    assert (await received(provider, backend, job(backend, max_tokens=None)))["max_tokens"] == UNTOLD_MAX_TOKENS


async def test_parameters_that_were_not_set_are_not_sent(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    body = await received(provider, backend, job(backend))
    assert body.keys() == {"model", "messages", "max_tokens", "stream"}


async def test_a_temperature_beyond_its_scale_is_the_warmest(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    assert (await received(provider, backend, job(backend, temperature=1.8)))["temperature"] == 1.0


async def test_the_operator_s_options_go_above_the_caller_s(provider: AnthropicProvider, start: Start) -> None:
    model = {"name": "m", "options": {"temperature": None, "thinking": {"type": "enabled", "budget_tokens": 1024}}}
    backend = await start(models=[model])
    body = await received(provider, backend, job(backend, temperature=0.5, max_tokens=4096))
    assert "temperature" not in body
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}


@pytest.mark.parametrize(
    ("limit", "own_limit", "budget", "asked"),
    [
        (8000, False, 4096, 8000),
        (4096, False, 2048, 4096),
        (2048, False, 1024, 2048),
        (2047, False, None, 2047),
        (16, False, None, 16),
        (1000, True, 4096, 5096),
    ],
)
def test_a_caller_s_limit_bounds_thoughts_and_answer_together(
    limit: int, own_limit: bool, budget: int | None, asked: int
) -> None:
    told: JsonObject = {"max_tokens": limit, "thinking": {"type": "enabled", "budget_tokens": 4096}}
    body = accepted(told, "claude-sonnet-4-5", [], own_limit=own_limit)
    assert (body["max_tokens"], body.get("thinking", {}).get("budget_tokens")) == (asked, budget)


async def test_json_is_asked_for_by_schema_or_in_words(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}
    wanted: JsonObject = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = await received(provider, backend, job(backend, response_format=wanted))
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    body = await received(provider, backend, job(backend, response_format={"type": "json_object"}))
    assert "JSON object" in body["system"]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", None),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "add"}}, {"type": "tool", "name": "add"}),
    ],
)
async def test_the_choice_of_a_tool(provider: AnthropicProvider, start: Start, choice: Any, told: Json | None) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    backend = await start()
    body = await received(provider, backend, job(backend, tools=(tool,), tool_choice=choice))
    assert body.get("tool_choice") == told
    assert body["tools"] == [{"name": "add", "input_schema": {"type": "object"}}]


async def test_results_of_tools_are_the_user_s_blocks(provider: AnthropicProvider, start: Start) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    asked = InferenceRequest(
        messages=(
            ChatMessage(role="user", content="Add."),
            ChatMessage(role="assistant", content="", tool_calls=(call,)),
            ChatMessage(role="tool", content="2", tool_call_id="c1"),
        )
    )
    backend = await start()
    body = await received(provider, backend, Job(asked, backend.models()[0], 50))
    assert body["messages"][1]["content"] == [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}]
    assert body["messages"][2] == {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}],
    }


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", ErrorCode.UPSTREAM_ERROR),
        ("rate_limit_error", ErrorCode.RATE_LIMITED),
        ("authentication_error", ErrorCode.UPSTREAM_AUTH),
        ("never_heard_of", ErrorCode.UPSTREAM_ERROR),
    ],
)
async def test_an_error_in_the_middle_is_what_it_says(
    provider: AnthropicProvider, start: Start, kind: str, code: ErrorCode
) -> None:
    backend = await start()
    told = provider.event({"type": "error", "error": {"type": kind, "message": "Something."}})
    provider.failure = Failure(garbage=provider.pieces({})[0] + told)
    with pytest.raises(BullpenError, match="Something") as caught:
        await backend.infer(job(backend))
    assert caught.value.code is code


async def test_overload_is_a_failure_and_not_the_caller_s_fault(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    provider.failure = Failure(status=529)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


@pytest.mark.parametrize(
    ("reason", "finish"), [("refusal", "content_filter"), ("model_context_window_exceeded", "length")]
)
async def test_how_an_answer_ends(
    provider: AnthropicProvider, start: Start, monkeypatch: pytest.MonkeyPatch, reason: str, finish: str
) -> None:
    whole = provider.pieces
    monkeypatch.setattr(provider, "pieces", lambda body: [p.replace("end_turn", reason) for p in whole(body)])
    backend = await start()
    assert (await backend.infer(job(backend))).done.finish_reason == finish


async def test_what_is_cached_and_thought_is_counted_within_the_whole(
    provider: AnthropicProvider, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own figures for the prompt do not contain what was in the cache."""
    more = '"input_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20'
    thought = '"output_tokens": 4, "output_tokens_details": {"thinking_tokens": 3}'
    whole = provider.pieces

    def pieces(body: Json) -> list[str]:
        return [p.replace('"input_tokens": 7', more).replace('"output_tokens": 4', thought) for p in whole(body)]

    monkeypatch.setattr(provider, "pieces", pieces)
    backend = await start()
    used = (await backend.infer(job(backend))).done.usage
    assert (used.prompt_tokens, used.cached_tokens, used.cache_write_tokens) == (127, 100, 20)
    assert (used.completion_tokens, used.reasoning_tokens) == (4, 3)


async def test_its_limits_are_heard(provider: AnthropicProvider, start: Start) -> None:
    backend = await start()
    heard: list[str] = []
    listening.set(lambda headers: heard.append(headers.get("anthropic-ratelimit-requests-remaining", "")))
    provider.failure = Failure(status=429, headers={"anthropic-ratelimit-requests-remaining": "0", "retry-after": "3"})
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert (caught.value.code, caught.value.retry_after_ms) == (ErrorCode.RATE_LIMITED, 3000)
    assert heard == ["0"]
