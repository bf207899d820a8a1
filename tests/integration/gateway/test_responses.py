"""The openai SDK's Responses API, unmodified, against a gateway before real NATS, a real Manager and workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode
from tests.fake_worker import Asked
from tests.gateway import PATIENT, STORY, Door, final, played, torn
from tests.mesh import SmallMesh

openai = pytest.importorskip("openai", reason="the openai SDK is not installed: pip install 'bullpen-mesh[openai]'")

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}
EXTRA = {"gemini": {"signature": "abc"}}


@asynccontextmanager
async def sdk(door: Door, **options: Any) -> AsyncIterator[Any]:
    told = {"base_url": door.v1, "api_key": "none", "timeout": PATIENT, "max_retries": 0, **options}
    async with openai.AsyncOpenAI(**told) as client:
        yield client


async def test_a_response_has_its_answer_and_says_who_gave_it(simulated: Door) -> None:
    async with sdk(simulated) as client:
        raw = await client.responses.with_raw_response.create(model="auto", input="hello there", max_output_tokens=20)
    answer = raw.parse()
    assert len(answer.output_text.split()) == answer.usage.output_tokens == 20
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert answer.model == raw.headers["x-bullpen-model"] == "simulated"
    assert raw.headers["x-bullpen-worker"] == "w-1"


async def test_a_stream_joins_to_the_whole_answer(simulated: Door) -> None:
    async with sdk(simulated) as client:
        whole = await client.responses.create(model="simulated", input="hello there")
        async with client.responses.stream(model="simulated", input="hello there") as stream:
            events = [event async for event in stream]
            streamed = await stream.get_final_response()
    assert streamed.output_text == whole.output_text
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert [event.sequence_number for event in events] == sorted({event.sequence_number for event in events})


async def test_thoughts_and_calls_of_tools_whole_and_streamed(mesh: SmallMesh) -> None:
    """They come back in the next turn with what only their backend understands."""

    async def script(asked: Asked) -> None:
        await asked.claim()
        said = {"reasoning": "I look.", "extra": EXTRA, "tool_calls": (CALL,), "finish_reason": "tool_calls"}
        await asked.say(final(asked, **said))

    async with played(mesh, script) as (door, worker), sdk(door) as client:
        told: Any = {"model": "fake", "tools": [WEATHER], "include": ["reasoning.encrypted_content"]}
        whole = await client.responses.create(input="hello there", **told)
        async with client.responses.stream(input="hello there", **told) as stream:
            streamed = await stream.get_final_response()
        for answer in (whole, streamed):
            (call,) = [item for item in answer.output if item.type == "function_call"]
            assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"city":"Bern"}')
            turn = [item.model_dump(mode="json", exclude_none=True) for item in answer.output]
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
            await client.responses.create(input=[{"role": "user", "content": "hello there"}, *turn, result], **told)
            messages = worker.asked[-1].body["messages"]
            assistant = [message for message in messages if message["role"] == "assistant"]
            assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
            assert (assistant[0]["reasoning_content"], assistant[0]["extra"]) == ("I look.", EXTRA)
            assert messages[-1]["content"] == "sunny"


async def test_a_parsed_answer_follows_its_schema(mesh: SmallMesh) -> None:
    from pydantic import BaseModel

    class City(BaseModel):
        name: str

    async def script(asked: Asked) -> None:
        await asked.answer('{"name": "Bern"}')

    async with played(mesh, script) as (door, worker), sdk(door) as client:
        answer = await client.responses.parse(model="fake", input="hello there", text_format=City)
    assert answer.output_parsed == City(name="Bern")
    assert worker.asked[0].body["response_format"]["json_schema"]["name"] == "City"


async def test_a_probe_without_a_question_is_answered(simulated: Door) -> None:
    async with sdk(simulated) as client:
        answer = await client.responses.create(model="auto", input=[], max_output_tokens=1)
    assert answer.status == "incomplete"


async def test_a_response_to_nothing_is_refused_by_name(simulated: Door) -> None:
    nothing: list[Any] = [{}, {"input": ""}, {"input": []}, {"input": [{"role": "user", "content": ""}]}]
    async with sdk(simulated) as client:
        for more in nothing:
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model="auto", **more)
            assert refused.value.param == "input"


async def test_what_is_not_kept_is_refused_by_name(simulated: Door) -> None:
    async with sdk(simulated) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="auto", input="hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


async def test_what_is_harmless_is_taken_and_named(simulated: Door) -> None:
    async with sdk(simulated) as client:
        raw = await client.responses.with_raw_response.create(
            model="auto", input="hi", store=True, prompt_cache_key="k", tools=[{"type": "web_search"}]
        )
    assert set(raw.headers["x-bullpen-ignored"].split(", ")) == {"store", "prompt_cache_key", "tools.web_search"}


async def test_an_unknown_model_is_a_404_that_lists_the_others(simulated: Door) -> None:
    async with sdk(simulated) as client:
        with pytest.raises(openai.NotFoundError, match="served are auto") as refused:
            await client.responses.create(model="gpt-99", input="hi")
    assert refused.value.code == "model_not_found"


async def test_a_worker_lost_in_mid_stream_is_an_error(mesh: SmallMesh) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.chunk("the first half, ")
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke in the middle"))

    async with played(mesh, script) as (door, _), sdk(door) as client:
        told, failures = "", []
        stream = await client.responses.create(model="fake", input="hi", stream=True)
        async for event in stream:
            told += event.delta if event.type == "response.output_text.delta" else ""
            failures += [event.type] if event.type in ("error", "response.failed") else []
    assert told == "the first half, "
    assert failures == ["error", "response.failed"]


@pytest.mark.parametrize("prefill", [True, False], ids=["prefill", "anchor"])
async def test_a_text_whose_worker_is_lost_is_one_text(mesh: SmallMesh, prefill: bool) -> None:
    async with torn(mesh, prefill=prefill) as story, sdk(story.door) as client:
        told = ""
        async with client.responses.stream(model="fake", input="hi") as stream:
            async for event in stream:
                story.read(told := told + (event.delta if event.type == "response.output_text.delta" else ""))
            answer = await stream.get_final_response()
    assert (told, answer.status, len(story.went_on)) == (STORY, "completed", 1)
    assert answer.output_text == STORY
