"""The answer of the worker without a model to a request: thoughts, words, JSON, or tool calls. Pure.

It depends only on the seed and the question, so the same question always gets the same answer.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from contracts import FinishReason, FunctionDelta, InferenceRequest, JsonObject, TokenLogprob, ToolCallDelta, TopLogprob
from contracts.going_on import Interrupted
from workers.base import Delta, Job
from workers.base.provider.chat import json_wanted
from workers.simulated.schema import NoExample, example

WORDS = tuple(
    "the answer to this question is found where a careful reader looks twice and then once more because every "  # noqa: SIM905 — a sentence is easier to read than a list of its words
    "honest worker in the bullpen says what it knows and nothing else while the manager listens for silence".split()
)
THOUGHTS = {"none": 0, "minimal": 4, "low": 8, "medium": 16, "high": 32, "xhigh": 64}
"""Words of thoughts at each effort."""
TOKEN = re.compile(r"\s*\w+|\s*\W")
"""A token of JSON: a word or a sign."""
ANY_OBJECT: JsonObject = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
LEAST_LIKELY = 2.0
"""The most by which a token's log-probability is below zero."""

Kind = Literal["thought", "word", "call"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One token of an answer."""

    kind: Kind
    text: str
    call: ToolCallDelta | None = None


@dataclass(frozen=True, slots=True)
class Script:
    units: list[Unit]
    finish: FinishReason
    calls: tuple[JsonObject, ...] = ()

    @property
    def thoughts(self) -> int:
        """Tokens of thoughts in the answer."""
        return sum(unit.kind == "thought" for unit in self.units)


def question_of(request: InferenceRequest) -> str:
    """The question of a request; for a request to continue an answer, the question that began it."""
    cut_off = Interrupted.of(request)
    return cut_off.question if cut_off else request.question


def script_of(job: Job, seed: int, plain: list[str], *, may_think: bool) -> Script:
    """The script of an answer. `plain`: the words of an answer that is neither JSON nor a call. Raises `NoExample` for
    a schema without a value.

    Asked in words to continue, it repeats the end of the text so far, then adds the rest.
    """
    request = job.request
    thoughts = _thoughts(request, seed) if may_think and not job.prefix else []
    called = _tools_to_call(request)
    if called:
        cut_off = Interrupted.of(request)
        again = [Unit("word", word) for word in split(cut_off.anchor)] if cut_off else []
        calls = tuple(_call(tool, request, seed, number) for number, tool in enumerate(called))
        units = [unit for index, call in enumerate(calls) for unit in _call_units(index, call)]
        return Script([*thoughts, *again, *units], "tool_calls", calls)
    words, finish = _words(job, seed, plain)
    return Script([*thoughts, *(Unit("word", word) for word in words)], finish)


def delta_of(units: Sequence[Unit], request: InferenceRequest, seed: int) -> Delta:
    """One piece for tokens of one kind."""
    text = "".join(unit.text for unit in units)
    match units[0].kind:
        case "thought":
            return Delta("", 0, reasoning=text)
        case "call":
            return Delta("", len(units), tool_calls=tuple(unit.call for unit in units if unit.call is not None))
        case "word":
            told = tuple(_likelihood(unit.text, request, seed) for unit in units) if request.logprobs else ()
            return Delta(text, len(units), tuple(token.logprob for token in told), token_logprobs=told)


# Words


def _words(job: Job, seed: int, plain: list[str]) -> tuple[list[str], FinishReason]:
    """The tokens of the answer that follow the job's prefix, and why the answer ends there."""
    request = job.request
    is_json, schema = json_wanted(request.response_format)
    if is_json:
        value = example(ANY_OBJECT if schema is None else schema, _chance(seed, question_of(request), "json"))
        plain = TOKEN.findall(json.dumps(value))
    cut_off, whole = Interrupted.of(request), _cut(plain, request.stops)
    told = [*split(cut_off.anchor), *_after(cut_off.begun, whole)] if cut_off else whole
    tokens = _after(job.prefix, told)
    if job.max_tokens is not None and job.max_tokens < len(tokens):
        return tokens[: job.max_tokens], "length"
    return tokens, "stop"


def sentence(seed: str, length: int | None) -> list[str]:
    """`length` words, at least one; every word but the first begins with a space."""
    rng = random.Random(seed)  # noqa: S311 — the same words every time
    first, *rest = rng.choices(WORDS, k=length or 1)
    return [first, *(f" {word}" for word in rest)]


def _thoughts(request: InferenceRequest, seed: int) -> list[Unit]:
    count = THOUGHTS[request.reasoning_effort or "none"]
    words = sentence(f"{seed}/thoughts/{question_of(request)}", count) if count else []
    return [Unit("thought", word) for word in words]


def split(text: str) -> list[str]:
    """The words of a text, each with the blanks before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def _cut(tokens: list[str], stops: Iterable[str]) -> list[str]:
    """The tokens before the first stop sequence."""
    text = "".join(tokens)
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return list(_up_to(min(ends), tokens)) if ends else tokens


def _up_to(end: int, tokens: list[str]) -> Iterator[str]:
    for token in tokens:
        if end <= 0:
            return
        yield token[:end]
        end -= len(token)


def _after(prefix: str, words: list[str]) -> list[str]:
    """The words after the start of the answer, wherever it was cut; if the start is of another answer, the words after
    as many words.
    """
    whole = "".join(words)
    if not prefix:
        return words
    if whole.startswith(prefix):
        return split(whole[len(prefix) :])
    first, *rest = words[count(prefix) :] or [""]
    return [first.lstrip() if prefix[-1].isspace() else first, *rest] if first else []


def count(text: str) -> int:
    """The number of words."""
    return len(text.split())


def _likelihood(token: str, request: InferenceRequest, seed: int) -> TokenLogprob:
    rng = _chance(seed, request.question, token)
    own = TopLogprob(token=token, logprob=-round(rng.random() * LEAST_LIKELY, 4), bytes=tuple(token.encode()))
    others = [word for word in rng.sample(WORDS, k=len(WORDS)) if word != token.strip()]
    top, below = [own], own.logprob
    for word in dict.fromkeys(others):
        below = round(below - 0.1 - rng.random(), 4)
        top.append(TopLogprob(token=f" {word}", logprob=below, bytes=tuple(f" {word}".encode())))
    wanted = tuple(top[: request.top_logprobs or 0])
    return TokenLogprob(token=token, logprob=own.logprob, bytes=own.bytes, top_logprobs=wanted)


# Calls of tools


def _tools_to_call(request: InferenceRequest) -> list[JsonObject]:
    """The functions that must be called or that the question names, else the first one; none after a tool's result."""
    functions = [tool["function"] for tool in request.tools or ()]
    choice = request.tool_choice or "auto"
    if not functions or choice == "none":
        return []
    if isinstance(choice, dict):
        return [function for function in functions if function["name"] == choice["function"]["name"]][:1]
    turns = request.conversation[: -2 if Interrupted.of(request) else None]
    if choice == "auto" and turns and turns[-1].role == "tool":
        return []
    named = [function for function in functions if _is_named(str(function["name"]), question_of(request))]
    return (named or functions[:1])[: None if request.parallel_tool_calls is not False else 1]


def _is_named(name: str, question: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", question) is not None


def _call(function: JsonObject, request: InferenceRequest, seed: int, number: int) -> JsonObject:
    name = str(function["name"])
    schema = function.get("parameters") or {"type": "object"}
    arguments = example(schema, _chance(seed, question_of(request), name))
    if not isinstance(arguments, dict):
        raise NoExample
    turns = len(request.conversation)
    digest = sha256(f"{seed}/{turns}/{request.question}/{number}/{name}".encode(errors="replace")).hexdigest()
    told = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{digest[:24]}", "type": "function", "function": told}


def _call_units(index: int, call: JsonObject) -> Iterator[Unit]:
    function = call["function"]
    begun = ToolCallDelta(index=index, id=call["id"], function=FunctionDelta(name=function["name"]))
    yield Unit("call", "", begun)
    for token in TOKEN.findall(function["arguments"]):
        yield Unit("call", "", ToolCallDelta(index=index, function=FunctionDelta(arguments=token)))


def _chance(*parts: object) -> random.Random:
    return random.Random("/".join(map(str, parts)))  # noqa: S311 — the same every time
