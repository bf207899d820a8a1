"""Reads a provider's error of any form: JSON of any shape, or plain text. Pure.

Providers put the same things in different places: `{"error": {"message", "code", "type", "param"}}`, `{"detail":
[{"loc", "msg"}]}`, `{"message": …}`, `{"error": "…"}`, a list of errors, an error inside the text of another one. So
the whole body is searched, within limits, and each value is classified by its name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.base.provider.retry_after import in_words_ms, told_retry_after_ms

DEEPEST, MOST, LONGEST = 8, 200, 4000
"""The most levels, values and characters of an error that are read."""
TEXTS = ("message", "msg", "detail", "error", "error_description", "error_message", "title", "raw", "description")
CODES = ("code", "type", "status", "error_type", "error_code", "reason", "kind")
STATUSES = (*CODES, "status_code", "statusCode", "http_status", "httpStatus")
PARAMETERS = ("param", "parameter", "field", "loc", "path", "property", "params")
SECONDS = ("retry_after", "retry_after_seconds", "retryAfter", "retryAfterSeconds", "retryDelay")
MILLISECONDS = ("retry_after_ms", "retryAfterMs")
ERROR_ONLY = ("error", "errors", "detail", "message")
"""Fields of which an error has at least one, and a piece of an answer none."""

_STEP = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    message: str = ""
    """The provider's main sentence."""
    words: str = ""
    """All sentences of the error, to search for a meaning."""
    codes: frozenset[str] = frozenset()
    """Codes, types and the like, in lower case."""
    status: int | None = None
    """The HTTP status inside the error."""
    parameters: frozenset[str] = frozenset()
    """Names of the fields that the error complains about."""
    retry_after_ms: float | None = None
    prompt_tokens: int | None = None


@dataclass(slots=True)
class _Found:
    texts: list[str] = field(default_factory=list)
    codes: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)
    parameters: set[str] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None


def read_error(body: object) -> ErrorBody:
    """Reads an error: decoded JSON, text that may be JSON, or anything else."""
    found = _Found()
    told = _decoded(body) if isinstance(body, str) else body
    if isinstance(told, str):
        found.texts.append(told[:LONGEST])
    else:
        for name, value in _walk(told, MOST):
            _take(found, name, value)
    words = "\n".join(dict.fromkeys(found.texts))
    wait = found.waits[0] if found.waits else in_words_ms(words)
    return ErrorBody(
        message=found.texts[0] if found.texts else _plain(body),
        words=words or _plain(body),
        codes=frozenset(found.codes),
        status=found.statuses[0] if found.statuses else None,
        parameters=frozenset(found.parameters),
        retry_after_ms=wait,
        prompt_tokens=found.prompt_tokens,
    )


def is_error(told: Mapping[str, Any]) -> bool:
    """Whether a message that should be a piece of an answer is an error instead."""
    if told.get("error"):
        return True
    if told.get("choices") is not None:
        return False
    return told.get("object") == "error" or told.get("type") == "error" or any(told.get(name) for name in ERROR_ONLY)


def _walk(value: object, left: int) -> Iterator[tuple[str, object]]:
    """The values with their names, outer ones first; an item of a list has the list's name."""
    level: list[tuple[str, object]] = [("", value)]
    for _ in range(DEEPEST):
        below: list[tuple[str, object]] = []
        for name, here in level:
            if left <= 0:
                return
            left -= 1
            yield name, here
            below += _inside(name, here)
        level = below


def _inside(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, str) and name in TEXTS:
        value = _decoded(value)
    if isinstance(value, dict):
        return [(str(key), child) for key, child in list(value.items())[:MOST]]
    if isinstance(value, list | tuple):
        return [(name, child) for child in value[:MOST]]
    return []


def _take(found: _Found, name: str, value: object) -> None:
    if name in TEXTS and isinstance(value, str) and isinstance(_decoded(value), str) and value.strip():
        found.texts.append(value[:LONGEST])
    if name in CODES and isinstance(value, str) and len(value) <= 100:
        found.codes.add(value.lower())
    if name in STATUSES and (status := _status(value)) is not None:
        found.statuses.append(status)
    if name in PARAMETERS and isinstance(value, str):
        found.parameters.update(step for step in _STEP.split(value[:200]) if step)
    if name in SECONDS and (wait := told_retry_after_ms({"retry-after": str(value)})) is not None:
        found.waits.append(wait)
    if name in MILLISECONDS and (wait := told_retry_after_ms({"retry-after-ms": str(value)})) is not None:
        found.waits.append(wait)
    if name == "headers" and isinstance(value, dict):
        headers = {str(key): str(told) for key, told in value.items()}
        if (wait := told_retry_after_ms(headers)) is not None:
            found.waits.append(wait)
    if name == "n_prompt_tokens" and isinstance(value, int) and 0 < value < 1 << 31:
        found.prompt_tokens = value


def _status(value: object) -> int | None:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3 else value
    return number if isinstance(number, int) and 400 <= number < 600 else None


def _decoded(text: str) -> object:
    """The decoded object or list, if the text is JSON of one; else the text."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(body: object) -> str:
    """The text for an error without a sentence: the body as it is."""
    if isinstance(body, str):
        return body[:LONGEST]
    try:
        return json.dumps(body)[:LONGEST]
    except (ValueError, TypeError, RecursionError):
        return type(body).__name__
