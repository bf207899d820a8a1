"""The routes: dialects for requests to models, and the other pages."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from aiohttp.web import BaseRequest, Response, StreamResponse
from pydantic_core import to_json

from contracts import BullpenError, JsonObject
from gateway.api.api import PREFIX as API
from gateway.api.api import Api
from gateway.api.pages import file_of
from gateway.cors import ASKS
from gateway.dialects import Dialect, Refused
from gateway.dialects.anthropic_messages import AnthropicMessages, AnthropicTokenCount
from gateway.dialects.completions import Completions
from gateway.dialects.embeddings import OllamaEmbeddings, OllamaOneEmbedding, OpenAIEmbeddings
from gateway.dialects.ollama import Ollama
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.http import JSON, Failure
from gateway.keys import Caller
from gateway.models import Models, ServedModel
from gateway.ollama_pages import OLLAMA, OllamaPages
from gateway.openapi import document
from gateway.serving import Answering

OPENAI = OpenAIChat()
QUESTIONS: Mapping[str, Dialect] = {
    "/v1/chat/completions": OPENAI,
    "/v1/completions": Completions(),
    "/v1/embeddings": OpenAIEmbeddings(),
    "/v1/messages": AnthropicMessages(),
    "/v1/messages/count_tokens": AnthropicTokenCount(),
    "/v1/responses": OpenAIResponses(),
    "/api/chat": Ollama("chat"),
    "/api/generate": Ollama("generate"),
    "/api/embed": OllamaEmbeddings(),
    "/api/embeddings": OllamaOneEmbedding(),
}
"""Dialects by the path of their POST requests. `/v1` may be left out: some clients add it, and some do not."""
MODELS = "/v1/models"
START = datetime.fromtimestamp(0, UTC)
"""The start time of names that no worker serves: `auto`, policies."""
OPENAPI = "/openapi.json"
STATUS = ("/healthz", "/readyz", "/metrics")
PAGES = (*STATUS, OPENAPI, "/")
TEXT = "text/plain"
WELCOME = """Bullpen's gateway: ask at /v1/chat/completions, models are listed at /v1/models.
Open this address in a browser for the live page.
"""


class StatusPage(Protocol):
    """The contents of `/healthz`, `/readyz` and `/metrics`."""

    @property
    def code(self) -> int: ...
    @property
    def body(self) -> str: ...
    @property
    def content_type(self) -> str: ...


class Routes:
    def __init__(self, answering: Answering, models: Models, pages: Callable[[str], StatusPage], api: Api) -> None:
        self._answering = answering
        self._api = api
        self._models = models
        self._pages = pages
        self._ollama = OllamaPages(models, answering.admit)

    async def handle(self, request: BaseRequest) -> StreamResponse:
        """Handles any request."""
        if request.method == "OPTIONS" and ASKS in request.headers:
            return self._answering.preflight(request)
        if request.path.startswith(API):
            told = await self._api.answer(request)
            if not told.prepared:
                told.headers.update(self._answering.page_headers(request))
            return told
        if request.method in ("GET", "HEAD") and (file := file_of(request)) is not None:
            return file
        path = request.path if request.path.startswith(("/v1/", OLLAMA)) else f"/v1{request.path}"
        if (dialect := QUESTIONS.get(path)) is not None:
            if request.method == "POST":
                return await self._answering.answer(request, dialect)
            return _not_allowed(request, dialect, "POST")
        page = await self._ollama.answer(request) if path.startswith(OLLAMA) else self._page(request, path)
        page.headers.update(self._answering.page_headers(request))
        return page

    def _page(self, request: BaseRequest, path: str) -> Response:
        if path != MODELS and not path.startswith(f"{MODELS}/") and request.path not in PAGES:
            missing = Refused(f"There is nothing at {request.path[:200]}", None, 404, "not_found")
            return Failure.of(missing).answer(OPENAI, "", {})
        if request.method not in ("GET", "HEAD"):
            return _not_allowed(request, OPENAI, "GET, HEAD")
        if (page := self._plain(request.path)) is not None:
            return page
        try:
            caller = self._answering.admit(request)
            return _json(self._listed(path.removeprefix(MODELS).lstrip("/"), caller))
        except (Refused, BullpenError) as refused:
            return Failure.of(refused).answer(OPENAI, "", {})

    def _plain(self, path: str) -> Response | None:
        """A page for people and operators; None: the path is another one."""
        if path in STATUS:
            page = self._pages(path)
            return Response(status=page.code, body=page.body.encode(), headers={"Content-Type": page.content_type})
        if path == OPENAPI:
            return Response(body=document(), content_type=JSON)
        return Response(text=WELCOME, headers={"Vary": "Accept"}) if path == "/" else None

    def _listed(self, name: str, caller: Caller) -> JsonObject:
        """The models that this caller may ask for, or the one with that name. Raises `Refused` (404)."""
        now = asyncio.get_running_loop().time()
        if not name:
            listed = [_model(model) for model in self._models.served(now) if caller.may_ask(model.name)]
            ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
            return {"object": "list", "data": listed, "has_more": False, **ends}
        model = self._models.find(name, now)
        if model is None or not caller.may_ask(name):
            raise self._models.unknown(name, now, caller.may_ask)
        return _model(model)


def _model(model: ServedModel) -> JsonObject:
    """A model in the forms of OpenAI and Anthropic at once: their clients skip each other's fields."""
    since = model.since or START
    openai = {"object": "model", "created": int(since.timestamp()), "owned_by": model.backend or "bullpen"}
    anthropic = {"type": "model", "display_name": model.name, "created_at": since.astimezone(UTC).isoformat()}
    return {"id": model.name, **openai, **anthropic}


def _json(told: JsonObject) -> Response:
    return Response(body=to_json(told), content_type=JSON)


def _not_allowed(request: BaseRequest, dialect: Dialect, allowed: str) -> Response:
    refused = Refused(f"{request.method} is not allowed here, but {allowed}", None, 405, "method_not_allowed")
    return Failure.of(refused).answer(dialect, "", {"Allow": allowed})
