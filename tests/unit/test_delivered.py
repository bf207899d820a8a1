"""What a stream's reader has, and what of an answer it lacks."""

from typing import Any

import pytest

from bus.delivered import Delivered
from contracts import Chunk, FunctionDelta, InferenceResponse, JsonObject, Piece, TokenLogprob, ToolCallDelta
from tests.fake_manager import response

TOKEN = TokenLogprob(token="a", logprob=-0.5)


def begun(index: int = 0, name: str = "look", call_id: str = "c0") -> ToolCallDelta:
    return ToolCallDelta(index=index, id=call_id, function=FunctionDelta(name=name))


def more(arguments: str, index: int = 0) -> ToolCallDelta:
    return ToolCallDelta(index=index, function=FunctionDelta(arguments=arguments))


def call(arguments: str, name: str = "look", call_id: str = "c0") -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def answer(output: str = "", **told: Any) -> InferenceResponse:
    return response("t", output, **told)


def delivered(*pieces: Piece) -> Delivered:
    has = Delivered()
    for piece in pieces:
        has.take(piece)
    return has


def test_pieces_joined_are_one_piece_with_the_calls_in_fewer() -> None:
    joined = Piece("a", "x", (begun(), more('{"')), (TOKEN,), 1) + Piece(
        "b", "y", (more('a"'), more("", 1)), (TOKEN,), 2
    )
    assert (joined.text, joined.reasoning, joined.tokens, len(joined.logprobs)) == ("ab", "xy", 2, 2)
    assert [(one.index, one.id, one.function.arguments) for one in joined.tool_calls] == [
        (0, "c0", '{"a"'),
        (1, None, ""),
    ]


@pytest.mark.parametrize(
    "piece", [Piece("a"), Piece(reasoning="x"), Piece(tool_calls=(begun(),)), Piece(logprobs=(TOKEN,), tokens=3)]
)
def test_a_chunk_brings_its_piece(piece: Piece) -> None:
    chunk = Chunk.of("t", 4, piece)
    assert Chunk.model_validate_json(chunk.to_bytes()) == chunk
    assert (chunk.seq, chunk.piece, bool(piece)) == (4, piece, True)


def test_an_empty_piece_is_false() -> None:
    assert not Piece(tokens=3)


WHOLE = answer("a b", reasoning="x y", tool_calls=(call('{"a": 1}'),), logprobs=(TOKEN, TOKEN))
CASES: dict[str, tuple[Delivered, InferenceResponse, Piece | None]] = {
    "nothing yet": (
        delivered(),
        WHOLE,
        Piece(
            "a b",
            "x y",
            (ToolCallDelta(index=0, id="c0", function=FunctionDelta(name="look", arguments='{"a": 1}')),),
            (TOKEN, TOKEN),
            2,
        ),
    ),
    "a start of each": (
        delivered(Piece("a", "x ", (begun(), more('{"a"')), (TOKEN,))),
        WHOLE,
        Piece(" b", "y", (more(": 1}"),), (TOKEN,), 2),
    ),
    "all": (delivered(Piece("a b", "x y", (begun(), more('{"a": 1}\n')), (TOKEN, TOKEN))), WHOLE, Piece(tokens=2)),
    "another text": (delivered(Piece("b")), WHOLE, None),
    "other thoughts": (delivered(Piece(reasoning="z")), WHOLE, None),
    "thoughts that the answer does not repeat": (delivered(Piece("a b", "x")), answer("a b"), Piece(tokens=2)),
    "another function": (delivered(Piece(tool_calls=(begun(name="find"),))), WHOLE, None),
    "another id": (delivered(Piece(tool_calls=(begun(call_id="c1"),))), WHOLE, None),
    "other arguments": (delivered(Piece(tool_calls=(begun(), more('{"b"')))), WHOLE, None),
    "a call too many": (delivered(Piece("a b", tool_calls=(begun(),))), answer("a b"), None),
    "a call without arguments": (
        delivered(Piece(tool_calls=(begun(),))),
        answer(tool_calls=(call("{}"),)),
        Piece(tool_calls=(more("{}"),), tokens=2),
    ),
}


@pytest.mark.parametrize(("has", "whole", "missing"), CASES.values(), ids=CASES.keys())
def test_the_missing_part_of_an_answer(has: Delivered, whole: InferenceResponse, missing: Piece | None) -> None:
    assert has.missing(whole) == missing
    assert has.is_all_of(whole) == (missing is not None and not missing)
    if missing is not None:
        has.take(missing)
        assert has.is_all_of(whole)


def test_what_is_void_is_forgotten() -> None:
    has = delivered(Piece("a", "x", (begun(),), (TOKEN,)))
    assert has and has.has_calls
    has.clear()
    assert not has and not has.has_calls and has.is_all_of(answer(""))
