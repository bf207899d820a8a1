"""Makes a value that is valid for a JSON schema, always the same for the same random numbers. Pure.

It knows what schemas of tools and JSON modes use: types, `enum`, `const`, `$ref`, `anyOf`, `oneOf`, `allOf`, bounds,
formats, patterns. It is no solver: keywords that only exclude (`not`, `if`) are ignored.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from math import ceil, floor
from typing import Any

from contracts import JsonObject

WORDS = ("one", "careful", "worker", "answers", "each", "question", "that", "the", "mesh", "was", "asked")
DEEP, DEEPEST = 4, 24
"""Levels of a schema: from the first on only required parts are made; below the second the schema counts as endless."""
UNIQUE_TRIES = 100
STEPS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Extra repetitions in a pattern, tried in this order until the text is long enough."""
FORMATS: dict[str, tuple[str, ...]] = {
    "date-time": ("2026-01-31T12:34:56Z", "2025-07-01T08:00:00Z"),
    "date": ("2026-01-31", "2025-07-01"),
    "time": ("12:34:56Z", "08:00:00Z"),
    "duration": ("PT15M", "P1D"),
    "email": ("ada@example.com", "grace@example.com"),
    "idn-email": ("ada@example.com",),
    "hostname": ("www.example.com", "example.org"),
    "idn-hostname": ("example.com",),
    "ipv4": ("192.0.2.1", "198.51.100.7"),
    "ipv6": ("2001:db8::1", "2001:db8::2"),
    "uri": ("https://example.com/one", "https://example.org/two"),
    "uri-reference": ("/one/two",),
    "iri": ("https://example.com/one",),
    "iri-reference": ("/one/two",),
    "uuid": ("0190b2c4-7d3e-7a11-8f00-000000000001", "0190b2c4-7d3e-7a11-8f00-000000000002"),
    "uri-template": ("/one/{two}",),
    "json-pointer": ("/one/two",),
    "relative-json-pointer": ("1/two",),
    "regex": ("^[a-z]+$",),
    "byte": ("b25l",),
    "binary": ("one",),
}
OBJECT = ("properties", "required", "additionalProperties", "minProperties", "patternProperties")
ARRAY = ("items", "prefixItems", "minItems", "contains")
NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


class NoExample(Exception):
    """The schema has no valid value, or none that this module finds."""


def example(schema: Any, rng: random.Random) -> Any:
    """A value that is valid for the schema. Raises `NoExample`."""
    return _Maker(schema, rng).make(schema, 0)


