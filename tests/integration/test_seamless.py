"""Seamless streams: whatever befalls their workers, the text that a reader has is one text. Real NATS, real Manager."""

import asyncio
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode, FunctionDelta, ToolCallDelta
from contracts import headers as h
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import HANGS, WORDY, Attempts
from tests.integration.test_stream_pieces import read as joined
from tests.mesh import Json, SmallMesh
from tests.streams import check_stream
from tests.support import eventually

STORY = "It was late. “We should go,” said the old man.\n\n1. the river\n2. the hill\n\nAnd so they went, both of them."
SAID, REST = STORY[:71], STORY[71:]
NO_PREFILL: dict[str, Any] = {"models": [{"name": "simulated", "capabilities": ["chat", "stream"]}]}
THINKS: dict[str, Any] = {
    "models": [{"name": "simulated", "capabilities": ["chat", "stream", "reasoning", "logprobs"]}],
}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
SEAMLESS: dict[str, Any] = {"continuation": "seamless"}


def seams(heard: list[Json | None]) -> list[tuple[str, str, str]]:
    return [(p["from"], p["to"], p["mode"]) for p in heard if p and p.get("type") == "resumed"]


async def fails(asked: Asked) -> None:
    """In the middle."""
    for at in range(0, len(SAID), 9):
        await asked.chunk(SAID[at : min(at + 9, len(SAID))])
    await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "cut off"))


async def obeys(asked: Asked) -> None:
    said = asked.anchor + REST
    for at in range(0, len(said), 7):
        await asked.chunk(said[at : at + 7])
    await asked.answer(said, tokens=-(-len(said) // 7))


async def begins_again(asked: Asked) -> None:
    await asked.chunk("Well, ")
    await asked.chunk("it was a fine morning, and nobody thought of the night. " * 10)
    await eventually(lambda: not asked.is_open)


async def by_turns(
    mesh: SmallMesh, *turns: Any, prefill: bool = False, **request: Any
) -> tuple[list[Json | None], list[Asked]]:
    """A stream whose attempts go, whatever worker has them, to these scripts."""
    scripts, asked_in_turn = iter(turns), list[Asked]()

    async def take_turn(asked: Asked) -> None:
        asked_in_turn.append(asked)
        await next(scripts)(asked)

    names = [f"f-{number}" for number in range(len(turns))]
    fakes = [FakeWorker(mesh.bus, name, acting(take_turn), prefill=prefill) for name in names]
    for fake in fakes:
        await fake.__aenter__()
    try:
        await mesh.manager()
        await eventually(lambda: set(names) <= set(mesh.beats))
        return await mesh.stream(**{**SEAMLESS, **request}), asked_in_turn
    finally:
        for fake in fakes:
            await fake.__aexit__()


# By prefill, and by the anchor


@pytest.mark.parametrize("second", [{}, NO_PREFILL], ids=["prefill", "anchor"])
async def test_a_stream_goes_on_with_another_worker_to_the_letter(mesh: SmallMesh, second: dict[str, Any]) -> None:
    booked = await Attempts.of(mesh)
    await mesh.worker("w-1", **HANGS)
    await mesh.manager()
    asking = asyncio.create_task(mesh.stream(prompt="tell me more", **SEAMLESS))
    await mesh.worker("w-2", **WORDY, **second)
    text, final = check_stream(heard := await asking)
    assert seams(heard) == [("w-1", "w-2", "continued")]
    assert (final["resumed"], final["completion_tokens"], final["finish_reason"]) == (True, 40, "stop")
    assert [attempt["outcome"] for attempt in final["attempts"]] == ["failed", "ok"]
    rows = await booked.outcomes("failed", "ok")
    repeated = (rows[1].completion_tokens or 0) - 30
    assert (5 < repeated < 12) if second else not repeated
    assert text == final["output"] == (await mesh.ask(prompt="tell me more"))["output"]


async def test_the_limit_of_tokens_holds_for_the_whole_text(mesh: SmallMesh) -> None:
    """Far behind the seam, just behind it, and at it."""
    limits = (25, 11, 10)
    await mesh.worker("w-1", **HANGS)
    await mesh.manager()
    asking = [asyncio.create_task(mesh.stream(max_tokens=most, **SEAMLESS)) for most in limits]
    await mesh.worker("w-2", **WORDY, **NO_PREFILL)
    for most, heard in zip(limits, await asyncio.gather(*asking), strict=True):
        text, final = check_stream(heard)
        assert text == final["output"]
        assert (len(text.split()), final["completion_tokens"], final["finish_reason"]) == (most, most, "length")


async def test_a_stream_that_loses_two_workers_is_one_text_still(mesh: SmallMesh) -> None:
    """The first ends with an error, the second falls silent among its own words, after the repeat."""
    await mesh.worker("w-1", **HANGS)
    await mesh.manager()
    asking = asyncio.create_task(mesh.stream(prompt="tell me more", **SEAMLESS))
    await mesh.worker("w-2", **{**HANGS, "hang_after_tokens": 20}, **NO_PREFILL)
    await eventually(lambda: mesh.beats["w-2"].inflight)
    await mesh.worker("w-3", **WORDY, **NO_PREFILL)
    text, final = check_stream(heard := await asking)
    assert seams(heard) == [("w-1", "w-2", "continued"), ("w-2", "w-3", "continued")]
    assert text == final["output"] == (await mesh.ask(prompt="tell me more"))["output"]
    assert final["completion_tokens"] == 40


async def test_any_text_is_joined_and_the_request_is_the_callers_beside_that(mesh: SmallMesh) -> None:
    heard, asked = await by_turns(mesh, fails, obeys, prompt="a story", context={"system": "Be brief."}, max_tokens=500)
    text, final = check_stream(heard)
    assert text == final["output"] == STORY
    assert h.CONTINUE not in asked[1].headers
    assert [m["role"] for m in asked[1].body["messages"]] == ["user", "assistant", "user"]
    assert asked[1].body["context"] == {"system": "Be brief."}
    assert 8 + len(REST) // 7 <= final["completion_tokens"] <= 8 + len(REST) // 7 + 1


async def test_a_stream_that_lost_its_worker_before_the_first_word_begins_anew(mesh: SmallMesh) -> None:
    async def silent(asked: Asked) -> None:
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "no"))

    heard, asked = await by_turns(mesh, silent, obeys)
    text, final = check_stream(heard)
    assert text == final["output"] == REST
    assert (seams(heard), final["resumed"], asked[1].body["prompt"]) == ([], False, "hello there")


