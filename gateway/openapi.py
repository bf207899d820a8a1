"""`/openapi.json`: the gateway's requests and answers, for programs that generate clients or tests.

A body may have more fields than are listed: unknown fields are passed over, and named in `x-bullpen-ignored`. Each
answer may also have fields that are not listed.
"""

from functools import cache

from pydantic_core import to_json

from config import VERSION
from gateway.api import document as api
from gateway.shapes import ANY, TEXT, Schema, anthropic, embeddings, ollama, openai, our_parts, ref, responses

JSON, SSE, NDJSON, PLAIN = "application/json", "text/event-stream", "application/x-ndjson", "text/plain"
STREAM: Schema = {"description": "Events, or lines of JSON, as that API's clients read them"}
"""The type of a stream. Programs that read the document take it for a text, or for a sequence of events: both are
right.
"""
ERRORS = {
    "400": "The request cannot be honoured; the error names the field",
    "401": "No API key, or one that is unknown, revoked or expired",
    "402": "A budget is used up",
    "403": "This key may not ask for that, or this web page may not ask",
    "404": "No such model",
    "405": "The path has no such method",
    "408": "The body did not come in time",
    "409": "The idempotency key was used with another request",
    "413": "The body, or a message of NATS, would be too large",
    "414": "The address is too long",
    "429": "A limit is reached, or every worker is full; `retry-after` says when to come back",
    "431": "The headers are too large, or too many",
    "499": "The request was cancelled",
    "500": "A bug, or a request on which two workers died",
    "502": "The provider failed",
    "503": "No worker, or no Manager, or the gateway is leaving",
    "504": "The deadline is over",
}
OVERLOADED = {**ERRORS, "529": "No worker, or every one is full, or the gateway is leaving"}
"""Anthropic has a status of its own for it."""
LOOKING = ("400", "401", "403", "404", "414", "431", "503")
"""Of what asks no model."""
HEADERS: dict[str, str] = {
    "x-request-id": "The request's id in the books; for a stream, its task id",
    "x-bullpen-worker": "The worker that answered",
    "x-bullpen-model": "The model that answered",
    "x-bullpen-attempts": "The number of attempts",
    "x-bullpen-cost-usd": "The cost in US dollars; missing when it is unknown",
    "x-bullpen-confidence": "0 to 1; missing for vectors",
    "x-bullpen-ignored": "Fields of the request that were passed over",
    "x-bullpen-unsupported": "Parameters that the model does not take",
    "server-timing": "The time of each part of the work, in milliseconds",
}


@cache
def document() -> bytes:
    """The document: OpenAPI 3.1 as JSON."""
    return to_json({
        "openapi": "3.1.0",
        "info": {"title": "Bullpen", "version": VERSION, "description": "A mesh of language models."},
        "security": [{}, {"bearer": []}, {"x-api-key": []}, {"api-key": []}],
        "paths": paths(),
        "components": {
            "schemas": {
                **our_parts(),
                "Error": openai.ERROR,
                "AnthropicError": anthropic.ERROR,
                "OllamaError": ollama.ERROR,
                "Model": openai.MODEL,
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                **{name: {"type": "apiKey", "in": "header", "name": name} for name in ("x-api-key", "api-key")},
            },
        },
    })  # fmt: skip


