"""The anthropic SDK, unmodified, against a gateway before real NATS, a real Manager and workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from contracts import BullpenError, ErrorCode
from tests.backends.providers import AnthropicProvider
from tests.fake_worker import Asked
from tests.gateway import PATIENT, STORY, Door, door_of, final, played, torn
from tests.mesh import SmallMesh
from tests.support import eventually

anthropic = pytest.importorskip(
    "anthropic", reason="the anthropic SDK is not installed: pip install 'bullpen-mesh[anthropic]'"
)

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
EXTRA = {"anthropic": {"signature": "abc"}}


@asynccontextmanager
async def sdk(door: Door, **options: Any) -> AsyncIterator[Any]:
    told = {"base_url": door.url, "api_key": "none", "timeout": PATIENT, "max_retries": 0, **options}
    async with anthropic.AsyncAnthropic(**told) as client:
        yield client


async def test_a_message_has_its_answer_and_says_who_gave_it(simulated: Door) -> None:
    async with sdk(simulated) as client:
        raw = await client.messages.with_raw_response.create(model="auto", messages=HELLO, max_tokens=7)
        answer = await raw.parse()
    assert len(answer.content[0].text.split()) == 7
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 7)
    assert answer.model == raw.headers["x-bullpen-model"] == "simulated"
    assert raw.headers["x-bullpen-worker"] == "w-1"
    assert answer._request_id == raw.headers["x-request-id"]


async def test_a_stream_joins_to_the_whole_answer(simulated: Door) -> None:
    async with sdk(simulated) as client:
        whole = await client.messages.create(model="simulated", messages=HELLO, max_tokens=50)
        async with client.messages.stream(model="simulated", messages=HELLO, max_tokens=50) as stream:
            streamed = await stream.get_final_message()
            assert stream.request_id == stream.response.headers["x-request-id"]
    assert streamed.content[0].text == whole.content[0].text
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    assert streamed.usage.input_tokens == whole.usage.input_tokens


async def test_the_beta_messages_are_the_same(simulated: Door) -> None:
    """As Claude Code asks: `POST /v1/messages?beta=true`."""
    async with sdk(simulated) as client:
        answer = await client.beta.messages.create(
            model="auto", messages=HELLO, max_tokens=3, betas=["interleaved-thinking-2025-05-14"]
        )
    assert answer.stop_reason == "max_tokens"


class Heard(AnthropicProvider):
    """Keeps the headers of the last question, byte for byte."""

    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers = tuple((name.lower(), value) for name, value in request.raw_headers)
        return await super().answer(request)


async def test_anthropics_own_headers_reach_its_models_byte_for_byte(mesh: SmallMesh) -> None:
    body = {"model": "m", "messages": HELLO, "max_tokens": 5}
    told = {"anthropic-beta": "context-1m-2025-08-07,  Odd-One;x=1", "anthropic-version": "2023-01-01"}
    async with Heard() as provider, ClientSession() as client:
        await mesh.worker("w-1", "anthropic", **provider.config())
        async with door_of(mesh) as door:
            async with client.post(f"{door.url}/v1/messages", json=body, headers=told) as answer:
                assert answer.status == 200, await answer.text()
            for name, value in told.items():
                assert [got for called, got in provider.headers if called == name.encode()] == [value.encode()]
            async with client.post(f"{door.url}/v1/chat/completions", json=body, headers=told) as answer:
                assert answer.status == 200
            assert b"anthropic-beta" not in dict(provider.headers)


async def test_thoughts_and_calls_of_tools_whole_and_streamed(mesh: SmallMesh) -> None:
    """They come back in the next turn with what only their backend understands."""

    async def script(asked: Asked) -> None:
        await asked.claim()
        said = {"reasoning": "I look.", "extra": EXTRA, "tool_calls": (CALL,), "finish_reason": "tool_calls"}
        await asked.say(final(asked, **said))

    async with played(mesh, script) as (door, worker), sdk(door) as client:
        told: Any = {"model": "fake", "tools": [WEATHER], "max_tokens": 50}
        whole = await client.messages.create(messages=HELLO, **told)
        async with client.messages.stream(messages=HELLO, **told) as stream:
            streamed = await stream.get_final_message()
        for answer in (whole, streamed):
            (call,) = [block for block in answer.content if block.type == "tool_use"]
            assert (call.id, call.name, call.input) == ("call_1", "weather", {"city": "Bern"})
            assert answer.stop_reason == "tool_use"
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
            turn = {"role": "assistant", "content": [block.model_dump(mode="json") for block in answer.content]}
            await client.messages.create(messages=[*HELLO, turn, {"role": "user", "content": [result]}], **told)
            messages = worker.asked[-1].body["messages"]
            assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
            assert (messages[1]["reasoning_content"], messages[1]["extra"]) == ("I look.", EXTRA)
            assert messages[2]["content"] == "sunny"


async def test_a_parsed_answer_follows_its_schema(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.answer('{"name": "Bern"}')

    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    async with played(mesh, script) as (door, worker), sdk(door) as client:
        answer = await client.messages.create(
            model="fake",
            messages=HELLO,
            max_tokens=50,
            output_config={"format": {"type": "json_schema", "schema": schema}},
        )
    assert answer.content[0].text == '{"name": "Bern"}'
    assert worker.asked[0].body["response_format"]["json_schema"]["schema"] == schema


async def test_tokens_are_counted_without_asking_a_model(mesh: SmallMesh) -> None:
    async with played(mesh, lambda asked: asked.answer("never")) as (door, worker), sdk(door) as client:
        few = await client.messages.count_tokens(model="fake", messages=HELLO)
        many = await client.messages.count_tokens(model="fake", messages=HELLO, system="word " * 400)
    assert 0 < few.input_tokens < 10 < 400 < many.input_tokens
    assert worker.asked == []


async def test_an_unknown_model_is_a_404_that_lists_the_others(simulated: Door) -> None:
    async with sdk(simulated) as client:
        with pytest.raises(anthropic.NotFoundError, match="served are auto") as refused:
            await client.messages.create(model="claude-99", messages=HELLO, max_tokens=5)
    assert refused.value.body["error"]["type"] == "not_found_error"
    assert refused.value.body["request_id"] == refused.value.request_id


async def test_what_cannot_be_honoured_is_refused(simulated: Door) -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    async with sdk(simulated) as client:
        with pytest.raises(anthropic.BadRequestError, match=r"source\.type") as refused:
            await client.messages.create(model="auto", messages=[{"role": "user", "content": [image]}], max_tokens=5)
    assert refused.value.body["error"]["type"] == "invalid_request_error"


async def test_what_is_harmless_is_taken_and_named(simulated: Door) -> None:
    async with sdk(simulated) as client:
        raw = await client.messages.with_raw_response.create(
            model="auto", messages=HELLO, max_tokens=1, metadata={"user_id": "u"}, extra_body={"top_k": 40}
        )
    assert set(raw.headers["x-bullpen-ignored"].split(", ")) == {"metadata", "top_k"}


async def test_a_worker_lost_in_mid_stream_is_an_error_event(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.chunk("the first half, ")
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke in the middle"))

    async with played(mesh, script) as (door, _), sdk(door) as client:
        told = ""
        with pytest.raises(anthropic.APIStatusError):
            async with client.messages.stream(model="fake", messages=HELLO, max_tokens=50) as stream:
                async for text in stream.text_stream:
                    told += text
    assert told == "the first half, "


@pytest.mark.parametrize("prefill", [True, False], ids=["prefill", "anchor"])
async def test_a_text_whose_worker_is_lost_is_one_text(mesh: SmallMesh, prefill: bool) -> None:
    async with torn(mesh, prefill=prefill) as story, sdk(story.door) as client:
        told = ""
        async with client.messages.stream(model="fake", messages=HELLO, max_tokens=50) as stream:
            async for text in stream.text_stream:
                story.read(told := told + text)
            answer = await stream.get_final_message()
    assert [block.text for block in answer.content] == [told]
    assert (told, answer.stop_reason, len(story.went_on)) == (STORY, "end_turn", 1)


async def test_a_silent_stream_pings(mesh: SmallMesh) -> None:
    pinged = 0

    async def script(asked: Asked) -> None:
        await asked.claim()
        await eventually(lambda: pinged >= 3, timeout=PATIENT)
        await asked.answer("at last")

    async with played(mesh, script, keep_alive_every=0.05) as (door, _), sdk(door) as client:
        stream = await client.messages.create(
            model="fake", messages=HELLO, max_tokens=50, stream=True, extra_body={"thinking": {"type": "adaptive"}}
        )
        async for line in stream.response.aiter_lines():
            pinged += line == "event: ping"
    assert pinged >= 3


async def test_models_are_listed_and_found(simulated: Door) -> None:
    async with sdk(simulated) as client:
        names = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("simulated")
    assert {"auto", "simulated"} <= set(names)
    assert (found.type, found.display_name) == ("model", "simulated")
    assert found.created_at.tzinfo is not None
