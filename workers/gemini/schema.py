"""Reduces a JSON schema to the keywords that the Gemini API accepts. Pure.

Other keywords are left out, or replaced by accepted ones where that allows no less. The model sees a wider schema, and
no request is refused because of a keyword.
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
"""Keywords replaced by one that means nearly the same, unless the schema has that one too."""
BY_NAME = frozenset({"properties", "$defs"})
"""Keywords whose values are schemas, by names that the caller chose."""
LISTS = frozenset({"anyOf", "prefixItems"})
FILLED = frozenset({"anyOf", "prefixItems", "enum", "required"})
"""Lists that the API does not accept empty."""
FORMS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(FILLED, list),
    **dict.fromkeys(BY_NAME, dict),
    "items": dict,
    "additionalProperties": (bool, dict),
}
FORMATS = frozenset({"date-time", "date", "time", "duration", "enum", "float", "double", "int32", "int64"})
OLD_DEFINITIONS, DEFINITIONS = "#/definitions/", "#/$defs/"


def plain(schema: JsonObject) -> JsonObject:
    """The schema in the API's keywords."""
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
    """The schema with the demands of its `allOf` added, as far as they do not contradict it."""
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
