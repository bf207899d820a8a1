"""A server of OpenAI's API that says what it was told to say, and a backend that asks it."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from contracts import InferenceRequest
from tests.backends.providers import Json, OpenAIProvider
from workers.base import Job
from workers.openai.backend import OpenAIBackend


class Scripted(OpenAIProvider):
    """Answers with the chunks it was given, and lists the models it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Json] | None = None
        self.listed: list[Json] = [{"id": "m"}]
        self.kinds: list[Json] | None = None
        """What LM Studio tells of its models in a list of its own."""
        self.refused: dict[str, int] = {}
        """The status that each model answers."""

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_get("/api/v0/models", self.own_list)

    async def own_list(self, request: web.Request) -> web.Response:
        if self.kinds is None:
            raise web.HTTPNotFound
        return web.json_response({"object": "list", "data": self.kinds})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        status = self.refused.get((await request.json())["model"])
        if status is not None:
            self.received.append(await request.json())
            return web.Response(status=status, text=self.error(status))
        return await super().answer(request)

    def pieces(self, body: Json) -> list[str]:
        if self.script is None:
            return super().pieces(body)
        return [*(self._event(told) for told in self.script), "data: [DONE]\n\n"]

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.listed})


def chunk(delta: Json, finish: str | None = None) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def says(message: str, **more: Any) -> Json:
    return {"error": {"message": message, **more}}


Start = Callable[..., Awaitable[OpenAIBackend]]


def job(backend: OpenAIBackend, prefix: str = "", max_tokens: int | None = 50, **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": "What is the capital of France?", "temperature": 0.0, **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


async def received(provider: Scripted, backend: OpenAIBackend, asked: Job) -> Json:
    await backend.infer(asked)
    return provider.received[-1]
