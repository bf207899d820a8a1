"""Translates tool calls between providers: a request's calls into the form of this provider, and an answer's calls
back.

A conversation may continue at another provider than it began at. Each provider has rules of its own for the ids of
calls and the names of functions, and most refuse a result without its call, a call without its result, and unknown
fields. So a backend reads a translated request, and its answer's calls are translated back. The caller sees the names
and ids that it knows, and a provider never sees another provider's.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import count

from contracts import BullpenError, ChatMessage, ErrorCode, JsonObject, ToolCallDelta, new_id
from workers.base.interface.backend import Delta, Done, Job
from workers.base.provider.question import built

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
LENGTH = 9
"""Characters of an id that is made here: the strictest provider accepts exactly this many letters and digits."""
LONGEST_NAME = 64
NO_RESULT = ChatMessage(role="tool", content="(no result)")
"""The result of a call whose result the conversation does not have."""


@dataclass(frozen=True, slots=True)
class CallRule:
    """The ids and names of calls that a provider accepts. Ids of nine letters or digits and names like `get_weather`
    have to fit.
    """

    ids: str = "[A-Za-z0-9_-]{1,40}"
    names: str = "[A-Za-z0-9_-]{1,64}"
    keeps: frozenset[str] = frozenset()
    """The provider's own fields of a call, beside `id`, `type` and `function`."""


