"""Gathers tool calls from the pieces in which providers send them. Pure.

A piece continues a call when it has the call's id, or its index and no sign of another call. A new id, another name, or
a name after a complete object begins the next call: some servers give every call the same index, the same id, or none.
Names and ids may come with every piece, once, or never.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from contracts import BullpenError, ErrorCode, FunctionDelta, JsonObject, ToolCallDelta, new_id
from contracts.response import MOST_TOOL_CALLS
from workers.base.provider.chat import SizeGuard
from workers.base.provider.chat import call_id as id_of
from workers.base.provider.errors import first_line, garbage


@dataclass(slots=True)
class _Call:
    index: object = None
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    told_id: str = ""
    """The id under which the call was passed on; empty: it was not passed on yet."""
    told: int = 0
    """Pieces that were passed on."""

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether the call's arguments are a complete object."""
        return bool(self.pieces) and self.pieces[-1].rstrip().endswith("}") and _object(self.arguments) is not None


class ToolCalls:
    def __init__(self, size: SizeGuard, offered: Collection[str] = ()) -> None:
        """`offered`: the names of the functions in the request."""
        self._size = size
        self._offered = frozenset(offered)
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, index: object, call_id: object, name: object, arguments: object) -> tuple[ToolCallDelta, ...]:
        """Adds a piece of a call, each part of it as the provider sent it. Raises `BullpenError(upstream_error)` when
        there is too much.

        Returns what can be passed on now: a call can be once its arguments begin.
        """
        told_id, told_name = id_of(call_id), _text(name)
        told = json.dumps(arguments) if isinstance(arguments, dict) else _text(arguments)
        call = self._current(index, told_id, told_name)
        if call is None or self._begins_another(call, told_id, told_name, told):
            call = self._begin(index)
        elif told_id and told_id == call.id and told and call.is_whole and told == call.arguments:
            return ()  # the whole call once more, at its end
        if told_id and not call.id:
            call.id = self._size.take(told_id)
        if told_name != call.name:
            call.name += self._size.take(told_name)
        if told:
            call.pieces.append(self._size.take(told))
        return self._news(call)

    def _news(self, call: _Call) -> tuple[ToolCallDelta, ...]:
        if not call.name or call.told == len(call.pieces):
            return ()
        begins = not call.told_id
        if begins:
            used = {other.told_id for other in self._calls}
            call.told_id = call.id if call.id and call.id not in used else new_id()
        rest, call.told = "".join(call.pieces[call.told :]), len(call.pieces)
        function = FunctionDelta(name=call.name if begins else None, arguments=rest)
        at = next(number for number, other in enumerate(self._calls) if other is call)
        return (ToolCallDelta(index=at, id=call.told_id if begins else None, function=function),)

    def finished(self) -> tuple[JsonObject, ...]:
        """The calls in the order in which they began, each with an id of its own, not yet `checked`."""
        ids: set[str] = set()
        made: list[JsonObject] = []
        for call in self._calls:
            for arguments in _each_object(call):
                known = (one for one in (call.told_id, call.id) if one and one not in ids)
                own_id = next(known, None) or new_id()
                ids.add(own_id)
                function = {"name": call.name, "arguments": arguments}
                made.append({"id": own_id, "type": "function", "function": function})
        return tuple(made)

    def _begin(self, index: object) -> _Call:
        if len(self._calls) >= MOST_TOOL_CALLS:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the provider sends more tool calls than any answer has")
        self._calls.append(_Call(index))
        return self._calls[-1]

    def _current(self, index: object, call_id: str, name: str) -> _Call | None:
        """The latest call to which a piece may belong."""
        if index is not None:
            return next((call for call in reversed(self._calls) if call.index == index), None)
        if call_id:
            known = next((call for call in reversed(self._calls) if call.id == call_id), None)
            if known is not None or name:
                return known
        return self._calls[-1] if self._calls else None

    def _begins_another(self, call: _Call, call_id: str, name: str, arguments: str) -> bool:
        if call_id and call.id and call_id != call.id:
            return bool(name) or call.is_whole  # without a name it is the rest: some servers number each piece
        if not name or not call.name:
            return False
        if name != call.name:
            return not self._is_rest_of_name(call, name)
        again = bool(call_id) and arguments == call.arguments
        return call.is_whole and _object(arguments) is not None and not again

    def _is_rest_of_name(self, call: _Call, name: str) -> bool:
        """Whether a name came in two pieces: the request offers a function whose name begins with both together."""
        begun = call.name not in self._offered and not call.pieces
        return begun and any(offered.startswith(call.name + name) for offered in self._offered)


def checked(calls: tuple[JsonObject, ...]) -> tuple[JsonObject, ...]:
    """The calls, if each has a name and arguments that are a JSON object. Raises
    `BullpenError(malformed_tool_call)`.
    """
    for call in calls:
        function: Any = call.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise malformed("a tool call without a name")
        arguments = function.get("arguments")
        if not isinstance(arguments, str) or _object(arguments) is None:
            raise malformed(f"arguments for {first_line(name)} that are not a JSON object")
    return calls


def read_arguments(text: str) -> JsonObject:
    """The arguments of a call from a provider that sends them as text; a blank text has none.

    Raises `BullpenError(malformed_tool_call)`.
    """
    arguments = _object(text) if text.strip() else {}
    if arguments is None:
        raise malformed("arguments that are not a JSON object")
    return arguments


def malformed(what: str) -> BullpenError:
    """The error for a tool call that no caller can use; another attempt may do better."""
    return BullpenError(ErrorCode.MALFORMED_TOOL_CALL, f"the model sent {what}", fault="model")


def _text(told: object) -> str:
    if told is not None and not isinstance(told, str):
        raise garbage("a tool call that is not text")
    return told or ""


def _each_object(call: _Call) -> Iterator[str]:
    """The arguments of a call; of several calls, where a server put one object after the other."""
    told = call.arguments.strip()
    if not told:
        yield "{}"
        return
    if _object(told) is not None:
        yield told
        return
    objects = _objects(told)
    if not objects and _object(call.pieces[-1]) is not None:
        objects = [call.pieces[-1].strip()]  # each piece repeats all that came before
    yield from objects or [told]


def _objects(text: str) -> list[str]:
    """The JSON objects that a text consists of; empty when it has anything else in it."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict):
            return []
        found.append(text[at:end])
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return found


def _object(text: str) -> JsonObject | None:
    """The JSON object in a text. NaN and Infinity, which Python accepts, are no JSON."""
    try:
        value = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _no_json(word: str) -> None:
    raise ValueError(word)
