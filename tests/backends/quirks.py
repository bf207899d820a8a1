"""Liberties that real providers take, by name, so that a stand-in can play each of them: `provider.play(quirk)`.

Each dialect has a registry in a file of its own (`quirks_openai.py`); `test_quirks.py` knows them all, plays every
quirk to the backend of its dialect, and looks at what comes out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from contracts import ErrorCode

Json = dict[str, Any]
Refusal = tuple[int, object]
"""A status and a body."""


@dataclass(frozen=True)
class Quirk:
    """What is different from the documented protocol, and what is to come out all the same."""

    who: str
    """Who was seen to do so."""
    pieces: Callable[[list[str]], list[str]] | None = None
    """What becomes of the messages of an answer before they travel."""
    refuses: Callable[[Json], Refusal | None] | None = None
    """A question that is refused, and how."""
    lists: Refusal | None = None
    """What is answered when the models are asked for."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of answers and refusals."""
    content_type: str | None = None
    asked: Json = field(default_factory=dict)
    """What the request says besides its prompt."""

    text: str | None = None
    """The answer; None: the usual one."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names and arguments of the functions that are called."""
    finish: str | None = None
    unsupported: tuple[str, ...] = ()
    error: ErrorCode | None = None
    retry_after_ms: tuple[int, int] | None = None
    """From, to."""
    questions: int = 1
    """How often the provider is asked for this answer."""