class CallForms:
    """The tools, calls and results of one request in a provider's form."""

    def __init__(self, job: Job, rule: CallRule) -> None:
        """Raises `BullpenError(invalid_request)` for a call without a named function."""
        self._keeps = rule.keeps
        self._used: set[str] = set()
        """The ids that the caller has got for calls of the answer."""
        self._passed_on: dict[str, str] = {}
        """By the provider's id, the caller's id of a call whose first piece was sent already."""
        self._names = _Words(rule.names, _made_name)
        self._ids = _Words(rule.ids, _made_id)
        self.job = replace(job, request=job.request.model_copy(update=self._changed(job)))
        """The job as the backend has to read it."""

    def restored(self, done: Done) -> Done:
        """The end of an answer with the caller's names and ids; each call has a different id."""
        return replace(done, tool_calls=tuple(self._restored(call) for call in done.tool_calls))

    def restored_delta(self, delta: Delta) -> Delta:
        """A piece of an answer with the caller's names and ids."""
        if not delta.tool_calls:
            return delta
        return replace(delta, tool_calls=tuple(self._restored_piece(piece) for piece in delta.tool_calls))

    def _restored_piece(self, piece: ToolCallDelta) -> ToolCallDelta:
        if piece.id is None:
            return piece
        call_id = self._passed_on[piece.id] = self._own_id(piece.id)
        function = piece.function
        if function.name is not None:
            function = function.model_copy(update={"name": self._names.original(function.name)})
        return piece.model_copy(update={"id": call_id, "function": function})

    def _own_id(self, told: str) -> str:
        call_id = self._ids.original(told) or new_id()
        call_id = new_id() if call_id in self._used else call_id
        self._used.add(call_id)
        return call_id

    def _restored(self, call: JsonObject) -> JsonObject:
        told = str(call.get("id") or "")
        call_id = self._passed_on.pop(told, None) or self._own_id(told)
        function = {**call["function"], "name": self._names.original(call["function"]["name"])}
        return {**call, "id": call_id, "function": function}

    def _changed(self, job: Job) -> JsonObject:
        """The fields of the request that change; none for a request without tools and calls."""
        request, messages = job.request, job.request.conversation
        if not request.tools and not any(message.tool_calls or message.role == "tool" for message in messages):
            return {}
        calls = [call for message in messages for call in _calls_of(message)]
        declared = [str(tool["function"]["name"]) for tool in request.tools or ()]
        self._names.keep([*declared, *(function_of(call)[0] for call in calls)])
        self._ids.keep(_id_of(call) for call in calls)
        changed: JsonObject = {"prompt": None, "context": {}, "messages": tuple(self._told(messages))}
        if request.tools:
            changed["tools"] = tuple(self._tool(tool) for tool in request.tools)
        if isinstance(request.tool_choice, dict):
            changed["tool_choice"] = self._tool(request.tool_choice)
        return changed

    def _tool(self, tool: JsonObject) -> JsonObject:
        return {**tool, "function": {**tool["function"], "name": self._names.told(tool["function"]["name"])}}

    def _told(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The conversation, with each call's results right after it and in the calls' order."""
        results = results_of(messages)
        taken = set(results.values())
        told: list[ChatMessage] = []
        for number, message in enumerate(messages):
            if message.role == "tool":
                told += [] if number in taken else [in_words(message)]
                continue
            calls = [self._call(call) for call in _calls_of(message)]
            told.append(message.model_copy(update={"tool_calls": tuple(calls) or None}))
            for place, call in enumerate(calls):
                at = results.get((number, place))
                told.append(_result(call, NO_RESULT if at is None else messages[at]))
        return told

    def _call(self, call: JsonObject) -> JsonObject:
        name, arguments = function_of(call)
        own = {field: call[field] for field in self._keeps if field in call}
        function = {"name": self._names.told(name), "arguments": arguments}
        return {"id": self._ids.once(_id_of(call)), "type": "function", "function": function, **own}


def translated(job: Job, rule: CallRule) -> CallForms:
    """The job in the provider's form. Raises `BullpenError(invalid_request)`: the request is at fault."""
    return built(partial(CallForms, rule=rule), job)


# Which result belongs to which call


def results_of(messages: Sequence[ChatMessage]) -> dict[tuple[int, int], int]:
    """For each call with a result, the number of the result's message, by the number of the call's message and the
    call's place in it.

    A result names its call by id: the last such call without a result. A result without an id belongs to the first call
    without a result, of the same name if the result has a name.
    """
    waiting: list[tuple[int, int]] = []
    results: dict[tuple[int, int], int] = {}
    for number, message in enumerate(messages):
        waiting += [(number, place) for place in range(len(_calls_of(message)))]
        if message.role == "tool" and (where := _call_of(message, messages, waiting)) is not None:
            results[where] = number
            waiting.remove(where)
    return results


def _call_of(
    result: ChatMessage, messages: Sequence[ChatMessage], waiting: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    def call(where: tuple[int, int]) -> JsonObject:
        return _calls_of(messages[where[0]])[where[1]]

    if result.tool_call_id:
        fitting = [where for where in waiting if _id_of(call(where)) == result.tool_call_id]
        return fitting[-1] if fitting else None
    fitting = [where for where in waiting if result.name in (None, function_of(call(where))[0])]
    return fitting[0] if fitting else None


def in_words(result: ChatMessage) -> ChatMessage:
    """A result as words of the user, for a result without a call and for models without tools."""
    return ChatMessage(role="user", content=f"Result of {result.name or 'a tool'}: {result.text}")


def _result(call: JsonObject, result: ChatMessage) -> ChatMessage:
    name = call["function"]["name"] if result.name else None
    return result.model_copy(update={"tool_calls": None, "tool_call_id": call["id"], "name": name})


def _calls_of(message: ChatMessage) -> tuple[JsonObject, ...]:
    return message.tool_calls or () if message.role == "assistant" else ()


def _id_of(call: JsonObject) -> str:
    return str(call.get("id") or "")


def function_of(call: JsonObject) -> tuple[str, str]:
    """A call's function name, and its arguments as text. Raises `BullpenError(invalid_request)`."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name:
        raise BullpenError(
            ErrorCode.INVALID_REQUEST, "each of tool_calls needs a function with a name", field="messages"
        )
    arguments = function.get("arguments") or "{}"
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments)


# Words that fit


class _Words:
    """Names or ids, in the caller's form and in the provider's; each stands for exactly one of the other form."""

    def __init__(self, form: str, make: Callable[[str, int], str]) -> None:
        self._form = re.compile(form)
        self._make = make
        self._told: dict[str, str] = {}
        self._original: dict[str, str] = {}
        self._used: set[str] = set()

    def keep(self, words: Iterable[str]) -> None:
        """Keeps the words that fit the provider's form, so that no other word is translated into one of them."""
        for word in words:
            if self._form.fullmatch(word):
                self._told[word] = self._original[word] = word

    def told(self, word: str) -> str:
        """The provider's word for the caller's."""
        return self._told.get(word) or self._new(word)

    def once(self, word: str) -> str:
        """The provider's word for the caller's, but a new one each time the caller's word occurs again."""
        told = self.told(word)
        told = self._new(word) if told in self._used else told
        self._used.add(told)
        return told

    def original(self, told: str) -> str:
        """The caller's word for the provider's; a word that the caller never used stays as it is."""
        return self._original.get(told, told)

    def _new(self, word: str) -> str:
        made = (self._make(word, number) for number in count())
        told = next(one for one in made if one not in self._original)
        self._told.setdefault(word, told)
        self._original[told] = word
        return told


def _made_id(word: str, number: int) -> str:
    """An id made from a word. The same word gives the same id, so that providers find the conversation in their
    caches.
    """
    digest = sha256(f"{number}/{word}".encode(errors="replace")).digest()
    return "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:LENGTH])


def _made_name(word: str, number: int) -> str:
    clean = re.sub(r"[^A-Za-z0-9_]+", "_", word)
    clean = clean if clean[:1].isalpha() else f"f{clean}"
    end = f"_{number}" if number else ""
    return clean[: LONGEST_NAME - len(end)] + end
