"""The pages that Ollama's clients read before they ask: the models, what one can do, the version.

Models come and go with their workers, so no model is loaded, made or deleted here. A client that pulls a model first
gets the answer that it is there, or that there is none of that name.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp.web import BaseRequest, Response

from contracts import BullpenError, JsonObject
from gateway.dialects import Refused
from gateway.dialects import ollama as dialect
from gateway.dialects.events import dumped
from gateway.dialects.fields import Fields
from gateway.http import JSON, Failure, body_of, json_object
from gateway.keys import Caller
from gateway.models import Models

OLLAMA = "/api/"
READING = frozenset({"/api/tags", "/api/ps", "/api/version"})
ABOUT_ONE = frozenset({"/api/show", "/api/pull"})
LARGEST_BODY = 1 << 20
BODY_WITHIN = 10.0
KEPT_FOR = timedelta(days=365)
ERRORS = dialect.Ollama("chat")


class OllamaPages:
    def __init__(self, models: Models, admit: Callable[[BaseRequest], Caller]) -> None:
        """`admit`: finds the caller; raises `Refused` for one without access."""
        self._models = models
        self._admit = admit

    async def answer(self, request: BaseRequest) -> Response:
        """Answers a request to a path below `/api/` that asks no model."""
        path = request.path.rstrip("/")
        allowed = ("POST",) if path in ABOUT_ONE else ("GET", "HEAD")
        try:
            caller = self._admit(request)
            if path not in READING and path not in ABOUT_ONE:
                missing = f"{request.path[:200]} is not served here: models belong to workers"
                raise Refused(missing, None, 404, "not_found")
            if request.method not in allowed:
                why = f"{request.method} is not allowed here, but {', '.join(allowed)}"
                refused = Refused(why, None, 405, "method_not_allowed")
                return Failure.of(refused).answer(ERRORS, "", {"Allow": ", ".join(allowed)})
            return Response(body=await self._page(request, path, caller), content_type=JSON)
        except (Refused, BullpenError) as refused:
            return Failure.of(refused).answer(ERRORS, "", {})

    async def _page(self, request: BaseRequest, path: str, caller: Caller) -> bytes:
        """The page's body, with only the models that this caller may ask for."""
        if path in ABOUT_ONE:
            body = json_object(await body_of(request, limit=LARGEST_BODY, within=BODY_WITHIN))
            model = self._found(body, caller)
            return dialect.shown(model) if path == "/api/show" else dumped({"status": "success"}) + b"\n"
        if path == "/api/version":
            return dialect.version()
        served = [model for model in self._models.served(_now()) if caller.may_ask(model.name)]
        listed = [dialect.Listed(model.name, model.card, model.since) for model in served]
        return dialect.tags(listed) if path == "/api/tags" else dialect.running(listed, datetime.now(UTC) + KEPT_FOR)

    def _found(self, body: JsonObject, caller: Caller) -> dialect.Listed:
        """The model that a body names. Raises `Refused` (404)."""
        fields = Fields(body)
        named = [fields.text("model"), fields.text("name")]
        name = next(filter(None, named), None)
        if name is None:
            raise Refused("model: is missing", "model")
        meant = self._models.meant(name)
        if not caller.may_ask(meant):
            raise self._models.unknown(name, _now(), caller.may_ask)
        if (found := self._models.find(meant, _now())) is not None:
            return dialect.Listed(name, found.card, found.since)
        self._models.resolve(name, _now(), caller.may_ask)
        return dialect.Listed(name, None)


def _now() -> float:
    return asyncio.get_running_loop().time()
