"""The openai SDK, unmodified, against a gateway before real NATS, a real Manager and workers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode
from tests.fake_worker import Asked
from tests.gateway import PATIENT, STORY, Door, door_of, final, played, torn
from tests.mesh import SmallMesh
from tests.support import eventually

openai = pytest.importorskip("openai", reason="the openai SDK is not installed: pip install 'bullpen-mesh[openai]'")

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}


@asynccontextmanager
async def sdk(door: Door, **options: Any) -> AsyncIterator[Any]:
    told = {"base_url": door.v1, "api_key": "none", "timeout": PATIENT, "max_retries": 0, **options}
    async with openai.AsyncOpenAI(**told) as client:
        yield client


async def test_a_chat_has_its_answer_and_says_who_gave_it(simulated: Door) -> None:
    async with sdk(simulated) as client:
        raw = await client.chat.completions.with_raw_response.create(model="auto", messages=HELLO, max_tokens=7)
    answer = raw.parse()
    assert len(answer.choices[0].message.content.split()) == 7
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.model == raw.headers["x-bullpen-model"] == "simulated"
    assert raw.headers["x-bullpen-worker"] == "w-1"
    assert raw.headers["x-bullpen-attempts"] == "1"
    assert raw.headers["x-request-id"]


async def test_a_stream_joins_to_the_whole_answer(simulated: Door) -> None:
    async with sdk(simulated) as client:
        whole = await client.chat.completions.create(model="simulated", messages=HELLO)
        options = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="simulated", messages=HELLO, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [chunk.usage for chunk in chunks[:-1] if chunk.usage] == []


async def test_a_stream_tells_no_usage_unless_asked(simulated: Door) -> None:
    async with sdk(simulated) as client:
        stream = await client.chat.completions.create(model="simulated", messages=HELLO, stream=True)
        chunks = [chunk async for chunk in stream]
    assert chunks
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_several_answers_are_several_choices(simulated: Door) -> None:
    async with sdk(simulated) as client:
        whole = await client.chat.completions.create(model="auto", messages=HELLO, n=3, max_tokens=5)
        stream = await client.chat.completions.create(model="auto", messages=HELLO, n=2, stream=True, max_tokens=5)
        ends = [chunk.choices[0].index async for chunk in stream if chunk.choices[0].finish_reason]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == 15
    assert sorted(ends) == [0, 1]


async def test_old_completions_answer_each_prompt(simulated: Door) -> None:
    async with sdk(simulated) as client:
        answer = await client.completions.create(model="auto", prompt=["one", "two"], n=2, max_tokens=4)
        stream = await client.completions.create(model="auto", prompt="one", max_tokens=4, stream=True)
        streamed = "".join([chunk.choices[0].text async for chunk in stream])
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] == streamed
    assert texts[2] == texts[3] != texts[0]


async def test_models_are_listed_and_found(simulated: Door) -> None:
    async with sdk(simulated) as client:

        async def listed() -> bool:
            """Not those of a worker whose heart has paused."""
            names = {model.id async for model in client.models.list()}
            return {"auto", "policy:cheapest", "simulated"} <= names

        async def found() -> Any:
            with suppress(openai.NotFoundError):
                return await client.models.retrieve("simulated")

        await eventually(listed, timeout=PATIENT)
        assert (await eventually(found, timeout=PATIENT)).owned_by == "simulated"
        with pytest.raises(openai.NotFoundError, match="served are auto"):
            await client.models.retrieve("gpt-99")


async def test_an_unknown_model_is_a_404_unless_an_alias_names_it(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    async with door_of(mesh, aliases={"gpt-*": "simulated"}) as door, sdk(door) as client:
        answer = await client.chat.completions.create(model="gpt-5", messages=HELLO, max_tokens=1)
        assert answer.model == "simulated"
        with pytest.raises(openai.NotFoundError) as refused:
            await client.chat.completions.create(model="claude", messages=HELLO)
    assert refused.value.param == "model"
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [{"role": "poet", "content": "hi"}]}, "messages.0.role"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
    ],
)
async def test_what_cannot_be_honoured_is_named(simulated: Door, fields: Any, param: str) -> None:
    async with sdk(simulated) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(**{"model": "auto", "messages": HELLO, **fields})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


async def test_what_is_harmless_is_taken_and_named(simulated: Door) -> None:
    harmless: Any = {"store": True, "user": "u-1", "prompt_cache_key": "k", "verbosity": "low"}
    async with sdk(simulated) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, max_tokens=1, extra_body={"top_k": 40, "colour": "red"}, **harmless
        )
    assert set(raw.headers["x-bullpen-ignored"].split(", ")) == {*harmless, "top_k", "colour"}


async def test_a_conversation_in_every_form(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.answer(json.dumps([message["role"] for message in asked.body["messages"]]))

    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with played(mesh, script) as (door, worker), sdk(door) as client:
        answer = await client.chat.completions.create(model="fake", messages=messages, tools=[WEATHER])
    assert json.loads(answer.choices[0].message.content) == ["developer", "user", "assistant", "tool"]
    assert worker.asked[0].body["tools"] == [WEATHER]


async def test_a_call_of_a_tool_whole_and_streamed(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.say(final(asked, tool_calls=(CALL,), finish_reason="tool_calls"))

    async with played(mesh, script) as (door, _), sdk(door) as client:
        whole = await client.chat.completions.create(model="fake", messages=HELLO, tools=[WEATHER])
        stream = await client.chat.completions.create(model="fake", messages=HELLO, tools=[WEATHER], stream=True)
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    assert whole.choices[0].message.tool_calls[0].model_dump() == CALL
    (call,) = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert (call.index, call.id, call.function.arguments) == (0, "call_1", '{"city":"Bern"}')
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_parsed_answer_follows_its_schema(mesh: SmallMesh) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    async def script(asked: Asked) -> None:
        await asked.answer('{"name": "Bern"}')

    async with played(mesh, script) as (door, worker), sdk(door) as client:
        answer = await client.chat.completions.parse(model="fake", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Bern")
    assert worker.asked[0].body["response_format"]["json_schema"]["name"] == "City"


@pytest.mark.parametrize(
    ("code", "status", "repeat"),
    [
        (ErrorCode.UPSTREAM_ERROR, 502, "false"),
        (ErrorCode.UPSTREAM_AUTH, 502, "false"),
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, 400, "false"),
    ],
)
async def test_an_error_has_its_status_and_says_whether_to_repeat_it(
    mesh: SmallMesh, code: ErrorCode, status: int, repeat: str | None
) -> None:
    async def script(asked: Asked) -> None:
        await asked.fail(BullpenError(code, "so it is"))

    async with played(mesh, script) as (door, _), sdk(door) as client:
        with pytest.raises(openai.APIStatusError) as failed:
            await client.chat.completions.create(model="fake", messages=HELLO)
    assert failed.value.status_code == status
    assert failed.value.code == code
    assert failed.value.response.headers.get("x-should-retry") == repeat
    assert failed.value.response.headers["x-request-id"]


async def test_a_worker_lost_in_mid_stream_never_doubles_a_text(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.chunk("the first half, ")
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke in the middle"))

    async with played(mesh, script) as (door, _), sdk(door) as client:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        told = ""
        with pytest.raises(openai.APIError):
            async for chunk in stream:
                told += chunk.choices[0].delta.content or ""
    assert told.count("the first half, ") == 1


@pytest.mark.parametrize("prefill", [True, False], ids=["prefill", "anchor"])
async def test_a_text_whose_worker_is_lost_is_one_text(mesh: SmallMesh, prefill: bool) -> None:
    async with torn(mesh, prefill=prefill) as story, sdk(story.door) as client:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        told, ended = "", []
        async for chunk in stream:
            story.read(told := told + (chunk.choices[0].delta.content or ""))
            ended += [reason] if (reason := chunk.choices[0].finish_reason) else []
    assert (told, ended, len(story.went_on)) == (STORY, ["stop"], 1)


async def test_the_role_is_told_when_a_worker_has_the_question(mesh: SmallMesh) -> None:
    """Before it has said a word."""
    go_on = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        while not go_on.is_set():
            await asked.progress(moved=1)
            await asyncio.sleep(0.2)
        await asked.answer("at last")

    async with played(mesh, script, keep_alive_every=1000.0) as (door, _), sdk(door) as client:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        first = await anext(aiter(stream))
        assert first.choices[0].delta.role == "assistant"
        go_on.set()
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "stop"
