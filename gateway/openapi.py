"""`/openapi.json`: what the gateway takes and says, for programs that generate clients or tests.

A body may have more than is listed: fields of other servers, which are named in `x-bullpen-ignored` or refused.
"""

from functools import cache
from typing import Any

from pydantic_core import to_json

from config import VERSION
from contracts.embedding import MOST_INPUTS
from contracts.response import MOST_DIMENSIONS
from gateway.dialects.openai import MOST_COPIES
from gateway.dialects.openai_chat import SSE

Schema = dict[str, Any]

ERRORS = {
    "400": "The request cannot be honoured; `param` names the field",
    "401": "No API key, or one that is unknown, revoked or expired",
    "402": "A budget has not enough left",
    "403": "This key may not ask for that, or this web page may not ask",
    "404": "No such model",
    "408": "The body did not come in time",
    "409": "The idempotency key was used with another question",
    "413": "The body, or a message of NATS, would be too large",
    "429": "A limit is reached, or every worker is full; `retry-after` says when to come back",
    "499": "The question was cancelled",
    "500": "A bug, or a question that two workers died on",
    "502": "The provider failed",
    "503": "No worker, or no Manager, or the gateway is leaving",
    "504": "The deadline is over",
}


@cache
def document() -> bytes:
    """JSON, OpenAPI 3.1."""
    return to_json({
        "openapi": "3.1.0",
        "info": {"title": "Bullpen", "version": VERSION, "description": "A mesh of language models."},
        "security": [{}, {"bearer": []}, {"x-api-key": []}, {"api-key": []}],
        "paths": {
            "/v1/chat/completions": {"post": _question("chatCompletion", CHAT, CHAT_ANSWER)},
            "/v1/completions": {"post": _question("completion", COMPLETION, COMPLETION_ANSWER)},
            "/v1/embeddings": {"post": _question("embedding", EMBEDDING, EMBEDDING_ANSWER)},
            "/api/embed": {"post": _question("ollamaEmbed", OLLAMA_EMBED, OLLAMA_EMBEDDINGS)},
            "/api/embeddings": {"post": _question("ollamaEmbedding", OLLAMA_EMBEDDING, OLLAMA_VECTOR)},
            "/v1/models": {"get": _page("models", "What can be asked for", MODELS, ("401", "403", "503"))},
            "/v1/models/{id}": {
                "get": {
                    **_page("model", "One of them", MODEL, ("401", "403", "404", "503")),
                    "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
                }
            },
        },
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                **{name: {"type": "apiKey", "in": "header", "name": name} for name in ("x-api-key", "api-key")},
            },
        },
    })  # fmt: skip


def _question(name: str, body: Schema, answer: Schema) -> Schema:
    key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 128}}
    told = {"application/json": {"schema": answer}, SSE: {"schema": {"type": "string"}}}
    return {
        "operationId": name,
        "parameters": [key],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The answer, whole or as events", "content": told}, **_errors(*ERRORS)},
    }


def _page(name: str, description: str, schema: Schema, errors: tuple[str, ...]) -> Schema:
    found = {"description": description, "content": {"application/json": {"schema": schema}}}
    return {"operationId": name, "responses": {"200": found, **_errors(*errors)}}


def _errors(*statuses: str) -> Schema:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": ERRORS[status], "content": content} for status in statuses}


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": schema, "minItems": least}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PENALTY: Schema = {"type": "number", "minimum": -2, "maximum": 2}
STRICT_TEXT: Schema = {"type": "string", "minLength": 1, "pattern": r"\S"}

