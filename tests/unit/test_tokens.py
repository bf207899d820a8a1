"""The one estimate of a prompt's tokens: everything that a model reads counts, and nothing else."""

import json
from typing import Any

import pytest

from contracts import InferenceRequest, ModelCard
from contracts.tokens import IMAGE_TOKENS, SMALL_IMAGE_TOKENS, prompt_tokens
from manager.routing.prefix_cache import PrefixCache, openings
from manager.routing.query import RoutingQuery
from workers.base import BackendConfig, Job
from workers.base.rate_limits.limits import Limits

CARD = ModelCard(model_id="m", context_window=8192, local=True)
TOOL = {"type": "function", "function": {"name": "weather", "description": "How warm it is. " * 100}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"description": "A city. " * 100}}}


def image(data: str = "iVBORw0KGgo=", **more: Any) -> Any:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", **more}}


def file(kind: str, data: str) -> Any:
    return {"type": "file", "file": {"file_data": f"data:{kind};base64,{data}"}}


def sound(data: str) -> Any:
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def asked(*messages: Any, **more: Any) -> InferenceRequest:
    return InferenceRequest.model_validate_json(json.dumps({"messages": messages, **more}))


def user(*parts: Any) -> Any:
    return {"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}


def call(arguments: str) -> Any:
    made = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


PLAIN = asked(user())


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (asked(user(image())), IMAGE_TOKENS),
        (asked(user(image(), image("abcd"))), 2 * IMAGE_TOKENS),
        (asked(user(image(detail="low"))), SMALL_IMAGE_TOKENS),
        (asked(user(image("A" * 4_000_000))), IMAGE_TOKENS),
        (asked(user(), tools=[TOOL]), 400),
        (asked(user(), response_format=SCHEMA), 200),
        (asked(user(), call('{"in": "Rome"}' * 400)), 1400),
        (asked(user(), call('{"in": "Rome"}'), {"role": "tool", "tool_call_id": "a", "content": "20 " * 1000}), 750),
        (asked(user(), context={"messages": [user(image())]}), IMAGE_TOKENS),
        (asked(user(file("application/pdf", "A" * 500_000))), 1000),
        (asked(user(file("text/plain", "A" * 4000))), 750),
        (asked(user(sound("A" * 50_000))), 100),
        (asked(user(), {**call("{}"), "reasoning_content": "Let me see. " * 100}), 300),
    ],
    ids=[
        *("image", "two", "small", "large file", "tools", "schema", "call", "result", "earlier turn"),
        *("file", "text in a file", "sound", "thoughts before a call"),
    ],
)
def test_what_a_model_reads_counts_everywhere(request_: InferenceRequest, more: int) -> None:
    tokens = prompt_tokens(request_)
    assert prompt_tokens(PLAIN) + more <= tokens <= prompt_tokens(PLAIN) + 1.3 * more + 10
    assert RoutingQuery.of(request_).tokens_in == openings(request_)[-1].tokens == tokens
    assert Limits(BackendConfig()).need(Job(request_, CARD, 10)).estimate == tokens


LONG = {"role": "system", "content": "Be brief. " * 100}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (asked(LONG, user(image())), asked(LONG, user(image("abcd")))),
        (asked(LONG, user(file("a/b", "iVBORw=="))), asked(LONG, user(file("a/b", "abcd")))),
        (asked(LONG, user(), call("{}")), asked(LONG, user(), call('{"in": "Rome"}'))),
    ],
    ids=["images", "files", "calls"],
)
def test_what_differs_is_not_in_the_cache(one: InferenceRequest, other: InferenceRequest) -> None:
    cache = PrefixCache()
    cache.answered("w", openings(one), "", 0.0)
    assert cache.cached(openings(one), 0.0) == {"w": openings(one)[-1].tokens}
    common = [opening for opening in openings(other) if opening in openings(one)]
    assert cache.cached(openings(other), 0.0) == {"w": common[-1].tokens}


def test_other_tools_are_another_conversation() -> None:
    cache = PrefixCache()
    cache.answered("w", openings(asked(LONG, user(), tools=[TOOL])), "", 0.0)
    assert cache.cached(openings(asked(LONG, user())), 0.0) == {}
    assert cache.cached(openings(asked(LONG, user(), user(), tools=[TOOL])), 0.0)


def test_half_a_character_has_a_size() -> None:
    assert prompt_tokens(InferenceRequest(prompt="\ud83d" * 8)) == 3
