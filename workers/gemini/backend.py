"""The official google-genai SDK. Always streamed, never retried here: asking again is the Manager's decision."""

import asyncio
import dataclasses
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Any

import httpx2
from google import genai
from google.genai import errors, types
from pydantic import Field

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, FinishReason, JsonObject, ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, Report, Usage, out_of_service
from workers.base.provider.chat import CHARACTERS_PER_TOKEN, SizeGuard, counted, logprobs, plausible
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
from workers.base.provider.errors import from_status, garbage, unreachable
from workers.base.provider.overlap_trimmer import OverlapTrimmer
from workers.base.provider.proxies import client_options, unread
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently
from workers.gemini.question import contents_of, generation_of

KEY, URL = "GEMINI_API_KEY", "GEMINI_BASE_URL"
DESCRIBED_WITHIN = 60.0
"""Seconds in which the API describes a model."""
FINISH: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length"}
CHATS = "generateContent"
UNKNOWN = "the API does not know it"
FILTERED = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
}
"""Any other ending (a malformed call, `OTHER`) is a failure, not an answer."""

OWN_API = "https://generativelanguage.googleapis.com"


class GeminiConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Another server that speaks this API; else GEMINI_BASE_URL, else Google itself."""
    api_version: str = "v1beta"


class GeminiBackend(Backend[GeminiConfig]):
    name = "gemini"
    price_list = "google"
    config_class = GeminiConfig

    def __init__(self, config: GeminiConfig) -> None:
        super().__init__(config)
        self._key = api_key(KEY)
        self._url = address(URL, config.base_url)
        hooks: dict[str, list[Callable[..., Any]]] = {
            "request": [self._limit_silence],
            "response": [bounded, _without_comments],
        }
        limits = httpx2.Limits(max_keepalive_connections=0 if is_plain(self._url) else None)
        self._http = httpx2.AsyncClient(
            event_hooks=hooks, limits=limits, follow_redirects=True, **client_options(self._url or OWN_API)
        )
        self._out: dict[str, str] = {}
        """Why a model is out of service, by name."""
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
        """The SDK has one time-out, for the whole answer. Of an answer, `patiently` ends a silence."""
        silence = None if request.method == "POST" else DESCRIBED_WITHIN
        request.extensions["timeout"] = httpx2.Timeout(silence, connect=CONNECT_TIMEOUT).as_dict()

    @classmethod
    async def available(cls, config: GeminiConfig) -> Availability:
        try:
            backend = cls(config)
        except ConfigError as error:
            return Availability.no(str(error), f"correct {URL} or {KEY}")
        async with aclosing(backend._http):
            return await backend._available()

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
        cards = (model.card(local=False, provider=provider) for model in self.config.models)
        return tuple(
            out_of_service(card, self._out[card.model_id]) if card.model_id in self._out else card for card in cards
        )

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer = _Answer(job)
        contents, generation = built(self._question, job)

        async def ask() -> AsyncIterator[types.GenerateContentResponse]:
            models = self._client.aio.models
            sending = models.generate_content_stream(model=job.model.model_id, contents=contents, config=generation)
            return await asked(sending, job)

        try:
            async with aclosing(patiently(ask, answer.take, self.patience(job))) as deltas:
                async for delta in deltas:
                    yield delta
        except (errors.APIError, httpx2.HTTPError, *UNUSABLE) as error:
            raise self._told(error) from error
        if (rest := answer.rest()) is not None:
            yield rest
        if (done := answer.done()) is not None:
            yield done

    async def health(self) -> None:
        names = [model.name for model in self.config.models]
        told = dict(zip(names, await asyncio.gather(*map(self._trouble_with, names)), strict=True))
        if self._url is not None and all(trouble == UNKNOWN for trouble in told.values()):
            told = {}  # a stand-in server may not describe its models
        self._out = {name: trouble for name, trouble in told.items() if trouble}
        if told and len(self._out) == len(told):
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, f"{names[0]} is out of service: {self._out[names[0]]}")

    async def _trouble_with(self, name: str) -> str:
        """Why a model cannot be served; empty when it can. Raises `BullpenError` when the API cannot answer."""
        try:
            described = await self._client.aio.models.get(model=name)
        except (errors.APIError, httpx2.HTTPError, *UNUSABLE) as error:
            if isinstance(error, errors.APIError) and error.code in (404, 405, 501):
                return UNKNOWN
            raise self._told(error) from error
        methods = described.supported_actions or [CHATS]
        return "" if CHATS in methods else f"it cannot chat, only {', '.join(methods)}"

    async def close(self) -> None:
        await self._http.aclose()
        self._client.close()

    def _question(self, job: Job) -> tuple[list[types.Content], types.GenerateContentConfig]:
        return contents_of(job), generation_of(job, self.configured(job.model.model_id).options)

    def _told(self, error: Exception) -> BullpenError:
        """What a failure means to the mesh."""
        if isinstance(error, httpx2.HTTPError):
            return unreachable(place(self._url) if self._url else "the Gemini API", error)
        if isinstance(error, errors.APIError) and isinstance(error.code, int):
            return from_status(error.code, without(self._key, str(error.message or error)), _wait(error))
        return garbage(without(self._key, str(error)))


async def _without_comments(response: Any) -> None:
    """Proxies send them to keep a connection alive; the SDK takes every line for a part of an answer."""
    read = response.aiter_bytes

    async def said(*how: Any) -> AsyncIterator[bytes]:
        begins, comment = True, False
        async for piece in read(*how):
            kept = b""
            for line in piece.splitlines(keepends=True):
                comment = line.startswith(b":") if begins else comment
                begins = line.endswith((b"\n", b"\r"))
                kept += b"" if comment else line
            if kept:
                yield kept

    response.aiter_bytes = said


class _Answer:
    """Gathers the pieces of one answer."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._seam = OverlapTrimmer(job.prefix)
        self._finish: FinishReason | None = None
        self._usage: types.GenerateContentResponseUsageMetadata | None = None
        self._calls: list[JsonObject] = []
        self._said = False

    def take(self, chunk: types.GenerateContentResponse) -> Delta | None:
        self._usage = chunk.usage_metadata or self._usage
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            self._finish = "content_filter"
        if not chunk.candidates:
            return None
        candidate = chunk.candidates[0]
        if candidate.finish_reason is not None:
            name = candidate.finish_reason.name
            self._finish = "content_filter" if name in FILTERED else FINISH.get(name)
        parts = (candidate.content.parts or []) if candidate.content else []
        calls = [self._call(part) for part in parts if part.function_call]
        self._calls += calls
        text = self._size.take("".join(part.text for part in parts if part.text and not part.thought))
        chances = _logprobs(candidate)
        if not text and not chances:
            thinks = any(part.thought for part in parts)  # not shown, but something moves
            return Delta("", len(calls), usage=self._used()) if calls or thinks else None
        self._said = True
        # Pieces are longer than a token here; how many it really were is told beside them.
        count = len(chances) if len(chances) > 1 else max(1, -(-len(text) // CHARACTERS_PER_TOKEN))
        return Delta(self._seam.take(text), count, chances, self._used())

    def rest(self) -> Delta | None:
        """What was held back because it might have been the start of the answer once more."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    def _call(self, part: types.Part) -> JsonObject:
        """A call as the mesh tells it. The model wants its signed thoughts back with the result, where it gave any."""
        function = part.function_call or types.FunctionCall()
        call = self._size.call(function.name or "", function.args or {}, function.id)
        if part.thought_signature:
            signature = b64encode(part.thought_signature).decode()
            call["extra_content"] = {"google": {"thought_signature": signature}}
        return call

    def done(self) -> Done | None:
        """The end; None when the provider never said why it stopped."""
        if self._finish is None:
            return None
        used = self._used()
        finish: FinishReason = "tool_calls" if self._calls and self._finish == "stop" else self._finish
        return Done(finish, tool_calls=tuple(self._calls), **dataclasses.asdict(used))

    def _used(self) -> Usage:
        """What the API has told of it by now, with every piece. It leaves out what is zero.

        Thoughts are billed as output and are not among the candidates' tokens; results of tools are input.
        """
        told = self._usage
        if told is None:
            return Usage()
        answered = self._said or bool(self._calls)
        prompt, spoken = counted(told.prompt_token_count), counted(told.candidates_token_count)
        thought = counted(told.thoughts_token_count)
        if prompt is not None:
            prompt += counted(told.tool_use_prompt_token_count) or 0
        completion = None if answered and not spoken else (spoken or 0) + (thought or 0)
        cached = counted(told.cached_content_token_count)
        return plausible(Usage(prompt, completion, cached, thought), answered=answered)


def _logprobs(candidate: types.Candidate) -> tuple[float, ...]:
    """One for each token, or their average as one, which comes to the same confidence."""
    result = candidate.logprobs_result
    chosen = [token.log_probability for token in (result.chosen_candidates or [] if result else [])]
    return logprobs(chosen or [candidate.avg_logprobs])


def _wait(error: errors.APIError) -> dict[str, str]:
    """The headers of a refusal. Google says how long to wait in the body instead."""
    headers = dict(getattr(error.response, "headers", None) or {})
    try:
        details: list[Any] = error.details["error"]["details"]
        delays = [str(detail["retryDelay"]) for detail in details if "retryDelay" in detail]
    except UNUSABLE:
        delays = []
    return {"retry-after": delays[0].removesuffix("s"), **headers} if delays else headers