ERROR = _object(
    "error",
    error=_object("message", "type", "param", "code", message=TEXT, type=TEXT, param=_or_null(TEXT), code=TEXT),
)
MODEL = _object("id", "object", "created", "owned_by", id=TEXT, object={"const": "model"}, created=COUNT, owned_by=TEXT)
MODELS = _object("object", "data", object={"const": "list"}, data=_list(MODEL))
USAGE = _object(
    "prompt_tokens", "completion_tokens", "total_tokens",
    prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT,
)  # fmt: skip
SAMPLING: dict[str, Schema] = {
    "model": _or_null({"type": "string", "minLength": 1, "maxLength": 256, "default": "auto"}),
    "stream": _or_null(FLAG),
    "stream_options": _or_null(_object(include_usage=FLAG)),
    "n": _or_null({"type": "integer", "minimum": 1, "maximum": MOST_COPIES}),
    "max_tokens": _or_null({"type": "integer", "minimum": 1, "maximum": 10_000_000}),
    "temperature": _or_null({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": _or_null({"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    "stop": _or_null({"anyOf": [TEXT, _list(TEXT)]}),
    "seed": _or_null({"type": "integer"}),
    "frequency_penalty": _or_null(PENALTY),
    "presence_penalty": _or_null(PENALTY),
    "logit_bias": _or_null({"type": "object", "additionalProperties": {"type": "number"}}),
    "metadata": _or_null({"type": "object", "additionalProperties": TEXT}),
    "policy": _or_null({"enum": ["balanced", "cheapest", "fastest", "best", "local_only"]}),
    "deadline_ms": _or_null({"type": "integer", "minimum": 1, "maximum": 86_400_000}),
    "max_cost_usd": _or_null({"type": "number", "minimum": 0}),
}
MESSAGE = _object(
    "role",
    role={"enum": ["system", "developer", "user", "assistant", "tool"]},
    content=_or_null({"anyOf": [TEXT, _list(ANY)]}),
    name=_or_null(TEXT),
    tool_calls=_or_null(_list(ANY)),
    tool_call_id=_or_null(TEXT),
)
CHAT = _object(
    "messages",
    messages=_list(MESSAGE, 1),
    max_completion_tokens=_or_null({"type": "integer", "minimum": 1, "maximum": 10_000_000}),
    logprobs=_or_null(FLAG),
    top_logprobs=_or_null({"type": "integer", "minimum": 0, "maximum": 20}),
    reasoning_effort=_or_null({"enum": ["none", "minimal", "low", "medium", "high", "xhigh"]}),
    response_format=_or_null(ANY),
    tools=_or_null(_list(ANY)),
    tool_choice=_or_null({"anyOf": [TEXT, ANY]}),
    parallel_tool_calls=_or_null(FLAG),
    **SAMPLING,
)
FINISH: Schema = {"enum": ["stop", "length", "tool_calls", "content_filter"]}
CHAT_ANSWER = _object(
    "id", "object", "created", "model", "choices", "usage",
    id=TEXT,
    object={"const": "chat.completion"},
    created=COUNT,
    model=TEXT,
    choices=_list(_object("index", "message", "finish_reason", index=COUNT, message=ANY, finish_reason=FINISH), 1),
    usage=USAGE,
)  # fmt: skip
COMPLETION = _object("prompt", prompt={"anyOf": [STRICT_TEXT, _list(STRICT_TEXT, 1)]}, **SAMPLING)
COMPLETION_ANSWER = _object(
    "id", "object", "created", "model", "choices", "usage",
    id=TEXT,
    object={"const": "text_completion"},
    created=COUNT,
    model=TEXT,
    choices=_list(_object("index", "text", "finish_reason", index=COUNT, text=TEXT, finish_reason=FINISH), 1),
    usage=USAGE,
)  # fmt: skip

COUNTED_TEXTS: Schema = {**_list(STRICT_TEXT, 1), "maxItems": MOST_INPUTS}
DIMENSIONS = _or_null({"type": "integer", "minimum": 1, "maximum": MOST_DIMENSIONS})
OUR_FIELDS = {name: SAMPLING[name] for name in ("metadata", "policy", "deadline_ms", "max_cost_usd")}
EMBEDDING = _object(
    "input",
    input={"anyOf": [STRICT_TEXT, COUNTED_TEXTS]},
    model=SAMPLING["model"],
    dimensions=DIMENSIONS,
    encoding_format=_or_null({"enum": ["float", "base64"]}),
    **OUR_FIELDS,
)
VECTOR: Schema = _list({"type": "number"}, 1)
EMBEDDING_ANSWER = _object(
    "object", "data", "model", "usage",
    object={"const": "list"},
    data=_list(
        _object(
            "object", "index", "embedding",
            object={"const": "embedding"}, index=COUNT, embedding={"anyOf": [VECTOR, TEXT]},
        ),
        1,
    ),
    model=TEXT,
    usage=_object("prompt_tokens", "total_tokens", prompt_tokens=COUNT, total_tokens=COUNT),
)  # fmt: skip
OLLAMA_MODEL: Schema = {"type": "string", "minLength": 1, "maxLength": 256}
OLLAMA_EMBED = _object(
    "model", "input",
    model=OLLAMA_MODEL,
    input={"anyOf": [TEXT, {**_list(STRICT_TEXT), "maxItems": MOST_INPUTS}]},
    truncate=_or_null(FLAG),
    dimensions=DIMENSIONS,
)  # fmt: skip
OLLAMA_EMBEDDINGS = _object("model", "embeddings", model=TEXT, embeddings=_list(VECTOR))
OLLAMA_EMBEDDING = _object("model", "prompt", model=OLLAMA_MODEL, prompt=TEXT)
OLLAMA_VECTOR = _object("embedding", embedding=_list({"type": "number"}))
