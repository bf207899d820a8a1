"""Parameters that a model refuses: left out, remembered, or told to the caller."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from contracts import BullpenError, ChatMessage, ErrorCode, InferenceRequest
from tests.backends.openai.stand_in import Scripted, Start, chunk, job, says
from tests.backends.providers import Json, OpenAIProvider, configured
from workers.base import Job
from workers.openai.backend import OpenAIBackend, OpenAIConfig


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
