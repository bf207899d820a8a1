"""Pieces of tool calls on their way to a caller: what is passed on joins to what the answer says in the end."""

from typing import Any

import pytest

from bus.delivered import Delivered
from contracts import ChatMessage, FunctionDelta, InferenceRequest, ModelCard, Piece, ToolCallDelta
from tests.fake_manager import response
from workers.base import Delta, Done, Job
from workers.base.provider.call_forms import CallForms, CallRule
from workers.base.provider.chat import SizeGuard
from workers.base.provider.tool_calls import ToolCalls

PIECES: dict[str, list[tuple[Any, ...]]] = {
    "a name, then its arguments": [(0, "a", "sum", ""), (0, None, None, '{"a"'), (0, None, None, ": 1}")],
    "all at once": [(0, "a", "sum", '{"a": 1}')],
    "arguments that are an object": [(0, "a", "sum", {"a": 1})],
    "no arguments at all": [(0, "a", "sum", "")],
    "two calls": [(0, "a", "sum", "{}"), (1, "b", "time", "{}")],
    "two calls in turn": [(0, "a", "sum", "{"), (1, "b", "time", "{"), (0, None, None, "}"), (1, None, None, "}")],
    "every call with the same index": [(0, "a", "sum", "{}"), (0, "b", "time", "{}")],
    "every call with the same id": [(0, "a", "sum", "{}"), (1, "a", "time", "{}")],
    "no ids": [(0, None, "sum", "{}"), (1, None, "time", "{}")],
    "an id that comes late": [(0, None, "sum", '{"a"'), (0, "a", None, ": 1}")],
    "a name in two pieces": [(0, "a", "get_", ""), (0, None, "sum", ""), (0, None, None, "{}")],
    "arguments before the name": [(0, "a", None, "{"), (0, None, "sum", "}")],
    "the whole call once more": [(0, "a", "sum", '{"a": 1}'), (0, "a", "sum", '{"a": 1}')],
    "blanks around the arguments": [(0, "a", "sum", ' {"a": 1}'), (0, None, None, "\n")],
    "two objects in one call": [(0, "a", "sum", '{"a": 1}'), (0, None, None, '{"a": 2}')],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES.keys())
def test_what_is_passed_on_joins_to_the_calls(pieces: list[tuple[Any, ...]]) -> None:
    calls, delivered = ToolCalls(SizeGuard(None), ["get_sum"]), Delivered()
    for piece in pieces:
        delivered.take(Piece(tool_calls=calls.add(*piece)))
    whole = response("t", "", tool_calls=calls.finished())
    missing = delivered.missing(whole)
    if pieces == PIECES["two objects in one call"]:
        assert missing is None  # the reader is told that it starts anew
        return
    assert missing is not None
    delivered.take(missing)
    assert delivered.is_all_of(whole)


def test_pieces_are_passed_on_at_once_and_an_id_only_once() -> None:
    calls = ToolCalls(SizeGuard(None))
    told = [calls.add(*piece) for piece in PIECES["a name, then its arguments"]]
    begun = ToolCallDelta(index=0, id="a", function=FunctionDelta(name="sum", arguments='{"a"'))
    assert told == [(), (begun,), (ToolCallDelta(index=0, function=FunctionDelta(arguments=": 1}")),)]


def test_the_caller_gets_its_own_names_and_ids_in_pieces_and_at_the_end() -> None:
    tool = {"type": "function", "function": {"name": "get.weather"}}
    call = {"id": "id one", "type": "function", "function": {"name": "get.weather", "arguments": "{}"}}
    turns = (ChatMessage(role="user", content="hi"), ChatMessage(role="assistant", tool_calls=(call,)))
    request = InferenceRequest(messages=turns, tools=(tool,))
    card = ModelCard(model_id="m", context_window=100, local=True)
    forms = CallForms(Job(request, card, None), CallRule())
    [made] = forms.job.request.tools or ()
    name = made["function"]["name"]
    assert name != "get.weather"
    ids = ("c1", "c1", "c2")
    pieces = [ToolCallDelta(index=n, id=one, function=FunctionDelta(name=name)) for n, one in enumerate(ids[:2])]
    told = [forms.restored_delta(Delta("", 1, tool_calls=(piece,))).tool_calls[0] for piece in pieces]
    assert [piece.function.name for piece in told] == ["get.weather"] * 2
    assert told[0].id == "c1" != told[1].id
    rest = forms.restored_delta(Delta("", 1, tool_calls=(ToolCallDelta(index=0),)))
    assert rest.tool_calls == (ToolCallDelta(index=0),)
    last = {"id": "c2", "type": "function", "function": {"name": name, "arguments": "{}"}}
    done = forms.restored(Done("tool_calls", 1, 1, ({**last, "id": "c1"}, last)))
    assert [one["function"]["name"] for one in done.tool_calls] == ["get.weather"] * 2
    assert [one["id"] for one in done.tool_calls][1] == "c2"
