"""Checks of a request beyond the types of its fields: images, tools, the form of the answer.

A provider would refuse each of these mistakes, every provider in words of its own and without the field's name. Here
they cost no call and move no circuit breaker. No error shows a regular expression or the caller's words.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from contracts.base import JsonObject

_PARAMETER = r"""[^;,="\s]+\s*(?:=\s*(?:"[^"]*"|[^;,"]*))?"""
_HEAD = re.compile(rf"data:\s*(image/[a-z0-9.+-]+)\s*(?:;\s*{_PARAMETER})*?;\s*base64\s*,", re.IGNORECASE)
_ANY_HEAD = re.compile(rf"data:\s*([a-z0-9.+-]+/[a-z0-9.+-]+)\s*(?:;\s*{_PARAMETER})*?;\s*base64\s*,", re.IGNORECASE)
_OTHER_NAMES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
"""Media types that browsers and cameras write, and that providers refuse, with the right ones."""
LONGEST_HEAD = 1024
"""Characters of a data URL before its data, at most."""
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_WORDS = ("none", "auto", "required")
_FORMATS = ("text", "json_object", "json_schema")


class FieldError(ValueError):
    """A field of a request is wrong: `field` is its dotted path."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message


def image_data_url(url: str) -> str:
    """An image's data URL as `data:<type>;base64,<data>`, without parameters. Raises `PydanticCustomError`.

    The data is not decoded: only the characters are checked, which takes a third of the time.
    """
    head = _HEAD.match(url[:LONGEST_HEAD])
    if head is None:
        raise PydanticCustomError("image", "should be an image as a data URL: data:image/png;base64,…")
    data = url[head.end() :]
    if not data:
        raise PydanticCustomError("image", "has no image data")
    media_type = head[1].lower()
    return f"data:{_OTHER_NAMES.get(media_type, media_type)};base64,{base64_data(data)}"


def data_url(url: str) -> str:
    """A file's data URL as `data:<type>;base64,<data>`, without parameters. Raises `PydanticCustomError`."""
    head = _ANY_HEAD.match(url[:LONGEST_HEAD])
    if head is None:
        raise PydanticCustomError("file", "should be a file as a data URL: data:application/pdf;base64,…")
    return f"data:{head[1].lower()};base64,{base64_data(url[head.end() :])}"


def base64_data(data: str) -> str:
    """The data, if it is base64 and not empty. Raises `PydanticCustomError`."""
    padding = data.encode(errors="replace").translate(None, _BASE64)
    if not data or padding not in (b"", b"=", b"==") or not data.endswith(padding.decode()) or len(data) % 4:
        raise PydanticCustomError("base64", "is not valid base64")
    return data


def check_tools(tools: Sequence[JsonObject]) -> None:
    """Checks the tools' names and schemas. Raises `FieldError`."""
    names: set[str] = set()
    for number, tool in enumerate(tools):
        at = f"tools.{number}"
        _should(tool.get("type") == "function", f"{at}.type", 'should be "function"')
        function = tool.get("function")
        if not isinstance(function, dict):
            raise FieldError(f"{at}.function", "should be an object with a name")
        _check_function(function, f"{at}.function")
        _should(function["name"] not in names, f"{at}.function.name", "is the name of another tool as well")
        names.add(function["name"])


def check_tool_choice(choice: str | JsonObject | None, tools: Sequence[JsonObject]) -> None:
    """Checks that `tool_choice` names one of the tools. Raises `FieldError`."""
    if isinstance(choice, str):
        _should(choice in _WORDS, "tool_choice", f"should be one of {', '.join(_WORDS)}, or name a function")
        _should(choice != "required" or bool(tools), "tool_choice", "needs `tools`")
    elif choice is not None:
        _should(choice.get("type") == "function", "tool_choice.type", 'should be "function"')
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        known = [tool["function"]["name"] for tool in tools]
        _should(name in known, "tool_choice.function.name", "should be the name of one of the `tools`")


def check_response_format(wanted: JsonObject | None) -> None:
    """Checks `response_format` and its schema. Raises `FieldError`."""
    if wanted is None:
        return
    kind, at = wanted.get("type"), "response_format.json_schema"
    _should(kind in _FORMATS, "response_format.type", f"should be one of {', '.join(_FORMATS)}")
    if kind == "json_schema":
        described = wanted.get("json_schema")
        if not isinstance(described, dict):
            raise FieldError(at, "should be an object with a schema")
        _should(isinstance(described.get("schema"), dict), f"{at}.schema", "should be a JSON schema, an object")
        name = described.get("name")
        _should(name is None or _is_name(name), f"{at}.name", _NAME_RULE)


def check_logit_bias(bias: Mapping[str, float] | None) -> None:
    """Checks that the keys of `logit_bias` are token numbers. Raises `FieldError`."""
    for token in bias or ():
        _should(token.isdecimal(), f"logit_bias.{token[:32]}", "should be the number of a token")


def _check_function(function: JsonObject, at: str) -> None:
    _should(_is_name(function.get("name")), f"{at}.name", _NAME_RULE)
    description, schema = function.get("description"), function.get("parameters")
    _should(description is None or isinstance(description, str), f"{at}.description", "should be a string")
    if schema is None:
        return
    if not isinstance(schema, dict):
        raise FieldError(f"{at}.parameters", "should be a JSON schema, an object")
    _should(schema.get("type", "object") == "object", f"{at}.parameters.type", 'should be "object"')
    properties, required = schema.get("properties", {}), schema.get("required", [])
    _should(isinstance(properties, dict), f"{at}.parameters.properties", "should be an object")
    named = isinstance(required, list) and all(isinstance(name, str) for name in required)
    _should(named, f"{at}.parameters.required", "should be a list of names")


_NAME_RULE = "should be 1 to 64 characters of A-Z a-z 0-9 _ . -"


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _should(right: bool, field: str, message: str) -> None:
    if not right:
        raise FieldError(field, message)
