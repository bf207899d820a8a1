"""How providers are asked for thoughts, penalties and log-probabilities, and what is made of those that they tell."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from contracts import AudioPart, ChatMessage, FilePart, InferenceRequest, TokenLogprob, TopLogprob
from contracts.request import FileData, InputAudio
from tests.backends.providers import PROVIDERS, AnthropicProvider, Json, Provider, configured
from tests.backends.quirks import Quirk
from workers.base import Backend, Job
from workers.base.interface.backend import Completion
from workers.base.interface.discovery import discover
from workers.base.provider.chat import token_logprobs

ABLE = ["chat", "stream", "tools", "vision", "json", "logprobs", "audio", "file", "reasoning"]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
STEERED: dict[str, Any] = {
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "logit_bias": {"42": -1.0},
    "parallel_tool_calls": False,
    "reasoning_effort": "low",
    "tools": (ADD,),
}


@asynccontextmanager
async def asking(
    backend_name: str, monkeypatch: pytest.MonkeyPatch, **model: Any
) -> AsyncIterator[tuple[Provider, Callable[..., Any]]]:
    """A stand-in, and what asks it a question."""
    monkeypatch.setenv(f"{backend_name.upper()}_API_KEY", "sk-test")
    async with PROVIDERS[backend_name]() as provider:
        folder = discover()[backend_name]
        told = {**provider.config(), "models": [{"name": "m", "capabilities": ABLE, **model}]}
        backend: Backend[Any] = folder.load()(configured(folder.load().config_class, told))
        await backend.start(lambda _: None)

        async def ask(*messages: ChatMessage, **asked: Any) -> Completion:
            question: Json = {"messages": messages} if messages else {"prompt": "How much is it?"}
            return await backend.infer(Job(InferenceRequest(**{**question, **asked}), backend.models()[0], 5000))

        try:
            yield provider, ask
        finally:
            await backend.close()


# OpenAI


async def test_openai_gets_every_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking("openai", monkeypatch) as (provider, ask):
        await ask(**STEERED, logprobs=True, top_logprobs=3)
    body = provider.received[0]
    assert {name: body[name] for name in STEERED} == {**STEERED, "tools": [ADD]}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)


@pytest.mark.parametrize("name", ["frequency_penalty", "logit_bias", "parallel_tool_calls", "reasoning_effort"])
async def test_what_a_server_refuses_is_left_out_once_and_for_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": {"message": f"Unrecognized request argument supplied: {name}", "type": "invalid_request_error"}}
    async with asking("openai", monkeypatch) as (provider, ask):
        refusing(provider, lambda body: name in body, error)
        answers = [await ask(**STEERED), await ask(**STEERED)]
    assert [answer.done.unsupported for answer in answers] == [(name,), (name,)]
    assert [name in body for body in provider.received] == [True, False, False]


async def test_an_effort_that_a_model_does_not_know_is_no_proof_against_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model."
    error = {"error": {"message": message, "code": "unsupported_value", "param": "reasoning_effort"}}
    async with asking("openai", monkeypatch) as (provider, ask):
        refusing(provider, lambda body: body.get("reasoning_effort") == "minimal", error)
        assert (await ask(reasoning_effort="minimal")).done.unsupported == ("reasoning_effort",)
        assert (await ask(reasoning_effort="low")).done.unsupported == ()
    assert [body.get("reasoning_effort") for body in provider.received] == ["minimal", None, "low"]


async def test_log_probabilities_that_are_asked_for_are_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": {"message": "logprobs is not supported", "type": "invalid_request_error"}}
    async with asking("openai", monkeypatch) as (provider, ask):
        refusing(provider, lambda body: "logprobs" in body, error)
        with pytest.raises(Exception, match="does not take logprobs"):
            await ask(logprobs=True)


async def test_an_effort_is_reported_unsupported_only_for_a_model_that_cannot_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asking("openai", monkeypatch, capabilities=["chat", "stream"]) as (provider, ask):
        assert (await ask(reasoning_effort="low")).done.unsupported == ("reasoning_effort",)
        assert (await ask(reasoning_effort="none")).done.unsupported == ()
        provider.thoughts = 1
        assert (await ask(reasoning_effort="low")).done.unsupported == ()


async def test_a_refusal_is_the_text_and_a_field_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking("openai", monkeypatch) as (provider, ask):
        said = [{"refusal": "I would "}, {"refusal": "rather not."}]
        provider.paced = [(0, piece) for piece in [*map(chunk, said), chunk({}, "stop")]]
        answer = await ask()
    assert (answer.text, answer.done.refusal, answer.done.finish_reason) == (
        "I would rather not.",
        "I would rather not.",
        "content_filter",
    )


async def test_sounds_and_files_are_passed_on_and_thoughts_beside_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (
        ChatMessage(role="user", content=(SOUND, PDF)),
        ChatMessage(role="assistant", content="5", reasoning_content="hm", extra={"openai": 1}),
        ChatMessage(role="user", content="And?"),
        ChatMessage(role="assistant", tool_calls=(CALL,), reasoning_content="so", extra={"openai": 1}),
        ChatMessage(role="tool", content="1", tool_call_id="c1"),
    )
    async with asking("openai", monkeypatch) as (provider, ask):
        await ask(*turns, tools=(ADD,))
    first, second, _, fourth, _ = provider.received[0]["messages"]
    assert first["content"] == [
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
    ]
    assert "reasoning_content" not in second and fourth["reasoning_content"] == "so"
    assert not any("extra" in message for message in provider.received[0]["messages"])


def test_invalid_log_probabilities_are_left_out() -> None:
    good = {"token": "a", "logprob": 0.1, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -9999.0}, 7]}
    bad = [{"token": 1, "logprob": -1}, {"token": "a", "logprob": None}, {"token": "a", "logprob": -1e9}, None]
    top = (TopLogprob(token="b", logprob=-9999.0),)
    assert token_logprobs([good, *bad]) == (TokenLogprob(token="a", logprob=0.0, bytes=(97,), top_logprobs=top),)
    assert token_logprobs([{"token": "a", "logprob": -1, "bytes": [300]}]) == (TokenLogprob(token="a", logprob=-1.0),)
    assert token_logprobs(None) == token_logprobs({"content": 1}) == ()


# Anthropic


async def test_claude_gets_a_budget_or_an_effort_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions: dict[str, tuple[Any, Any]] = {
        "claude-haiku-4-5": ({"type": "enabled", "budget_tokens": 2048}, None),
        "claude-opus-5-5": ({"type": "adaptive", "display": "summarized"}, {"effort": "low"}),
        "claude-3-5-old": (None, None),
    }
    for name, (thinking, output) in versions.items():
        async with asking("anthropic", monkeypatch, name=name) as (provider, ask):
            answer = await ask(reasoning_effort="low")
            await ask(reasoning_effort="none")
        asked, plain = provider.received
        assert (asked.get("thinking"), asked.get("output_config")) == (thinking, output)
        assert ("thinking" in plain, "output_config" in plain) == (False, False)
        assert answer.done.unsupported == (() if thinking else ("reasoning_effort",))


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", {"type": "any", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
    ],
)
async def test_claude_calls_one_tool_at_a_time(choice: str | None, told: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking("anthropic", monkeypatch) as (provider, ask):
        await ask(tools=(ADD,), tool_choice=choice, parallel_tool_calls=False)
    assert provider.received[0]["tool_choice"] == told


def block(provider: AnthropicProvider, index: int, told: Json, *deltas: Json) -> list[str]:
    return provider._block(index, told, list(deltas))


async def test_signed_thoughts_come_back_to_claude_in_their_places_and_to_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    async with asking("anthropic", monkeypatch, name="claude-opus-5-5") as (provider, ask):
        assert isinstance(provider, AnthropicProvider)
        provider.paced = [
            (0, piece)
            for piece in [
                provider._begin(),
                *block(
                    provider,
                    0,
                    thinking,
                    {"type": "thinking_delta", "thinking": "Hm. "},
                    {"type": "thinking_delta", "thinking": "So."},
                    {"type": "signature_delta", "signature": "c2ln"},
                ),
                *block(provider, 1, {"type": "redacted_thinking", "data": "eHh4"}),
                *block(provider, 2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Let me add."}),
                *block(
                    provider,
                    3,
                    {"type": "tool_use", "id": "c1", "name": "add", "input": {}},
                    {"type": "input_json_delta", "partial_json": '{"a": 1}'},
                ),
                *provider._end("tool_use"),
            ]
        ]
        answer = await ask(tools=(ADD,), reasoning_effort="high")
        assert (answer.reasoning, answer.text) == ("Hm. So.", "Let me add.")
        provider.paced = []
        earlier = ChatMessage(
            role="assistant", content=answer.text, tool_calls=answer.done.tool_calls, extra=answer.done.extra
        )
        result = ChatMessage(role="tool", content="1", tool_call_id=answer.done.tool_calls[0]["id"])
        question = ChatMessage(role="user", content="How much is it?")
        await ask(question, earlier, result, tools=(ADD,))
        changed = earlier.model_copy(update={"content": "Another text."})
        await ask(question, changed, result, tools=(ADD,))
    _, second, third = provider.received
    assert second["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm. So.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHh4"},
        {"type": "text", "text": "Let me add."},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
    ]
    assert [one["type"] for one in third["messages"][1]["content"]] == ["text", "tool_use"]
    async with asking("openai", monkeypatch) as (other, ask):
        await ask(question, earlier, result, tools=(ADD,))
    assert "c2ln" not in json.dumps(other.received)


async def test_claude_thinks_on_after_a_result_when_its_thoughts_are_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    order = [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}, {"type": "tool_use"}]
    earlier = ChatMessage(role="assistant", tool_calls=(CALL,), extra={"anthropic": {"blocks": order}})
    result = ChatMessage(role="tool", content="1", tool_call_id="c1")
    question = ChatMessage(role="user", content="How much is it?")
    async with asking("anthropic", monkeypatch, name="claude-haiku-4-5") as (provider, ask):
        await ask(question, earlier, result, tools=(ADD,), reasoning_effort="low")
        await ask(question, earlier.model_copy(update={"extra": None}), result, tools=(ADD,), reasoning_effort="low")
    assert ["thinking" in body for body in provider.received] == [True, False]


@pytest.mark.parametrize("extra", [{"anthropic": 1}, {"anthropic": {"blocks": [1]}}, {"anthropic": {"blocks": [{}]}}])
async def test_an_extra_that_claude_did_not_make_is_passed_over(extra: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = (ChatMessage(role="user", content="a"), ChatMessage(role="assistant", content="b", extra=extra))
    async with asking("anthropic", monkeypatch) as (provider, ask):
        await ask(*turns, ChatMessage(role="user", content="c"))
    assert provider.received[0]["messages"][1]["content"] == [{"type": "text", "text": "b"}]


async def test_files_are_documents_to_claude(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking("anthropic", monkeypatch) as (provider, ask):
        await ask(ChatMessage(role="user", content=(PDF, NOTE)))
    pdf, note = provider.received[0]["messages"][0]["content"]
    assert pdf == {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        "title": "a.pdf",
    }
    assert note == {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}}


# Ollama


async def test_ollama_gets_think_as_a_boolean_and_gpt_oss_as_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROVIDERS["ollama"], "show", _thinking)
    async with asking("ollama", monkeypatch) as (provider, ask):
        answer = await ask(**STEERED, logprobs=True, top_logprobs=2)
        await ask(reasoning_effort="none")
        await ask()
    first, second, third = provider.received
    assert (first["think"], second["think"], "think" in third) == (True, False, False)
    assert (first["options"]["frequency_penalty"], first["options"]["presence_penalty"]) == (0.5, -0.5)
    assert (first["logprobs"], first["top_logprobs"]) == (True, 2)
    assert answer.done.unsupported == ()


async def test_an_ollama_model_that_cannot_think_gets_no_think(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking("ollama", monkeypatch, capabilities=["chat"]) as (provider, ask):
        assert (await ask(reasoning_effort="high")).done.unsupported == ("reasoning_effort",)
    assert "think" not in provider.received[0]


# Gemini


@pytest.mark.parametrize(
    ("name", "effort", "told"),
    [
        ("gemini-2.5-flash", "low", {"includeThoughts": True, "thinkingBudget": 1024}),
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-3.1-pro", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-2.0-flash", "high", None),
    ],
)
def test_gemini_gets_a_budget_or_a_level(name: str, effort: str, told: Json | None) -> None:
    folder = discover()["gemini"].load()
    config = configured(folder.config_class, {"base_url": "http://127.0.0.1:1", "models": [{"name": name}]})
    backend: Any = folder(config)
    request = InferenceRequest.model_validate({"prompt": "hi", "reasoning_effort": effort})
    _, generation = backend._question(Job(request, backend.models()[0], 50))
    dumped = generation.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert dumped.get("thinkingConfig") == told
    assert tuple(backend._left_out((None, generation), None)) == (() if told else ("reasoning_effort",))


async def test_gemini_gets_sounds_files_penalties_and_its_own_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = ChatMessage(role="assistant", content="5", extra={"gemini": {"thought_signature": "c2ln"}})
    turns = (ChatMessage(role="user", content=(SOUND, PDF)), signed, ChatMessage(role="user", content="And?"))
    async with asking("gemini", monkeypatch) as (provider, ask):
        await ask(*turns, frequency_penalty=0.5, logprobs=True, top_logprobs=2)
    body = provider.received[0]
    parts = [part for turn in body["contents"] for part in turn["parts"]]
    inline = [{"data": part["inlineData"]["data"], "type": part["inlineData"]["mime_type"]} for part in parts[:2]]
    assert inline == [{"data": "UklGRg==", "type": "audio/wav"}, {"data": "JVBERi0=", "type": "application/pdf"}]
    assert parts[2] == {"text": "5", "thoughtSignature": "c2ln"}
    generation = body["generationConfig"]
    assert (generation["frequencyPenalty"], generation["responseLogprobs"], generation["logprobs"]) == (0.5, True, 2)


async def test_gemini_s_signature_of_a_text_is_what_it_wants_back(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [{"text": "Hm.", "thought": True}], [{"text": "5"}], [{"text": "", "thoughtSignature": "c2ln"}]
    async with asking("gemini", monkeypatch) as (provider, ask):
        end = {"candidates": [{"content": {"role": "model", "parts": []}, "finishReason": "STOP"}]}
        said = [{"candidates": [{"content": {"role": "model", "parts": part}}]} for part in parts]
        provider.paced = [(0, f"data: {json.dumps(told)}\n\n") for told in [*said, end]]
        answer = await ask()
    assert (answer.reasoning, answer.text) == ("Hm.", "5")
    assert answer.done.extra == {"gemini": {"thought_signature": "c2ln"}}


# Whatever the provider


SOUND = AudioPart(type="input_audio", input_audio=InputAudio(data="UklGRg==", format="wav"))
PDF = FilePart(type="file", file=FileData(file_data="data:application/pdf;base64,JVBERi0=", filename="a.pdf"))
NOTE = FilePart(type="file", file=FileData(file_data="data:text/plain;base64,aGk="))


def chunk(delta: Json, finish: str | None = None) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]})}\n\n"


def refusing(provider: Provider, refuses: Callable[[Json], bool], error: Json) -> None:
    provider.play(Quirk("", refuses=lambda body: (400, error) if refuses(body) else None))


async def _thinking(self: Provider, request: Any) -> Any:
    info = {"llama.context_length": 2048}
    return web.json_response({"model_info": info, "capabilities": ["completion", "tools", "thinking"]})
