"""The ollama client, unmodified, against a gateway before real NATS, a real Manager and workers."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode
from tests.fake_worker import Asked
from tests.gateway import PATIENT, STORY, Door, final, played, torn
from tests.mesh import SmallMesh
from tests.support import eventually

ollama = pytest.importorskip("ollama", reason="the ollama client is not installed: pip install 'bullpen-mesh[ollama]'")

HELLO: Any = [{"role": "user", "content": "hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}


Sdk = Callable[[Door], Any]


@pytest.fixture
async def sdk() -> AsyncIterator[Sdk]:
    """Makes a client of a gateway's Ollama door."""
    async with AsyncExitStack() as clients:

        def client(door: Door) -> Any:
            made = ollama.AsyncClient(host=door.url, timeout=PATIENT)
            clients.push_async_callback(made.close)
            return made

        yield client


async def test_a_chat_has_its_answer(simulated: Door, sdk: Sdk) -> None:
    answer = await sdk(simulated).chat(model="auto", messages=HELLO, options={"num_predict": 7})
    assert len(answer.message.content.split()) == answer.eval_count == 7
    assert (answer.done, answer.done_reason) == (True, "length")
    assert answer.total_duration > 0


async def test_a_stream_joins_to_the_whole_answer(simulated: Door, sdk: Sdk) -> None:
    whole = await sdk(simulated).chat(model="simulated:latest", messages=HELLO)
    parts = [part async for part in await sdk(simulated).chat(model="simulated", messages=HELLO, stream=True)]
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count


async def test_generate_answers_a_prompt(simulated: Door, sdk: Sdk) -> None:
    whole = await sdk(simulated).generate(model="auto", prompt="hello there", options={"num_predict": 5})
    stream = await sdk(simulated).generate(model="auto", prompt="hello there", options={"num_predict": 5}, stream=True)
    assert "".join([part.response async for part in stream]) == whole.response
    assert len(whole.response.split()) == 5


async def test_a_request_without_a_question_asks_no_model(mesh: SmallMesh, sdk: Sdk) -> None:
    async with played(mesh, lambda asked: asked.answer("never")) as (door, worker):
        loaded = await sdk(door).generate(model="fake", keep_alive="5m")
        assert (loaded.response, loaded.done_reason) == ("", "load")
        with pytest.raises(ollama.ResponseError, match="does not exist"):
            await sdk(door).generate(model="nobody")
    assert worker.asked == []


async def test_thoughts_and_calls_of_tools_whole_and_streamed(mesh: SmallMesh, sdk: Sdk) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.say(final(asked, reasoning="I look.", tool_calls=(CALL,), finish_reason="tool_calls"))

    async with played(mesh, script) as (door, worker):
        told: Any = {"model": "fake", "tools": [WEATHER], "think": True}
        whole = await sdk(door).chat(messages=HELLO, **told)
        parts = [part.message async for part in await sdk(door).chat(messages=HELLO, stream=True, **told)]
        calls = [call for message in parts for call in message.tool_calls or ()]
        assert "".join(message.thinking or "" for message in parts) == whole.message.thinking == "I look."
        for call in (*calls, *whole.message.tool_calls):
            assert (call.function.name, call.function.arguments) == ("weather", {"city": "Bern"})
        result = {"role": "tool", "tool_name": "weather", "content": "sunny"}
        await sdk(door).chat(messages=[*HELLO, whole.message, result], **told)
        messages = worker.asked[-1].body["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[2]["tool_call_id"] == messages[1]["tool_calls"][0]["id"]


async def test_models_are_listed_and_shown(simulated: Door, sdk: Sdk) -> None:
    client = sdk(simulated)

    async def listed() -> bool:
        """Not those of a worker whose heart has paused."""
        names = {model.model for model in (await client.list()).models}
        return (
            {"auto:latest", "simulated:latest", "policy:cheapest"}
            <= names
            == {model.model for model in (await client.ps()).models}
        )

    async def shown_now() -> Any:
        with suppress(ollama.ResponseError):
            return await client.show("simulated")

    await eventually(listed, timeout=PATIENT)
    shown = await eventually(shown_now, timeout=PATIENT)
    assert "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"] == "bullpen"
    assert (await sdk(simulated).pull("simulated")).status == "success"
    with pytest.raises(ollama.ResponseError) as refused:
        await sdk(simulated).show("nobody")
    assert refused.value.status_code == 404


async def test_what_cannot_be_honoured_is_refused(simulated: Door, sdk: Sdk) -> None:
    with pytest.raises(ollama.ResponseError, match="suffix") as refused:
        await sdk(simulated).generate(model="auto", prompt="def f(", suffix="}")
    assert refused.value.status_code == 400


async def test_a_worker_lost_in_mid_stream_is_an_error(mesh: SmallMesh, sdk: Sdk) -> None:
    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.chunk("the first half, ")
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke in the middle"))

    async with played(mesh, script) as (door, _):
        told = ""
        with pytest.raises(ollama.ResponseError):
            async for part in await sdk(door).chat(model="fake", messages=HELLO, stream=True):
                told += part.message.content
    assert told == "the first half, "


@pytest.mark.parametrize("prefill", [True, False], ids=["prefill", "anchor"])
async def test_a_text_whose_worker_is_lost_is_one_text(mesh: SmallMesh, sdk: Sdk, prefill: bool) -> None:
    async with torn(mesh, prefill=prefill) as story:
        told, ended = "", []
        async for part in await sdk(story.door).chat(model="fake", messages=HELLO, stream=True):
            story.read(told := told + part.message.content)
            ended += [part.done_reason] if part.done else []
    assert (told, ended, len(story.went_on)) == (STORY, ["stop"], 1)
