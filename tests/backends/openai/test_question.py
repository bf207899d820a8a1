"""What a server is asked."""

import pytest
from pydantic import ValidationError

from contracts import ChatMessage, InferenceRequest
from tests.backends.openai.stand_in import Scripted, Start, job, received
from workers.base import Job
from workers.base.interface.discovery import find
from workers.openai.backend import OpenAIConfig


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


async def test_a_temperature_that_the_caller_did_not_set_is_not_sent(provider: Scripted, start: Start) -> None:
    backend = await start()
    asked = Job(InferenceRequest(prompt="Hm?"), backend.models()[0], 50)
    assert "temperature" not in await received(provider, backend, asked)
    assert (await received(provider, backend, job(backend, temperature=0.2)))["temperature"] == 0.2


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
