"""Google's Gemini API, through its official SDK. Answers are always streamed. The SDK retries nothing: the Manager
decides about retries.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import Field

from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from workers.base import (
    Availability,
    BackendConfig,
    Delta,
    Embedded,
    EmbeddingJob,
    Job,
    ModelConfig,
    Report,
    out_of_service,
)
from workers.base.interface.config import Parameter
from workers.base.provider.chat import counted
from workers.base.provider.chat_models import able
from workers.base.provider.connection import (
    CONNECT_TIMEOUT,
    QUICK,
    UNUSABLE,
    address,
    api_key,
    bounded,
    is_plain,
    place,
    without,
)
from workers.base.provider.embeddings import embedding, vector
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import garbage, refusal, unreachable
from workers.base.provider.frames import events, reframe
from workers.base.provider.proxies import client_options, unread
from workers.base.provider.remote_backend import RemoteBackend
from workers.gemini.answer import Answer
from workers.gemini.question import CALLS, STEERED, contents_of, generation_of
from workers.gemini.reading import mended
from workers.gemini.wordings import TOO_LONG

KEY, URL = "GEMINI_API_KEY", "GEMINI_BASE_URL"
DESCRIBED_WITHIN = 60.0
"""Seconds in which the API has to describe a model."""
CHATS, EMBEDS = "generateContent", "embedContent"
STREAMS = ":streamGenerateContent"
UNKNOWN = "the API does not know it"

Question = tuple[list[types.Content], types.GenerateContentConfig]

OWN_API = "https://generativelanguage.googleapis.com"


class GeminiConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Address of another server with this API. Left out: GEMINI_BASE_URL, or else Google itself."""
    api_version: str = "v1beta"