class _Maker:
    def __init__(self, root: Any, rng: random.Random) -> None:
        self._root = root
        self._rng = rng

    def make(self, schema: Any, depth: int) -> Any:
        if schema is True or schema == {}:
            return self._rng.choice(WORDS)
        if not isinstance(schema, dict) or depth > DEEPEST:
            raise NoExample
        schema = self._flat(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(values := schema.get("enum"), list) and values:
            return self._first(values, schema)
        for name in ("anyOf", "oneOf"):
            if isinstance(schema.get(name), list) and schema[name]:
                return self._branch(schema, name, depth)
        return self._typed(_type_of(schema, depth), schema, depth)

    def _first(self, values: list[Any], schema: JsonObject) -> Any:
        """A value of the enumeration, of the type in the schema if any value has it."""
        kinds = schema.get("type")
        fitting = [value for value in values if kinds is None or _has_type(value, kinds)]
        return self._rng.choice(fitting or values)

    def _branch(self, schema: JsonObject, name: str, depth: int) -> Any:
        """A value for the first alternative that can be made; in deep levels, alternatives without parts come first."""
        rest = {key: value for key, value in schema.items() if key != name}
        branches = schema[name]
        if depth >= DEEP:
            branches = sorted(branches, key=_has_parts)
        for branch in branches:
            with suppress(NoExample):
                return self.make(_merged(rest, branch), depth + 1)
        raise NoExample

    def _flat(self, schema: JsonObject) -> JsonObject:
        """The schema without references and `allOf`."""
        for _ in range(DEEPEST):
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(self._at(schema["$ref"]), rest)
            elif isinstance(schema.get("allOf"), list):
                rest = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    flat = self._flat(part) if isinstance(part, dict) else part
                    rest = _merged(rest, flat)
                schema = rest
            else:
                return schema
        raise NoExample

    def _at(self, reference: object) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise NoExample
        found = self._root
        for step in filter(None, reference[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name)] if isinstance(found, list) else found[name]
            except (LookupError, TypeError, ValueError):
                raise NoExample from None
        return found

    def _typed(self, kind: str, schema: JsonObject, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                return self._string(schema)
            case "integer" | "number":
                return self._number(schema, whole=kind == "integer")
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
        raise NoExample

    def _object(self, schema: JsonObject, depth: int) -> JsonObject:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        required = [name for name in schema.get("required") or () if isinstance(name, str)]
        others = schema.get("additionalProperties", True)
        made: JsonObject = {}
        for name, described in properties.items():
            if name in required:
                made[name] = self.make(described, depth + 1)
            elif depth < DEEP:
                with suppress(NoExample):
                    made[name] = self.make(described, depth + 1)
        for name in required:
            if name not in made:
                made[name] = self.make(others, depth + 1)
        number = 0
        while len(made) < schema.get("minProperties", 0):
            number += 1
            made.setdefault(f"{self._rng.choice(WORDS)}_{number}", self.make(others, depth + 1))
        return made

    def _array(self, schema: JsonObject, depth: int) -> list[Any]:
        first = schema.get("prefixItems") or (schema["items"] if isinstance(schema.get("items"), list) else [])
        rest = True if isinstance(schema.get("items"), list) else schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems", DEEPEST * 100)
        wanted = min(most, max(least, len(first), 1 if depth < DEEP else 0))
        made: list[Any] = []
        for number in range(wanted):
            described = first[number] if number < len(first) else rest
            try:
                made.append(self._another(described, made, depth, unique=bool(schema.get("uniqueItems"))))
            except NoExample:
                if number < least:
                    raise
                break
        if "contains" in schema and len(made) < most:
            made.append(self.make(schema["contains"], depth + 1))
        return made

    def _another(self, schema: Any, made: list[Any], depth: int, *, unique: bool) -> Any:
        for number in range(UNIQUE_TRIES):
            value = self.make(schema, depth + 1)
            if not unique or value not in made:
                return value
            if isinstance(value, str) and _is_free(schema):
                return f"{value} {number + len(made)}"
        raise NoExample

    def _string(self, schema: JsonObject) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if isinstance(pattern := schema.get("pattern"), str):
            return _matching(pattern, least, most)
        if known := FORMATS.get(schema.get("format", "")):
            return self._rng.choice(known)
        words = self._rng.sample(WORDS, k=2)
        while len(" ".join(words)) < least:
            words.append(self._rng.choice(WORDS))
        text = " ".join(words)[:most]
        return text if text == text.strip() or len(text.strip()) < least else text.strip()

    def _number(self, schema: JsonObject, *, whole: bool) -> int | float:
        low, high = _bounds(schema)
        step = schema.get("multipleOf") or (1 if whole else None)
        if step is not None:
            return self._stepped(low, high, step, whole=whole)
        if low is None or high is None:
            start = low if low is not None else high - 10 if high is not None else 0
            return float(round(start + self._rng.random() * 10, 2)) if _is_wide(start) else float(start)
        value = low + (high - low) * (0.25 + self._rng.random() / 2)
        short = round(value, 2)
        return short if low < short < high else value

    def _stepped(self, low: float | None, high: float | None, step: float, *, whole: bool) -> int | float:
        """A multiple of `step` within the bounds."""
        step = step if not whole or float(step).is_integer() else 1
        first = ceil(low / step) if low is not None else None
        last = floor(high / step) if high is not None else None
        if first is None:
            first = min(0, last) if last is not None else 0
        last = first + 9 if last is None else min(last, first + 9)
        choices = [
            value
            for value in (number * step for number in range(first, last + 1))
            if (low is None or value >= low) and (high is None or value <= high)
        ]
        if not choices:
            raise NoExample
        value = self._rng.choice(choices)
        return int(value) if whole else value


def _is_wide(value: float) -> bool:
    return abs(value) < 1e9


def _bounds(schema: JsonObject) -> tuple[float | None, float | None]:
    """The least and the largest value; exclusive bounds are moved by a little."""
    low, high = schema.get("minimum"), schema.get("maximum")
    under, above = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    whole = schema.get("type") == "integer"
    if under is True and low is not None:
        under = low
    if above is True and high is not None:
        above = high
    if isinstance(under, int | float) and not isinstance(under, bool):
        more = floor(under) + 1 if whole else under + _little(under)
        low = more if low is None else max(low, more)
    if isinstance(above, int | float) and not isinstance(above, bool):
        less = ceil(above) - 1 if whole else above - _little(above)
        high = less if high is None else min(high, less)
    return low, high


def _little(value: float) -> float:
    return max(1e-6, abs(value) * 1e-9)


def _type_of(schema: JsonObject, depth: int) -> str:
    told = schema.get("type")
    if isinstance(told, list) and told:
        kinds = [kind for kind in told if kind != "null"] or told
        return "null" if depth >= DEEP and "null" in told else str(kinds[0])
    if isinstance(told, str):
        return told
    for kind, names in (("object", OBJECT), ("array", ARRAY), ("number", NUMBER)):
        if any(name in schema for name in names):
            return kind
    return "string"


def _has_type(value: Any, kinds: Any) -> bool:
    checks: dict[str, Callable[[Any], bool]] = {
        "string": lambda v: isinstance(v, str),
        "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
        "boolean": lambda v: isinstance(v, bool),
        "null": lambda v: v is None,
        "object": lambda v: isinstance(v, dict),
        "array": lambda v: isinstance(v, list),
    }
    names = kinds if isinstance(kinds, list) else [kinds]
    return any(checks[name](value) for name in names if name in checks)


def _has_parts(schema: Any) -> bool:
    return isinstance(schema, dict) and bool({"$ref", "properties", "items", "anyOf", "oneOf", "allOf"} & schema.keys())


def _is_free(schema: Any) -> bool:
    """Whether any text is valid."""
    return schema is True or (isinstance(schema, dict) and not {"enum", "const", "format", "pattern"} & schema.keys())


def _merged(one: Any, other: Any) -> Any:
    """A schema with the demands of both."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        if one is False or other is False:
            raise NoExample
        return other if isinstance(other, dict) else one
    both = {**one, **other}
    if isinstance(one.get("properties"), dict) and isinstance(other.get("properties"), dict):
        shared = one["properties"].keys() & other["properties"].keys()
        both["properties"] = {**one["properties"], **other["properties"]}
        both["properties"] |= {name: {"allOf": [one["properties"][name], other["properties"][name]]} for name in shared}
    if one.get("required") and other.get("required"):
        both["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    if isinstance(one.get("enum"), list) and isinstance(other.get("enum"), list):
        both["enum"] = [value for value in one["enum"] if value in other["enum"]]
        if not both["enum"]:
            raise NoExample
    for name, choose in (("minimum", max), ("minLength", max), ("minItems", max)):
        if name in one and name in other:
            both[name] = choose(one[name], other[name])
    for name in ("maximum", "maxLength", "maxItems"):
        if name in one and name in other:
            both[name] = min(one[name], other[name])
    if one.get("type") == "integer" and other.get("type") == "number":
        both["type"] = "integer"
    return both


# Patterns


def _matching(pattern: str, least: int, most: int | None) -> str:
    """A text in which the pattern is found, with a length within the bounds. Raises `NoExample`."""
    try:
        compiled = re.compile(pattern)
        parsed: Any = import_module("re._parser").parse(pattern)
        for more in STEPS:
            text = "".join(_spelled(parsed, more, {}))
            for candidate in (text, text + "a" * (least - len(text))):
                if compiled.search(candidate) and least <= len(candidate) <= (most or len(candidate)):
                    return candidate
    except (re.error, RecursionError, OverflowError):
        pass
    raise NoExample


def _spelled(parsed: Any, more: int, groups: dict[int | None, str]) -> Iterator[str]:
    """The texts for a parsed pattern, one after the other. `more`: repetitions beside the required ones."""
    for kind, told in parsed:
        match str(kind):
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inside = told
                for _ in range(min(int(high), int(low) + more)):
                    yield from _spelled(inside, more, groups)
            case "SUBPATTERN":
                groups[told[0]] = "".join(_spelled(told[-1], more, groups))
                yield groups[told[0]]
            case "ATOMIC_GROUP":
                yield from _spelled(told, more, groups)
            case "BRANCH":
                yield from _spelled(told[1][0], more, groups)
            case "GROUPREF":
                yield groups.get(told, "")
            case "IN":
                yield _one_of(told)
            case name:
                yield _sign(name, told)


def _sign(kind: str, told: Any) -> str:
    """A character for a part of a pattern; empty for an assertion."""
    match kind:
        case "LITERAL":
            return chr(told)
        case "NOT_LITERAL":
            return "a" if told != ord("a") else "b"
    return "a" if kind == "ANY" else ""


CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}
LIKELY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_. "


def _one_of(members: Any) -> str:
    """A character of a class."""
    negated = any(str(kind) == "NEGATE" for kind, _ in members)
    if not negated:
        kind, told = members[0]
        if str(kind) == "LITERAL":
            return chr(told)
        if str(kind) == "RANGE":
            return chr(told[0])
        return CATEGORIES.get(str(told), "-")
    return next((char for char in LIKELY if not any(_is_in(char, kind, told) for kind, told in members)), "~")


def _is_in(char: str, kind: Any, told: Any) -> bool:
    match str(kind):
        case "LITERAL":
            return bool(ord(char) == told)
        case "RANGE":
            return bool(told[0] <= ord(char) <= told[1])
        case "CATEGORY":
            words = {"CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w", "CATEGORY_SPACE": r"\s"}
            words |= {name.replace("_", "_NOT_", 1): form.upper() for name, form in words.items()}
            return bool(re.fullmatch(words.get(str(told), ""), char))
    return False