# What does not join


async def test_words_that_do_not_join_are_not_delivered_and_another_worker_is_asked(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    heard, asked = await by_turns(mesh, fails, begins_again, obeys)
    text, final = check_stream(heard)
    assert text == final["output"] == STORY
    assert [mode for _, _, mode in seams(heard)] == ["continued"]
    assert [attempt["outcome"] for attempt in final["attempts"]] == ["failed", "failed", "ok"]
    assert "does not join" in final["attempts"][1]["error"]
    rows = await booked.outcomes("failed", "failed", "ok")
    assert rows[1].error_code == ErrorCode.UPSTREAM_ERROR
    assert len({one.headers[h.ATTEMPT] for one in asked}) == 3


async def test_an_answer_that_does_not_join_is_booked_with_what_it_used(mesh: SmallMesh) -> None:
    async def short(asked: Asked) -> None:
        await asked.chunk("No.")
        await asked.answer("No.", tokens=77)

    booked = await Attempts.of(mesh)
    heard, _ = await by_turns(mesh, fails, short, obeys)
    assert check_stream(heard)[0] == STORY
    assert (await booked.outcomes("failed", "failed", "ok"))[1].completion_tokens == 77


@pytest.mark.parametrize(
    ("turns", "request_"),
    [
        ((fails, begins_again, begins_again), {}),
        ((fails, obeys), {"response_format": {"type": "json_object"}}),
    ],
    ids=["no match", "json"],
)
async def test_a_stream_that_cannot_go_on_ends_with_an_error_and_never_begins_anew(
    mesh: SmallMesh, turns: tuple[Any, ...], request_: dict[str, Any]
) -> None:
    heard, _ = await by_turns(mesh, *turns, **request_)
    *pieces, final, _ = heard
    assert "".join(piece["delta"] for piece in pieces if piece) == SAID
    assert final is not None
    assert final["error"]["code"] == "upstream_error"
    assert "join" in final["error"]["message"]


async def test_an_unsure_answer_that_was_delivered_is_the_answer(mesh: SmallMesh) -> None:
    async def unsure(asked: Asked) -> None:
        await asked.chunk(STORY)
        await asked.answer(STORY, confidence=0.2)

    heard, asked = await by_turns(mesh, unsure, obeys, min_confidence=0.9)
    assert (check_stream(heard)[0], len(asked)) == (STORY, 1)


async def test_without_it_a_stream_begins_anew_as_ever(mesh: SmallMesh) -> None:
    heard, asked = await by_turns(mesh, fails, obeys, continuation="any")
    text, final = check_stream(heard)
    assert text == final["output"] == REST
    assert [mode for _, _, mode in seams(heard)] == ["restarted"]
    assert asked[1].body["prompt"] == "hello there"


async def test_a_piece_that_was_lost_after_the_seam_comes_with_the_answer(mesh: SmallMesh) -> None:
    async def leaky(asked: Asked) -> None:
        said = asked.anchor
        await asked.chunk(said + REST[:4])
        await asked.chunk(REST[4:9], lost=True)
        await asked.chunk(REST[9:])
        await asked.answer(said + REST)

    heard, _ = await by_turns(mesh, fails, leaky)
    assert check_stream(heard)[0] == STORY


async def test_tools_that_were_not_called_yet_do_not_keep_a_stream_from_going_on(mesh: SmallMesh) -> None:
    heard, asked = await by_turns(mesh, fails, obeys, tools=[LOOK], prefill=True)
    assert check_stream(heard)[0] == STORY
    assert asked[1].body["tools"] == [LOOK]


# Thoughts, log-probabilities and calls


async def test_thoughts_follow_each_other_and_only_the_first_half_tells_log_probabilities(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **{**HANGS, "hang_after_tokens": 18})
    await mesh.manager()
    told: dict[str, Any] = {"prompt": "tell me more", "reasoning_effort": "low", "logprobs": True}
    asking = asyncio.create_task(mesh.stream(**told, **SEAMLESS))
    await mesh.worker("w-2", **WORDY, **THINKS)
    has, modes, final = joined(await asking)
    whole = await mesh.ask(**told)
    assert (modes, final.output) == (["continued"], whole["output"])
    assert final.reasoning == 2 * whole["reasoning"]
    first_half = "".join(token.token for token in final.logprobs or ())
    assert len(first_half.split()) == 10
    assert final.output.startswith(first_half)
    assert has.is_all_of(final)


async def test_nothing_is_told_of_the_thoughts_and_calls_of_one_whose_words_do_not_join(mesh: SmallMesh) -> None:
    async def other(asked: Asked) -> None:
        await asked.chunk("", reasoning="what did I say? ")
        await asked.chunk("", tool_calls=begun("d"))
        await begins_again(asked)

    async def calls(asked: Asked) -> None:
        await asked.chunk("", reasoning="ah ")
        await asked.chunk(asked.anchor[:9])
        await asked.chunk(asked.anchor[9:] + REST)
        await asked.chunk("", reasoning="so ", tool_calls=begun("c"))
        said = asked.anchor + REST
        await asked.answer(said, reasoning="ah so ", tool_calls=(CALL,), finish_reason="tool_calls")

    heard, _ = await by_turns(mesh, fails, other, calls, tools=[LOOK])
    has, modes, final = joined(heard)
    assert (modes, has.text, has.reasoning, final.tool_calls) == (["continued"], STORY, "ah so ", (CALL,))
    assert has.is_all_of(final)


async def test_after_thoughts_alone_another_worker_thinks_anew(mesh: SmallMesh) -> None:
    async def thinks(asked: Asked) -> None:
        await asked.chunk("", reasoning="hm ")
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "cut off"))

    async def answers(asked: Asked) -> None:
        await asked.chunk("", reasoning="well ")
        await asked.chunk("yes")
        await asked.answer("yes", reasoning="well ")

    heard, asked = await by_turns(mesh, thinks, answers, prefill=True, response_format={"type": "json_object"})
    has, modes, final = joined(heard)
    assert (modes, has.text, has.reasoning) == (["continued"], "yes", "hm well ")
    assert has.is_all_of(final)
    assert (asked[1].body["prompt"], h.CONTINUE in asked[1].headers) == ("hello there", False)


async def test_a_call_that_has_begun_ends_the_stream(mesh: SmallMesh) -> None:
    async def calls(asked: Asked) -> None:
        await asked.chunk("Let me see. ", tool_calls=begun("c"))
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "cut off"))

    heard, asked = await by_turns(mesh, calls, obeys, tools=[LOOK])
    assert seams(heard) == []
    assert heard[-2] is not None
    assert "can be joined" in heard[-2]["error"]["message"]
    assert len(asked) == 1


def begun(call_id: str) -> tuple[ToolCallDelta, ...]:
    return (ToolCallDelta(index=0, id=call_id, function=FunctionDelta(name="look", arguments='{"at')),)
