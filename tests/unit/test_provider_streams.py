"""Whatever a provider's stream says, an answer is sound or fails in a way that has a name. Nothing is asked, only read.

Some hundred cases a run. A hundred thousand: `pytest tests/unit/test_provider_streams.py --hypothesis-profile deep`.
"""

import copy
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ollama
import pytest
from anthropic._models import construct_type
from anthropic.types import RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, InferenceRequest, ModelCard
from tests.backends.providers import AnthropicProvider, GeminiProvider, Json, OllamaProvider, Provider
from workers.anthropic import reading as anthropic
from workers.anthropic.answer import Answer as AnthropicAnswer
from workers.base import Delta, Done, Job
from workers.base.provider.call_forms import CallRule, translated
from workers.base.provider.connection import UNUSABLE
from workers.base.provider.tool_calls import checked
from workers.gemini import reading as gemini
from workers.gemini.answer import Answer as GeminiAnswer
from workers.ollama.answer import Answer as OllamaAnswer
from workers.ollama.reading import mended

CASES = 50 if settings().max_examples < 100 else 17_000
"""Of each provider, with and without tools."""
FAILURES = (ErrorCode.UPSTREAM_ERROR, ErrorCode.EMPTY_ANSWER, ErrorCode.MALFORMED_TOOL_CALL)
JOB = Job(
    InferenceRequest(prompt="Who?", tools=({"type": "function", "function": {"name": "add"}},)),
    ModelCard(model_id="m", context_window=8192, local=True),
    50,
    "The capital of France is, as",
)


@dataclasses.dataclass
class Reader:
    provider: type[Provider]
    answer: Callable[[Job], Any]
    read: Callable[[Json], list[Any]]
    """As the SDK reads a message, once it is mended."""


READERS = {
    "anthropic": Reader(
        AnthropicProvider,
        AnthropicAnswer,
        lambda told: [construct_type(type_=RawMessageStreamEvent, value=one) for one in anthropic.mended(told)],
    ),
    "gemini": Reader(
        GeminiProvider,
        GeminiAnswer,
        lambda told: [GenerateContentResponse._from_response(response=gemini.mended(told), kwargs={})],
    ),
    "ollama": Reader(OllamaProvider, OllamaAnswer, lambda told: [ollama.ChatResponse(**one) for one in mended(told)]),
}

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1 << 31, 1 << 70, 1e400, float("nan"), -0.5),
    *("", " ", "\0", "\ud800", "STOP", "{", '{"a": 1}', "x" * 9000),
    *([], [None], [[]], {}, {"a": [1]}, [{"text": 7}], {"name": None}),
)
values = st.sampled_from(ODD) | st.integers() | st.text(max_size=8)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything inside a message."""
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from paths(child, (*path, key))


def put(message: Json, path: tuple[Any, ...], value: Any) -> None:
    inner: Any = message
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(value)


def usual_stream(kind: type[Provider], *, tools: bool) -> list[Json]:
    """The messages of an answer as it should be."""
    provider = kind()
    provider.thoughts = 0 if tools else 1
    pieces = provider.pieces({"tools": tools})
    return [json.loads(piece[piece.find("{") : piece.rfind("}") + 1]) for piece in pieces if "{" in piece]


@st.composite
def streams(draw: st.DrawFn, told: list[Json]) -> list[Json]:
    """An answer's messages, some of them broken, lost, sent twice or out of order."""
    stream = [
        copy.deepcopy(message) for message in draw(st.permutations(told) if draw(st.booleans()) else st.just(told))
    ]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(stream) - 1)) if stream else 0
        match draw(st.sampled_from(("put", "put", "put", "drop", "twice", "whole"))):
            case "put" if stream and (ways := list(paths(stream[at]))):
                put(stream[at], draw(st.sampled_from(ways)), draw(values))
            case "drop" if stream:
                del stream[at]
            case "twice" if stream:
                stream.insert(at, copy.deepcopy(stream[at]))
            case "whole" if stream:
                stream[at] = copy.deepcopy(
                    draw(st.dictionaries(st.sampled_from([*stream[at], "x"]), values, max_size=3))
                )
    return stream


def answered(reader: Reader, stream: list[Json]) -> tuple[list[Delta], Done | None]:
    """What becomes of a stream. Raises what a backend turns into an error of the provider."""
    answer = reader.answer(JOB)
    deltas = [answer.take(piece) for message in stream for piece in reader.read(copy.deepcopy(message))]
    deltas.append(answer.rest())
    done = answer.done()
    calls = translated(JOB, CallRule())
    return [delta for delta in deltas if delta is not None], calls.restored(done) if done else None


@pytest.mark.parametrize("tools", [False, True], ids=["words", "calls"])
@pytest.mark.parametrize("name", READERS)
@pytest.mark.timeout(3600 if CASES > 50 else 120)
@settings(max_examples=CASES)
@given(data=st.data())
def test_whatever_a_stream_says_its_answer_is_sound_or_an_error(name: str, tools: bool, data: st.DataObject) -> None:
    reader = READERS[name]
    stream = data.draw(streams(usual_stream(reader.provider, tools=tools)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDKs warn about what they do not know
        try:
            deltas, done = answered(reader, stream)
            if done is not None:
                JOB.check("".join(delta.text for delta in deltas), done)
                checked(done.tool_calls)
        except BullpenError as error:
            assert error.code in FAILURES
            return
        except UNUSABLE:
            return
    assert all(sound(delta) for delta in deltas)
    assert done is None or sound_end(done)


def sound(delta: Delta) -> bool:
    sendable = delta.text.encode().decode() == delta.text
    return sendable and 0 <= delta.tokens < 1 << 20 and all(-1e6 <= one <= 0 for one in delta.logprobs)


def sound_end(done: Done) -> bool:
    counts = dataclasses.astuple(done.usage)
    ids = [call["id"] for call in done.tool_calls]
    arguments = [json.loads(call["function"]["arguments"]) for call in done.tool_calls]
    assert json.dumps(done.tool_calls, ensure_ascii=False).encode() and len(arguments) == len(ids)
    assert all(isinstance(one, dict) for one in arguments)
    return len(set(ids)) == len(ids) and all(
        count is None or (type(count) is int and 0 <= count < 1 << 32) for count in counts
    )
