"""Reads a client's JSON object field by field: a wrong type is refused by the field's name, `null` counts as
missing.
"""

import re
from math import isfinite
from typing import Any, TypeVar

from contracts import JsonObject
from gateway.dialects import Refused

T = TypeVar("T")
MOST_WHOLE = 2**63 - 1
MOST_IGNORED = 32
"""The most names of ignored fields that are reported."""
SMALLEST_SHARE = 0.0001
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,80}")


class Fields:
    """The fields of one object; `at` is the object's place in the body, as a dotted path."""

    def __init__(self, told: JsonObject, at: str = "") -> None:
        self._told = told
        self._at = at
        self._unread = {name: None for name, value in told.items() if value is not None}

    def path(self, name: str) -> str:
        return f"{self._at}.{name}" if self._at else name

    def refused(self, name: str, message: str) -> Refused:
        return Refused(f"{self.path(name)}: {message}", self.path(name))

    def take(self, name: str) -> Any:
        """The field's value of any type; None: it is missing."""
        self._unread.pop(name, None)
        return self._told.get(name)

    def peek(self, name: str) -> Any:
        """The field's value; the field still counts as unread."""
        return self._told.get(name)

    def text(self, name: str) -> str | None:
        return self._typed(name, str, "a string")

    def needed_text(self, name: str) -> str:
        if (text := self.text(name)) is None:
            raise self.refused(name, "is missing")
        return text

    def flag(self, name: str) -> bool | None:
        return self._typed(name, bool, "true or false")

    def number(self, name: str) -> float | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refused(name, "should be a number")
        if abs(value) > MOST_WHOLE or not isfinite(value):
            raise self.refused(name, "should be a finite number of a sensible size")
        return value

    def integer(self, name: str) -> int | None:
        value = self.number(name)
        if value is not None and value != int(value):
            raise self.refused(name, "should be a whole number")
        return None if value is None else int(value)

    def object(self, name: str) -> "Fields | None":
        value = self.json_object(name)
        return None if value is None else Fields(value, self.path(name))

    def json_object(self, name: str) -> JsonObject | None:
        """The object, as it is; None: it is missing."""
        return self._typed(name, dict, "an object")

    def objects(self, name: str) -> "list[Fields]":
        """The objects of a list; empty: it is missing."""
        found = self._list(name)
        for number, value in enumerate(found):
            if not isinstance(value, dict):
                raise self.refused(f"{name}.{number}", "should be an object")
        return [Fields(value, self.path(f"{name}.{number}")) for number, value in enumerate(found)]

    def texts(self, name: str) -> list[str]:
        found = self._list(name)
        for number, value in enumerate(found):
            if not isinstance(value, str):
                raise self.refused(f"{name}.{number}", "should be a string")
        return found

    @property
    def unread(self) -> list[str]:
        """The paths of the fields that are set, and that no code has read."""
        return [self.path(name) for name in self._unread]

    def _list(self, name: str) -> list[Any]:
        return self._typed(name, list, "a list") or []

    def _typed(self, name: str, kind: type[T], named: str) -> T | None:
        value = self.take(name)
        if value is not None and not isinstance(value, kind):
            raise self.refused(name, f"should be {named}")
        return value


def ignored(*names: str) -> tuple[str, ...]:
    """The names that fit into a header, each once."""
    fit = dict.fromkeys(name for name in names if _PLAIN_NAME.fullmatch(name))
    return tuple(fit)[:MOST_IGNORED]


def share(top_p: float | None) -> float | None:
    """`top_p` for the mesh. Other APIs allow 0, which means the likeliest token only."""
    return SMALLEST_SHARE if top_p == 0 else top_p