class GeminiBackend(RemoteBackend[GeminiConfig]):
    name = "gemini"
    key_variable = KEY
    price_list = "google"
    config_class = GeminiConfig
    takes = STEERED
    calls = CALLS
    answer = Answer
    failures = (errors.APIError, httpx2.HTTPError, *UNUSABLE)
    config_cure = f"correct {URL} or {KEY}"

    def __init__(self, config: GeminiConfig) -> None:
        super().__init__(config)
        self._key = api_key(KEY)
        self._url = address(URL, config.base_url)
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._limit_silence],
            "response": [bounded, self._framed],
        }
        limits = httpx2.Limits(max_keepalive_connections=0 if is_plain(self._url) else None)
        self._http = httpx2.AsyncClient(
            event_hooks=hooks, limits=limits, follow_redirects=True, **client_options(self._url or OWN_API)
        )
        self._out: dict[str, str] = {}
        """By model name, why the model is out of service."""
        self._embedders: set[str] = set()
        """Models that can only embed, by the API's description."""
        with unread():  # the SDK makes other clients too
            self._client = genai.Client(
                api_key=self._key or "none-needed",
                vertexai=False,
                http_options=types.HttpOptions(
                    base_url=self._url,
                    api_version=config.api_version,
                    httpx_async_client=self._http,
                    retry_options=types.HttpRetryOptions(attempts=1),
                ),
            )

    async def _limit_silence(self, request: httpx2.Request) -> None:
        """Sets the time-outs of a request. The SDK has only one, for the whole answer; `patiently` limits the silence
        of an answer instead.
        """
        silence = None if request.method == "POST" else DESCRIBED_WITHIN
        request.extensions["timeout"] = httpx2.Timeout(silence, connect=CONNECT_TIMEOUT).as_dict()

    async def _framed(self, response: Any) -> None:
        """Rewrites the stream for the SDK, which reads events only in Google's form, and no error without a number."""

        def mend(told: JsonObject) -> Iterator[JsonObject]:
            if error := told.get("error"):
                said = read_error(error)
                said = replace(said, message=without(self._key, said.message))
                raise refusal(None, said, dict(response.headers), TOO_LONG)
            yield mended(told)

        if response.is_success and response.request.url.path.endswith(STREAMS):
            reframe(response, events, mend)

    async def _available(self) -> Availability:
        if self._url is None:
            if self._key is None:
                return Availability.no("no key", f"set {KEY}, or {URL} for a server of your own")
            return Availability.yes(f"{KEY} is set")
        try:
            async with asyncio.timeout(QUICK):
                await self._http.head(self._url)
        except (httpx2.HTTPError, TimeoutError):
            return Availability.no(f"{place(self._url)} is not reachable", f"start that server, or correct {URL}")
        return Availability.yes(f"{place(self._url)} answers")

    async def start(self, report: Report) -> None:
        if not self.config.models:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "no model is named: list some in workers/gemini/config.yaml")
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        provider = self.pays(own=self._url is None)
        known = (self._as_described(model) for model in self.config.models)
        cards = (model.card(local=False, provider=provider) for model in known)
        return tuple(
            out_of_service(card, self._out[card.model_id]) if card.model_id in self._out else card for card in cards
        )

    async def _ask(self, question: Question, job: Job) -> AsyncIterator[types.GenerateContentResponse]:
        contents, generation = question
        models = self._client.aio.models
        return await models.generate_content_stream(model=job.model.model_id, contents=contents, config=generation)

    async def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        async def ask() -> types.EmbedContentResponse:
            wanted = types.EmbedContentConfig(output_dimensionality=job.request.dimensions)
            texts = [types.Content(parts=[types.Part(text=text)]) for text in job.request.texts]
            return await self._client.aio.models.embed_content(
                model=job.model.model_id, contents=list(texts), config=wanted
            )

        try:
            async with aclosing(embedding(ask, _vectors, self.patience(job))) as pieces:
                async for piece in pieces:
                    yield piece
        except self.failures as error:
            raise self._told(error) from error

    async def health(self) -> None:
        names = [model.name for model in self.config.models]
        told = dict(zip(names, await asyncio.gather(*map(self._trouble_with, names)), strict=True))
        if self._url is not None and all(trouble == UNKNOWN for trouble in told.values()):
            told = {}  # a stand-in server may not describe its models
        self._out = {name: trouble for name, trouble in told.items() if trouble}
        if told and len(self._out) == len(told):
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, f"{names[0]} is out of service: {self._out[names[0]]}")

    async def _trouble_with(self, name: str) -> str:
        """Why a model cannot be served; empty when it can be. Raises `BullpenError` when the API cannot answer."""
        try:
            described = await self._client.aio.models.get(model=name)
        except self.failures as error:
            if isinstance(error, errors.APIError) and error.code in (404, 405, 501):
                return UNKNOWN
            raise self._told(error) from error
        methods = described.supported_actions or [CHATS]
        if CHATS not in methods and EMBEDS in methods:
            self._embedders.add(name)
        useful = CHATS in methods or EMBEDS in methods
        return "" if useful else f"it cannot chat or embed, only {', '.join(methods)}"

    def _as_described(self, model: ModelConfig) -> ModelConfig:
        """The model's config with the API's description: a model that can only embed does not chat, whatever the config
        says.
        """
        if model.name in self._embedders:
            return model.model_copy(update={"capabilities": ("embed",)})
        return able(model)

    async def close(self) -> None:
        await self._http.aclose()
        self._client.close()

    def _question(self, job: Job) -> Question:
        return contents_of(job), generation_of(job, self.configured(job.model.model_id).options)

    def _left_out(self, question: Question, job: Job) -> Collection[Parameter]:
        unable: tuple[Parameter, ...] = ("reasoning_effort",)
        return () if question[1].thinking_config is not None else unable

    def _told(self, error: Exception) -> BullpenError:
        """The error that a failure means to the mesh."""
        if isinstance(error, httpx2.HTTPError):
            return unreachable(place(self._url) if self._url else "the Gemini API", error)
        if isinstance(error, errors.APIError) and isinstance(error.code, int):
            said = read_error(error.details)
            said = replace(said, message=without(self._key, str(error.message or said.message or error)))
            headers = dict(getattr(error.response, "headers", None) or {})
            return refusal(error.code if error.code >= 400 else None, said, headers, TOO_LONG)
        return garbage(without(self._key, str(error)))


def _vectors(told: types.EmbedContentResponse) -> Embedded:
    """The vectors. The API reports their tokens only for a few models."""
    if not told.embeddings:
        raise garbage("an answer without vectors")
    vectors = [vector(one.values or []) for one in told.embeddings]
    return Embedded(vectors, counted(getattr(told.usage_metadata, "prompt_token_count", None)))
