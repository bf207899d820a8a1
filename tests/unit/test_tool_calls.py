"""Tool calls in the pieces in which servers send them: which piece belongs to which call."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode
from contracts.response import MOST_TOOL_CALLS
from workers.base.provider.chat import SizeGuard
from workers.base.provider.tool_calls import ToolCalls, checked

Piece = tuple[Any, Any, Any, Any]
"""Index, id, name, arguments."""


def called(*pieces: Piece, offered: tuple[str, ...] = ("sum", "time", "get_weather")) -> list[tuple[str, str]]:
    calls = ToolCalls(SizeGuard(1000), offered)
    for piece in pieces:
        calls.add(*piece)
    finished = checked(calls.finished())
    assert len({call["id"] for call in finished}) == len(finished)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in finished]


BOTH = [("time", "{}"), ("sum", '{"a":1}')]


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([(0, "a", "time", "{}"), (1, "b", "sum", '{"a":1}')], id="as documented"),
        pytest.param(
            [(0, "a", "time", ""), (1, "b", "sum", '{"a"'), (0, None, None, "{}"), (1, None, None, ":1}")],
            id="interleaved",
        ),
        pytest.param([(0, "a", "time", "{}"), (0, "b", "sum", '{"a":1}')], id="one index"),
        pytest.param(
            [(0, "a", "time", ""), (0, "b", "sum", '{"a"'), (0, None, None, ":1}")], id="one index, no arguments first"
        ),
        pytest.param(
            [(0, None, "time", "{}"), (0, None, "sum", '{"a"'), (0, None, None, ":1}")], id="one index, no id"
        ),
        pytest.param([(0, "", "time", "{}"), (0, "", "sum", '{"a":1}')], id="one index, empty ids"),
        pytest.param([(None, "a", "time", "{}"), (None, "b", "sum", '{"a"'), (None, "b", None, ":1}")], id="ids alone"),
        pytest.param(
            [(None, "a", "time", ""), (None, "b", "sum", '{"a"'), (None, "a", None, "{}"), (None, "b", None, ":1}")],
            id="ids alone, interleaved",
        ),
        pytest.param(
            [(None, None, "time", "{}"), (None, None, "sum", '{"a"'), (None, None, None, ":1}")], id="names alone"
        ),
        pytest.param([(0, "x", "time", "{}"), (1, "x", "sum", '{"a":1}')], id="one id"),
        pytest.param([(0, "x", "time", "{}"), (0, "x", "sum", '{"a":1}')], id="one id, one index"),
        pytest.param(
            [(0, "a", "time", None), (1, "b", "sum", '{"a":1}'), (1, "b", "sum", '{"a":1}')],
            id="the whole call once more",
        ),
        pytest.param(
            [(0, "a", "time", "{}"), (1, "b", "sum", '{"a"'), (1, "b", "sum", ":1}"), (1, "b", "sum", "")],
            id="id and name in each piece",
        ),
        pytest.param(
            [(0, "a", "time", "{}"), (1, "b", "sum", '{"a"'), (1, "c", None, ":1}")], id="another id in each piece"
        ),
        pytest.param([(0, "a", "time", {}), (1, "b", "sum", {"a": 1})], id="arguments as an object"),
        pytest.param(
            [(0, "a", "time", ""), (1, "b", "sum", "{"), (1, "b", None, '{"a":1}')],
            id="each piece repeats all before it",
        ),
        pytest.param([("0", "a", "time", "{}"), ("1", "b", "sum", '{"a":1}')], id="indexes that are words"),
        pytest.param([(7, "a", "time", "{}"), (3, "b", "sum", '{"a":1}')], id="in the order in which they began"),
    ],
)
def test_two_calls_are_two_calls(pieces: list[Piece]) -> None:
    assert [(name, json.loads(told)) for name, told in called(*pieces)] == [("time", {}), ("sum", {"a": 1})]


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([(0, "a", "sum", '{"a":1}{"a":2}')], [("sum", '{"a":1}'), ("sum", '{"a":2}')]),
        ([(0, "a", "sum", '{"a":1}'), (0, None, None, '{"a":2}')], [("sum", '{"a":1}'), ("sum", '{"a":2}')]),
        ([(0, None, "sum", '{"a":1}'), (0, None, "sum", '{"a":2}')], [("sum", '{"a":1}'), ("sum", '{"a":2}')]),
        ([(0, None, "sum", "{}"), (0, None, "sum", "{}")], [("sum", "{}"), ("sum", "{}")]),
        ([(0, "a", "get_", None), (0, None, "weather", ""), (0, None, None, "{}")], [("get_weather", "{}")]),
        ([(0, "a", "time", None)], [("time", "{}")]),
        ([(0, "a", "sum", ' {"a": "}{"} ')], [("sum", '{"a": "}{"}')]),
    ],
)
def test_names_and_completed_objects_separate_the_calls(pieces: list[Piece], calls: list[tuple[str, str]]) -> None:
    assert called(*pieces) == calls


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, "a", "sum", '{"a":')],
        [(0, "a", "sum", "[1]")],
        [(0, "a", "sum", "7")],
        [(0, "a", "sum", '{"a":1} and more')],
        [(0, "a", None, "{}")],
        [(0, "a", "  ", "{}")],
        [(0, "a", "sum", "{" * 5000)],
    ],
)
def test_what_no_caller_can_use_is_malformed(pieces: list[Piece]) -> None:
    with pytest.raises(BullpenError) as caught:
        called(*pieces)
    assert (caught.value.code, caught.value.fault) == (ErrorCode.MALFORMED_TOOL_CALL, "model")


@pytest.mark.parametrize("piece", [(0, "a", [], "{}"), (0, "a", "sum", 7)])
def test_what_is_not_text_is_unusable(piece: Piece) -> None:
    with pytest.raises(BullpenError, match="not text"):
        called(piece)


@pytest.mark.parametrize(("told", "own"), [(7, "7"), ("7", "7"), (True, None), (0.5, None), ([], None), (None, None)])
def test_the_id_of_a_call_is_a_text_or_a_number(told: object, own: str | None) -> None:
    calls = ToolCalls(SizeGuard(1000))
    calls.add(0, told, "sum", '{"a"')
    calls.add(0, told, None, ":1}")
    (call,) = checked(calls.finished())
    assert call["function"] == {"name": "sum", "arguments": '{"a":1}'}
    assert call["id"] == own if own else call["id"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_arguments_that_only_python_reads_are_malformed(number: str) -> None:
    with pytest.raises(BullpenError, match="not a JSON object"):
        called((0, "a", "sum", f'{{"a": {number}}}'))
    with pytest.raises(BullpenError, match="not a JSON object"):
        called((0, "a", "sum", {"a": float(number)}))


def test_calls_without_end_are_left() -> None:
    with pytest.raises(BullpenError, match="more tool calls"):
        called(*((index, "", "", "") for index in range(MOST_TOOL_CALLS + 1)))
    with pytest.raises(BullpenError, match="far more"):
        called(*((0, None, None, "x" * 1000) for _ in range(30)))


@given(
    st.lists(st.tuples(st.sampled_from(["sum", "time"]), st.dictionaries(st.text(), st.integers())), max_size=5),
    st.data(),
)
def test_calls_as_documented_survive_any_cut(made: list[tuple[str, dict[str, int]]], data: st.DataObject) -> None:
    pieces: list[Piece] = []
    for index, (name, arguments) in enumerate(made):
        told = json.dumps(arguments)
        cut = data.draw(st.integers(0, len(told)))
        pieces += [(index, f"c{index}", name, told[:cut]), (index, None, None, told[cut:])]
    assert [(name, json.loads(told)) for name, told in called(*pieces)] == made
