"""How the bytes of a message become a request of one kind, the same for all kinds.

A body that begins like a JSON object is one; any other is a bare text. JSON is read strictly: no coercion, no unknown
fields, no NaN, nothing nested deeper than 32.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from math import isfinite
from typing import Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from contracts.base import JsonObject, new_id
from contracts.envelope import Envelope
from contracts.errors import BullpenError, ErrorCode
from contracts.request_checks import FieldError

MAX_NESTING = 32
LONGEST_TYPO = 40
"""Characters of an unknown field's name that are compared with known names."""
_PART_TYPES = ("text", "image_url", "input_audio", "file")
R = TypeVar("R", bound=Envelope)


class Form(Generic[R]):
    """How requests of one kind are read."""

    def __init__(self, model: type[R], field: str, plain: Callable[[JsonObject], JsonObject]) -> None:
        """`field`: the field for a bare text. `plain`: brings what libraries write to the form of `model`."""
        self._model = model
        self._field = field
        self._plain = plain
        names = "|".join(model.model_fields).encode()
        self._object = re.compile(rb"\{\s*(?:$|[}\"']|(?:" + names + rb")\s*:)")
        """How a JSON object begins, also a broken one: empty, with a quote, or with a bare field's name."""

    def read(self, data: bytes, task_id: str | None) -> tuple[R, bytes]:
        """The request, whose `task_id` is always set, and the same in plain words.

        Raises `BullpenError(invalid_request)` with the field that is wrong.
        """
        body = data.lstrip(b" \t\r\n")
        if not body:
            raise self._empty()
        request, written = self._from_object(body) if self._object.match(body) else self._from_text(body)
        return (request if request.task_id is not None else _named(request, task_id or new_id())), written

    def _from_object(self, body: bytes) -> tuple[R, bytes]:
        try:
            told = from_json(body, allow_inf_nan=True)
            _check_tree(told)
            found = self._plain(told)
            written = body if found == told else to_json(found)
            return self._model.model_validate_json(written), written
        except FieldError as error:
            raise _invalid(f"{error.field}: {error.message}", error.field) from None
        except ValidationError as error:
            path, message = first_error(error.errors(include_url=False), tuple(self._model.model_fields))
            raise _invalid(f"{path or 'the request'}: {message}", path or None) from None
        except ValueError as error:
            raise _invalid(f"the body begins like a JSON object, and is not valid JSON: {error}", None) from None

    def _from_text(self, body: bytes) -> tuple[R, bytes]:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _invalid(f"the body is neither JSON nor UTF-8 text (byte {error.start})", None) from None
        if not text.strip():  # there are more kinds of space in Unicode than in JSON
            raise self._empty()
        if _is_other_json(body):
            raise _invalid("the body should be a JSON object or plain text, not another kind of JSON", None)
        if "\0" in text or text.startswith("\ufeff"):
            why = "the body is not plain UTF-8 text: it has a byte-order mark or NUL characters"
            raise _invalid(why, self._field)
        request, whole = self._from_object(to_json({self._field: text}))
        return request, whole if body.startswith(b"{") else body

    def _empty(self) -> BullpenError:
        return _invalid(f"the message is empty: send a text, or a JSON object with `{self._field}`", self._field)


def _named(request: R, task_id: str) -> R:
    """The same, made just now, with a task's name: `model_copy` takes longer than all the rest of the reading."""
    fields = request.__dict__
    fields["task_id"] = task_id
    request.__pydantic_fields_set__.add("task_id")
    return request


def _is_other_json(body: bytes) -> bool:
    """Whether a body can only be a mistake: null, true, false, an empty list, a list of objects."""
    try:
        told = from_json(body)
    except ValueError:
        return False
    if isinstance(told, list):
        return not told or any(isinstance(item, dict) for item in told)
    return told is None or isinstance(told, bool)


def _check_tree(value: object, path: str = "", room: int = MAX_NESTING) -> None:
    """Refuses what JSON cannot say (NaN, Infinity), and very deep nesting."""
    if isinstance(value, float):
        if not isfinite(value):
            raise FieldError(path, "should be a finite number")
    elif isinstance(value, dict | list):
        if room == 0:
            raise FieldError(path.split(".", 1)[0], f"is nested deeper than {MAX_NESTING}")
        children = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in children:
            _check_tree(child, f"{path}.{key}" if path else str(key), room - 1)


def first_error(errors: Sequence[ErrorDetails], known: Sequence[str] = ()) -> tuple[str, str]:
    """The most telling error as (dotted path, message): of a union's branches, the one that got furthest.

    `known`: the existing fields, of which one may have been meant.
    """
    error = max(errors, key=lambda error: len(error["loc"])) if len(errors) > 1 else errors[0]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        return cause.field, cause.message
    message = _unknown(error["loc"], known) if error["type"] == "extra_forbidden" else error["msg"]
    return _dotted(error["loc"]), message[0].lower() + message[1:]


def _unknown(loc: tuple[int | str, ...], known: Sequence[str]) -> str:
    near = get_close_matches(str(loc[-1])[:LONGEST_TYPO], known, n=1, cutoff=0.7) if len(loc) == 1 else []
    return f"unknown field; did you mean {near[0]}?" if near else "unknown field"


def _dotted(loc: tuple[int | str, ...]) -> str:
    """Pydantic's path without the steps that name a branch of a union instead of a field."""
    names: list[str] = []
    before: int | str = ""
    for step in loc:
        branch = isinstance(step, str) and (
            step == "str" or "[" in step or (isinstance(before, int) and step in _PART_TYPES)
        )
        if not branch:
            names.append(str(step))
        before = step
    return ".".join(names)


def _invalid(message: str, field: str | None) -> BullpenError:
    return BullpenError(ErrorCode.INVALID_REQUEST, message, field=field)
