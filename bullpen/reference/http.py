"""What the gateway serves, from its OpenAPI document."""

import json
from collections.abc import Iterator
from typing import Any

from bullpen.reference.markdown import table
from gateway.openapi import document

Json = dict[str, Any]
FILE = "openapi.json"


def as_json() -> str:
    """The gateway's OpenAPI document, laid out for people."""
    return json.dumps(json.loads(document()), indent=2, ensure_ascii=False) + "\n"


def routes() -> str:
    """Every path with what it takes and says."""
    whole = json.loads(document())
    head = ("path", "operation", "fields that it takes (**needed**)", "answers with")
    return table(head, _rows(whole["paths"]))


def _rows(paths: Json) -> Iterator[tuple[str, str, str, str]]:
    for path, methods in paths.items():
        for method, told in methods.items():
            if method == "parameters":  # of all methods of the path
                continue
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            parameters = [f"`{one['name']}`" for one in told.get("parameters", ()) if one.get("in") == "query"]
            kinds = [kind for code, one in told["responses"].items() if code < "3" for kind in one.get("content", {})]
            what = f"`{told['operationId']}`"
            fields = ", ".join([*_fields(body), *parameters])
            yield f"`{method.upper()} {path}`", what, fields, ", ".join(f"`{kind}`" for kind in dict.fromkeys(kinds))


def _fields(schema: Json) -> Iterator[str]:
    needed = schema.get("required", ())
    names = list(schema.get("properties", ()))
    for name in sorted(names, key=lambda name: name not in needed):
        yield f"**`{name}`**" if name in needed else f"`{name}`"
