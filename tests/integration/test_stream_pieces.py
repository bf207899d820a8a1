"""Thoughts, calls and log-probabilities on their way through the mesh: what the pieces of a stream join to."""

import asyncio
from typing import Any

import pytest

from bus.delivered import Delivered
from contracts import (
    BullpenError,
    Chunk,
    ErrorCode,
    FinalResponse,
    FunctionDelta,
    InferenceResponse,
    Piece,
    TokenLogprob,
    ToolCallDelta,
)
from contracts import headers as h
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import HANGS, WORDY
from tests.mesh import Json, SmallMesh
from tests.support import eventually

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}


def read(heard: list[Json | None]) -> tuple[Delivered, list[str], FinalResponse]:
    """What a reader has at the end, how the stream went on with others, and the answer."""
    *pieces, final, end = heard
    assert end is None
    has, modes = Delivered(), []
    for number, told in enumerate(pieces):
        assert told is not None and told["seq"] == number
        if told["type"] == "chunk":
            has.take(Chunk.model_validate(told).piece)
            continue
        modes.append(told["mode"])
        if told["mode"] == "restarted":
            has.clear()
    return has, modes, FinalResponse.model_validate(final)


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_pieces_of_every_kind_join_to_the_answer(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", output_tokens=40)
    await mesh.manager()
    has, modes, final = read(await mesh.stream(subject, reasoning_effort="low", logprobs=True, top_logprobs=2))
    assert (has.text, has.reasoning, has.logprobs) == (final.output, final.reasoning, final.logprobs)
    assert final.reasoning and final.logprobs and len(final.logprobs) == 40
    assert all(len(token.top_logprobs) == 2 for token in final.logprobs)
    assert modes == [] and has.is_all_of(final)


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_calls_of_tools_come_in_pieces(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", tokens_per_second=500)
    await mesh.manager()
    heard = await mesh.stream(subject, tools=[LOOK], reasoning_effort="minimal")
    has, modes, final = read(heard)
    assert final.tool_calls and modes == [] and has.is_all_of(final)
    assert has.reasoning == final.reasoning != ""


async def test_without_a_stream_the_answer_has_it_all_and_a_key_gets_it_again(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    asked: dict[str, Any] = {"reasoning_effort": "low", "logprobs": True, "idempotency_key": "once"}
    first = InferenceResponse.model_validate(await mesh.ask(**asked))
    again = InferenceResponse.model_validate(await mesh.ask(**asked))
    assert first.reasoning and first.logprobs and again.replayed
    assert (again.reasoning, again.logprobs) == (first.reasoning, first.logprobs)
    has, _, final = read(await mesh.stream(**asked))
    assert final.replayed and has.is_all_of(final) and has.reasoning == first.reasoning


async def test_a_stream_goes_on_by_prefill_with_its_thoughts_kept(mesh: SmallMesh) -> None:
    hangs = {**HANGS, "hang_after_tokens": 14}
    await mesh.worker("w-1", **hangs)
    await mesh.manager()
    asking = asyncio.create_task(mesh.stream(reasoning_effort="low", logprobs=True))
    await mesh.worker("w-2", **WORDY)
    has, modes, final = read(await asking)
    assert modes == ["continued"] and has.is_all_of(final)
    assert final.reasoning and len(final.reasoning.split()) == 8
    assert final.logprobs and "".join(token.token for token in final.logprobs) == final.output


async def test_a_stream_of_thoughts_alone_starts_anew(mesh: SmallMesh) -> None:
    async def thinks(asked: Asked) -> None:
        await asked.say(chunk(asked, 0, Piece(reasoning="hm ")))
        if asked.headers[h.ATTEMPT] == "1":
            await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "cut off"))
        else:
            await asked.answer("yes", reasoning="hm so")

    async with FakeWorker(mesh.bus, "f-1", acting(thinks)), FakeWorker(mesh.bus, "f-2", acting(thinks)) as two:
        await mesh.manager()
        await eventually(lambda: len(mesh.beats) == 2)
        has, modes, final = read(await mesh.stream())
        assert not any(h.CONTINUE in asked.headers for asked in two.asked)
    assert modes == ["restarted"] and has.is_all_of(final)
    assert (has.reasoning, has.text) == ("hm so", "yes")


async def test_a_call_that_has_begun_is_never_continued(mesh: SmallMesh) -> None:
    async def calls(asked: Asked) -> None:
        begun = ToolCallDelta(index=0, id="c", function=FunctionDelta(name="look", arguments='{"at'))
        await asked.say(chunk(asked, 0, Piece("let me see ", tool_calls=(begun,))))
        if asked.headers[h.ATTEMPT] == "1":
            await asked.fail(BullpenError(ErrorCode.MALFORMED_TOOL_CALL, "no call", fault="model"))
        else:
            await asked.answer("let me see ", tool_calls=(CALL,), finish_reason="tool_calls")

    async with FakeWorker(mesh.bus, "f-1", acting(calls)) as one, FakeWorker(mesh.bus, "f-2", acting(calls)) as two:
        await mesh.manager()
        await eventually(lambda: len(mesh.beats) == 2)
        has, modes, final = read(await mesh.stream())
        assert not any(h.CONTINUE in asked.headers for asked in (*one.asked, *two.asked))
    assert modes == ["restarted"] and has.is_all_of(final)
    assert final.tool_calls == (CALL,)


async def test_pieces_of_calls_that_the_answer_does_not_bear_out_are_void(mesh: SmallMesh) -> None:
    async def calls(asked: Asked) -> None:
        other = ToolCallDelta(index=0, id="c", function=FunctionDelta(name="find", arguments="{}"))
        await asked.say(chunk(asked, 0, Piece(tool_calls=(other,))))
        await asked.answer("", tool_calls=(CALL,), finish_reason="tool_calls")

    async with FakeWorker(mesh.bus, "f-1", acting(calls)):
        await mesh.manager()
        has, modes, final = read(await mesh.stream())
    assert modes == ["restarted"] and has.is_all_of(final)


async def test_what_nobody_asked_for_is_not_passed_on(mesh: SmallMesh) -> None:
    token = TokenLogprob(token="yes", logprob=-0.5)

    async def tells(asked: Asked) -> None:
        await asked.say(chunk(asked, 0, Piece("yes", logprobs=(token,))))
        await asked.answer("yes", logprobs=(token,))

    async with FakeWorker(mesh.bus, "f-1", acting(tells)):
        await mesh.manager()
        has, _, final = read(await mesh.stream())
    assert (has.logprobs, final.logprobs) == ((), None)


def chunk(asked: Asked, seq: int, piece: Piece) -> Chunk:
    return Chunk.of(asked.headers[h.TASK], seq, piece)