def paths() -> dict[str, Schema]:
    """The operations by path."""
    return {
        "/v1/chat/completions": _question("chatCompletion", openai.CHAT_REQUEST, openai.CHAT_ANSWER),
        "/v1/completions": _question("completion", openai.COMPLETION_REQUEST, openai.COMPLETION_ANSWER),
        "/v1/responses": _question("response", responses.REQUEST, responses.ANSWER),
        "/v1/embeddings": _question("embedding", embeddings.REQUEST, embeddings.ANSWER, stream=None),
        "/v1/messages": _question("message", anthropic.REQUEST, anthropic.ANSWER, error="AnthropicError"),
        "/v1/messages/count_tokens": _question(
            "countTokens", anthropic.REQUEST, anthropic.COUNTED, stream=None, error="AnthropicError"
        ),
        "/api/chat": _question(
            "ollamaChat", ollama.CHAT_REQUEST, ollama.CHAT_ANSWER, stream=NDJSON, error="OllamaError"
        ),
        "/api/generate": _question(
            "ollamaGenerate", ollama.GENERATE_REQUEST, ollama.GENERATE_ANSWER, stream=NDJSON, error="OllamaError"
        ),
        "/api/embed": _question(
            "ollamaEmbed", embeddings.OLLAMA_REQUEST, embeddings.OLLAMA_ANSWER, stream=None, error="OllamaError"
        ),
        "/api/embeddings": _question(
            *("ollamaEmbedding", embeddings.OLLAMA_ONE_REQUEST, embeddings.OLLAMA_ONE_ANSWER),
            stream=None,
            error="OllamaError",
        ),
        "/api/show": _about("ollamaShow", ollama.SHOWN),
        "/api/pull": _about("ollamaPull", ollama.PULLED),
        "/api/tags": _page("ollamaTags", "What can be asked for", ollama.TAGS, error="OllamaError"),
        "/api/ps": _page("ollamaRunning", "The same: every model is ready", ollama.RUNNING, error="OllamaError"),
        "/api/version": _page("ollamaVersion", "The API's", ollama.VERSION, error="OllamaError"),
        "/v1/models": _page("models", "What can be asked for", openai.MODELS),
        "/v1/models/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": TEXT}],
            **_page("model", "One of them", ref("Model")),
        },
        "/healthz": _status("healthz", "Whether the process runs"),
        "/readyz": _status("readyz", "Whether it serves"),
        "/metrics": _status("metrics", "For Prometheus"),
        "/openapi.json": {"get": _open("openapi", "This", JSON, ANY)},
        "/": {"get": _open("welcome", "Where to ask; for a browser the live page", PLAIN, TEXT)},
        **api.paths(),
    }


def _question(
    name: str, body: Schema, answer: Schema, *, stream: str | None = SSE, error: str = "Error"
) -> dict[str, Schema]:
    """An operation that asks a model. `stream`: the content type of its streams; None: there are none."""
    told = {JSON: {"schema": answer}, **({stream: {"schema": STREAM}} if stream else {})}
    found = {"description": "The answer, whole or as a stream", "content": told, "headers": _headers()}
    key = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 128}}
    errors = _errors(OVERLOADED if error == "AnthropicError" else ERRORS, error)
    return {"post": {**_asked(name, body), "parameters": [key], "responses": {"200": found, **errors}}}


def _about(name: str, answer: Schema) -> dict[str, Schema]:
    """An operation of Ollama's API about one model."""
    responses = {"200": _told("Found", JSON, answer), **_errors(_some("405", "408", "413", *LOOKING), "OllamaError")}
    return {"post": {**_asked(name, ollama.ABOUT_ONE), "responses": responses}}


def _asked(name: str, body: Schema) -> Schema:
    return {"operationId": name, "requestBody": {"required": True, "content": {JSON: {"schema": body}}}}


def _page(name: str, description: str, schema: Schema, *, error: str = "Error") -> dict[str, Schema]:
    responses = {"200": _told(description, JSON, schema), **_errors(_some(*LOOKING), error)}
    return {"get": {"operationId": name, "responses": responses}}


def _status(name: str, description: str) -> dict[str, Schema]:
    """A page for operators."""
    page = _open(name, description, PLAIN, TEXT)
    page["responses"]["503"] = _told("It does not, and why", PLAIN, TEXT)
    return {"get": page}


def _open(name: str, description: str, content_type: str, schema: Schema) -> Schema:
    """A page that needs no key."""
    responses = {"200": _told(description, content_type, schema), **_errors(_some("400", "414", "431"), "Error")}
    return {"operationId": name, "security": [], "responses": responses}


def _told(description: str, content_type: str, schema: Schema) -> Schema:
    return {"description": description, "content": {content_type: {"schema": schema}}}


def _headers() -> Schema:
    return {name: {"description": description, "schema": TEXT} for name, description in HEADERS.items()}


def _some(*statuses: str) -> dict[str, str]:
    return {status: ERRORS[status] for status in sorted(statuses)}


def _errors(statuses: dict[str, str], schema: str) -> Schema:
    return {status: _told(description, JSON, ref(schema)) for status, description in statuses.items()}
