"""Whatever a client sends is read, or refused by name; and what is read is a request, or one refused by its field."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, parse_request
from gateway.dialects import Asked, Dialect, Refused
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.events import dumped
from gateway.dialects.fields import MOST_IGNORED
from gateway.dialects.ollama import Ollama
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.dialects.sealed import sealed, unsealed
from tests.answers import CREATED, REQUEST_ID, final
from tests.unit.test_dialect_anthropic import CLAUDE_CODE
from tests.unit.test_dialect_responses import CODEX, CONVERSATION
from tests.unit.test_fuzz import anything, texts

DIALECTS: tuple[Dialect, ...] = (AnthropicMessages(), OpenAIResponses(), Ollama("chat"), Ollama("generate"))
GOOD: tuple[dict[str, Any], ...] = (
    dict(CLAUDE_CODE),
    {**CODEX, "input": CONVERSATION},
    {"model": "m", "prompt": "Hi", "system": "s", "think": True, "format": {"type": "object"}, "options": {"stop": []}},
    {"model": "m", "tools": [{"type": "function", "function": {"name": "f"}}], "messages": [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "x", "tool_name": "f"},
    ]},
)  # fmt: skip


def places(told: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that is in it."""
    inner = told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ()
    return [path, *(place for name, value in inner for place in places(value, (*path, name)))]


def changed(told: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    inner = changed(told[path[0]], path[1:], value)
    if isinstance(told, list):
        return [*told[: path[0]], inner, *told[path[0] + 1 :]]
    return {**told, path[0]: inner}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A good request in which something, somewhere, is something else."""
    body = draw(st.sampled_from(GOOD))
    body = changed(body, draw(st.sampled_from(places(body)[1:])), draw(anything))
    return {**body, **draw(st.dictionaries(texts, anything, max_size=2))}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@settings(max_examples=max(300, settings().max_examples))
@given(body=bodies())
def test_any_body_is_read_or_refused(dialect: Dialect, body: dict[str, Any]) -> None:
    try:
        asked: Asked = dialect.read(body, {})
    except Refused as refused:
        assert refused.message and refused.status == 400
        assert dialect.error(400, "invalid_request", refused.message, refused.param, REQUEST_ID)
        return
    assert len(asked.ignored) <= MOST_IGNORED and all(name.isascii() and name.isprintable() for name in asked.ignored)
    writer = dialect.writer(asked, REQUEST_ID, CREATED)
    assert writer.whole([final("Hi")])
    assert isinstance(writer.start() + writer.end(final("Hi")), bytes)
    try:
        parse_request(dumped(asked.request))
    except BullpenError as error:
        assert error.code is ErrorCode.INVALID_REQUEST and error.field


@given(st.dictionaries(st.sampled_from(["anthropic", "gemini"]), anything, min_size=1), st.text())
def test_what_was_sealed_is_found_again_and_nothing_else(extra: dict[str, Any], other: str) -> None:
    found = unsealed(sealed(extra))
    assert found is None or found.keys() == extra.keys()
    assert unsealed(other) is None and unsealed("bullpen1." + other) in (None, {})
