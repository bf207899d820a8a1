"""A JSON schema in the part of the language that the Gemini API takes. Pure.

What it does not know is left out, or said in words that it knows where that is possible without allowing less: the
model sees a wider schema, and no request is refused for a word in it.
"""

from typing import Any

from contracts import JsonObject

KNOWN = frozenset(
    {
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "prefixItems",
        "properties",
        "propertyOrdering",
        "required",
        "title",
        "type",
    }
)
RENAMED = {"oneOf": "anyOf", "definitions": "$defs", "exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
"""What means nearly the same, where the other word is not there as well."""
BY_NAME = frozenset({"properties", "$defs"})
"""Whose values are schemas by names of the caller's own."""
LISTS = frozenset({"anyOf", "prefixItems"})
FILLED = frozenset({"anyOf", "prefixItems", "enum", "required"})
"""Lists that may not be empty."""
FORMS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(FILLED, list),
    **dict.fromkeys(BY_NAME, dict),
    "items": dict,
    "additionalProperties": (bool, dict),
}
FORMATS = frozenset({"date-time", "date", "time", "duration", "enum", "float", "double", "int32", "int64"})
OLD_DEFINITIONS, DEFINITIONS = "#/definitions/", "#/$defs/"


def plain(schema: JsonObject) -> JsonObject:
    """The same schema in the words that the API knows."""
    told = _merged(schema)
    for name, other in RENAMED.items():
        if name in told and other not in told and not isinstance(told[name], bool):
            told[other] = told[name]
    if "const" in told:
        told["enum"] = [told["const"]]
    taken = {name: _value(name, value) for name, value in told.items() if name in KNOWN and _is_taken(name, value)}
    if "required" in taken:
        taken["required"] = [name for name in taken["required"] if name in taken.get("properties", {})]
    return {name: value for name, value in taken.items() if name != "required" or value}


def _merged(schema: JsonObject) -> JsonObject:
    """With what `allOf` demands besides, as far as it does not contradict."""
    told = {name: value for name, value in schema.items() if name != "allOf"}
    for part in schema.get("allOf") or ():
        if isinstance(part, dict):
            more = _merged(part)
            for name in ("properties", "$defs", "definitions"):
                if isinstance(more.get(name), dict):
                    told[name] = {**more[name], **(told.get(name) or {})}
            required = [*(told.get("required") or ()), *(more.get("required") or ())]
            told = {**more, **told, **({"required": list(dict.fromkeys(required))} if required else {})}
    return told


def _is_taken(name: str, value: Any) -> bool:
    if name == "format":
        return value in FORMATS
    return isinstance(value, FORMS.get(name, object)) and (bool(value) or name not in FILLED)


def _value(name: str, value: Any) -> Any:
    if name in BY_NAME:
        return {key: plain(one) for key, one in value.items() if isinstance(one, dict)}
    if name in LISTS:
        return [plain(one) for one in value if isinstance(one, dict)]
    if name == "$ref" and isinstance(value, str) and value.startswith(OLD_DEFINITIONS):
        return DEFINITIONS + value.removeprefix(OLD_DEFINITIONS)
    return plain(value) if isinstance(value, dict) else value
