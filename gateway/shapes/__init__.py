"""Requests and answers over HTTP as JSON Schema for `/openapi.json`: one module for each dialect.

Fields that the mesh itself checks are taken from the model that checks them (`ours`), and lists of words from the
dialects that read them. An answer may have more fields than are listed; so may a request, see `x-bullpen-ignored`.
"""

from functools import cache
from typing import Any

from contracts import InferenceRequest

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY: Schema = {"type": "object"}
NULL: Schema = {"type": "null"}


def record(*required: str, **properties: Schema) -> Schema:
    """An object with these fields, and perhaps others."""
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def full(**properties: Schema) -> Schema:
    """An object that has all of these fields."""
    return record(*properties, **properties)


def or_null(schema: Schema) -> Schema:
    """This schema or `null`, which clients send for a field that they leave out."""
    told = schema.get("anyOf", [schema])
    return schema if NULL in told else {"anyOf": [*told, NULL]}


def optional(**properties: Schema) -> dict[str, Schema]:
    return {name: or_null(schema) for name, schema in properties.items()}


def items(schema: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": schema, **({"minItems": least} if least else {})}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def one_of(words: Any) -> Schema:
    """One of these words."""
    return {"enum": list(words)}


def word(text: str) -> Schema:
    """This word only."""
    return {"const": text}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def ours(*names: str) -> dict[str, Schema]:
    """Fields of the mesh's own request, with the checks that it makes."""
    told = _request()["properties"]
    return {name: or_null(told[name]) for name in names}


def our_parts() -> dict[str, Schema]:
    """Schemas to which `ours` refers: messages and their parts, by the name of the model."""
    return dict(_request()["$defs"])


@cache
def _request() -> Schema:
    made: Schema = _bare(InferenceRequest.model_json_schema(ref_template="#/components/schemas/{model}"))
    return made


def _bare(told: Any, names_fields: bool = False) -> Any:
    """The schema without titles and defaults (a client's `null` is one), and open for unknown fields."""
    if isinstance(told, list):
        return [_bare(one) for one in told]
    if not isinstance(told, dict):
        return told
    drops = () if names_fields else ("title", "default")
    found = {name: _bare(value, name == "properties") for name, value in told.items() if name not in drops}
    if found.get("additionalProperties") is False:
        del found["additionalProperties"]
    return found
