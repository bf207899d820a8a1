"""Stand-in providers that give vectors."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from tests.backends.providers import GeminiProvider, Json, OllamaProvider, OpenAIProvider, Provider

VECTORS = [[1.0, 0.0], [0.5, -0.5], [0.0, 1.0]]
TEXTS = ("one", "two", "three")
Reply = Callable[[Json], web.StreamResponse | Json]


class Embedder(Provider):
    """Answers with `VECTORS`, unless a `reply` is set."""

    path: str
    reply: Reply | None = None
    hangs_up = False

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_post(self.path, self.embed)

    async def embed(self, request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        self.received.append(body)
        if self.failure.mute:
            self.hangs.set()
            try:
                await asyncio.sleep(30)
            finally:
                self.closed.set()
        if self.failure.status:
            return web.Response(status=self.failure.status, text=self.failure.body or self.error(self.failure.status))
        told = self.usual(VECTORS[: self.count(body)]) if self.reply is None else self.reply(body)
        return told if isinstance(told, web.StreamResponse) else web.json_response(told)

    def usual(self, vectors: list[list[float]]) -> Json:
        raise NotImplementedError

    def count(self, body: Json) -> int:
        return len(body["input"])

    def dimensions(self, body: Json) -> int | None:
        return body.get("dimensions")


class OpenAIEmbedder(Embedder, OpenAIProvider):
    path = "/v1/embeddings"

    def config(self) -> Json:
        return {"base_url": f"{self.url}/v1", "models": [{"name": "text-embedding-3-small"}]}

    def usual(self, vectors: list[list[float]]) -> Json:
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
        return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}}


class OllamaEmbedder(Embedder, OllamaProvider):
    path = "/api/embed"

    def config(self) -> Json:
        return {"host": self.url, "models": [{"name": "m"}]}

    async def show(self, request: web.Request) -> web.Response:
        return web.json_response({"model_info": {"bert.context_length": 512}, "capabilities": ["embedding"]})

    def usual(self, vectors: list[list[float]]) -> Json:
        return {"model": "m", "embeddings": vectors, "prompt_eval_count": 7, "total_duration": 1}


class GeminiEmbedder(Embedder, GeminiProvider):
    path = "/v1beta/models/gemini-embedding-001:batchEmbedContents"

    def config(self) -> Json:
        return {"base_url": self.url, "models": [{"name": "gemini-embedding-001"}]}

    def route(self, router: web.UrlDispatcher) -> None:
        super().route(router)
        router.add_get("/v1beta/models/gemini-embedding-001", self.model)

    async def model(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "models/m", "supportedGenerationMethods": ["embedContent"]})

    def usual(self, vectors: list[list[float]]) -> Json:
        return {"embeddings": [{"values": one} for one in vectors]}

    def count(self, body: Json) -> int:
        return len(body["requests"])

    def dimensions(self, body: Json) -> int | None:
        found: int | None = body["requests"][0].get("outputDimensionality")
        return found


EMBEDDERS: dict[str, type[Embedder]] = {"openai": OpenAIEmbedder, "ollama": OllamaEmbedder, "gemini": GeminiEmbedder}
