"""The part of `/openapi.json` about `/api/v1/…`, made from the routes."""

import re

from gateway.api.api import PREFIX, ROUTES, Route
from gateway.shapes import TEXT, Schema, one_of, page, ref

JSON, SSE = "application/json", "text/event-stream"
ERRORS = {
    "400": "The request cannot be honoured; the error names the field",
    "401": "No API key, or one that is unknown, revoked or expired",
    "403": "This key's role may not do that, or this web page may not ask",
    "404": "There is none of that name",
    "408": "The body did not come in time",
    "409": "The order was refused, and why",
    "413": "The body is too large",
    "414": "The address is too long",
    "422": "The order names what there is not",
    "429": "Too much is asked at once",
    "431": "The headers are too large, or too many",
    "500": "A bug",
    "503": "Who has to answer is not there",
    "504": "Who has to answer did not in time",
}


def paths() -> dict[str, Schema]:
    """The API's operations by path, in OpenAPI's form."""
    found: dict[str, Schema] = {f"{PREFIX}session": _session()}
    for route in ROUTES:
        at = found.setdefault(f"{PREFIX}{route.path}", {})
        if names := re.findall(r"\{(\w+)\}", route.path):
            at["parameters"] = [_parameter(name, "path", _named(name, route)) for name in names]
        at[route.method.lower()] = _operation(route)
    return found


def _operation(route: Route) -> Schema:
    path = route.path
    answer = page.KEY if route.acts and path == "keys" else page.ANSWERS[path]
    told: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}_{path}").strip("_"),
        "responses": {"200": _answer(route.about, SSE if path == "events" else JSON, answer), **_errors()},
    }
    if route.filters:
        told["parameters"] = [
            _parameter(name, "query", page.FILTER_TYPES.get(name, {**TEXT, "maxLength": 256})) for name in route.filters
        ]
    if route.acts and path in page.BODIES:
        told["requestBody"] = {"content": {JSON: {"schema": page.BODIES[path]}}}
    return told


def _session() -> Schema:
    def operation(name: str, about: str, answer: Schema) -> Schema:
        return {"operationId": name, "responses": {"200": _answer(about, JSON, answer), **_errors()}}

    signing_in = operation("signIn", "Keeps the key in a cookie", page.SESSION)
    return {
        "get": operation("session", "Who asks, and what they may", page.SESSION),
        "post": {**signing_in, "requestBody": {"required": True, "content": {JSON: {"schema": page.SIGN_IN}}}},
        "delete": operation("signOut", "Forgets the key", page.SIGNED_OUT),
    }


def _named(name: str, route: Route) -> Schema:
    return one_of(route.orders) if name == "order" else {**TEXT, "minLength": 1, "maxLength": 256}


def _parameter(name: str, where: str, schema: Schema) -> Schema:
    return {"name": name, "in": where, "schema": schema, **({"required": True} if where == "path" else {})}


def _answer(about: str, content_type: str, schema: Schema) -> Schema:
    return {"description": about, "content": {content_type: {"schema": schema}}}


def _errors() -> Schema:
    return {status: _answer(about, JSON, ref("Error")) for status, about in ERRORS.items()}
