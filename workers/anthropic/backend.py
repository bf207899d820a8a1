"""Anthropic's API, through its official SDK. Answers are always streamed. The SDK retries nothing: the Manager decides
about retries.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any

import anthropic
import httpx2
from anthropic.types import RawMessageStreamEvent
from pydantic import Field

from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from workers.anthropic.answer import Answer
from workers.anthropic.question import CALLS, question_of
from workers.anthropic.reading import mended
from workers.anthropic.wordings import TOO_LONG
from workers.base import Availability, BackendConfig, Job, Report, out_of_service
from workers.base.interface.config import Parameter
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
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import garbage, refusal, unreachable
from workers.base.provider.frames import named_events, reframe
from workers.base.provider.proxies import client_options
from workers.base.provider.remote_backend import RemoteBackend

KEY, URL = "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"
KEEP_ALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
OWN_API = "https://api.anthropic.com"
MOST_LISTED = 1000
STREAMS = "/messages"
GONE = "the API does not list it any more"


class AnthropicConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Address of another server with this API. Left out: ANTHROPIC_BASE_URL, or else Anthropic itself."""


class AnthropicBackend(RemoteBackend[AnthropicConfig]):
    name = "anthropic"
    key_variable = KEY
    price_list = "anthropic"
    config_class = AnthropicConfig
    takes = frozenset({"temperature", "top_p", "parallel_tool_calls", "reasoning_effort"})
    calls = CALLS
    answer = Answer
    failures = (anthropic.AnthropicError, httpx2.HTTPError, *UNUSABLE)
    config_cure = f"correct {URL} or {KEY}"

    def __init__(self, config: AnthropicConfig) -> None:
        super().__init__(config)
        self._key = api_key(KEY)
        self._url = address(URL, config.base_url)
        self._seen: set[str] = set()
        self._missing: frozenset[str] = frozenset()
        once = {"Connection": "close"} if is_plain(self._url) else {}
        url = self._url or OWN_API
        transport = httpx2.AsyncHTTPTransport(
            limits=anthropic.DEFAULT_CONNECTION_LIMITS, socket_options=[KEEP_ALIVE], **client_options(url)
        )
        self._client = anthropic.AsyncAnthropic(
            api_key=self._key or "none-needed",
            base_url=url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),  # `patiently` ends a silence
            default_headers=once,
            http_client=anthropic.DefaultAsyncHttpxClient(
                event_hooks={"response": [bounded, _framed]}, transport=transport
            ),
        )

    async def _available(self) -> Availability:
        if self._url is None:
            if self._key is None:
                return Availability.no("no key", f"set {KEY}, or {URL} for a server of your own")
            return Availability.yes(f"{KEY} is set")
        try:
            async with asyncio.timeout(QUICK):
                await self.health()
        except BullpenError as error:
            return Availability.no(error.message, f"start that server, or correct {URL} or {KEY}")
        except TimeoutError:
            return Availability.no(f"{place(self._url)} does not answer", f"start that server, or correct {URL}")
        return Availability.yes(f"{place(self._url)} answers")

    async def start(self, report: Report) -> None:
        if not self.config.models:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "no model is named: list some in its config.yaml")
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        provider = self.pays(own=self._url is None)
        cards = (model.card(local=False, provider=provider) for model in self.config.models)
        return tuple(out_of_service(card, GONE) if card.model_id in self._missing else card for card in cards)

    async def _ask(self, question: JsonObject, job: Job) -> AsyncIterator[RawMessageStreamEvent]:
        return await self._client.messages.create(**question, stream=True)

    async def health(self) -> None:
        try:
            listed = await self._client.with_options(timeout=CONNECT_TIMEOUT).models.list(limit=MOST_LISTED)
            self._take([model.id for model in listed.data])
        except anthropic.NotFoundError:
            return  # it answers; it just has no list of models
        except self.failures as error:
            raise self._told(error) from error

    def _take(self, listed: Sequence[str]) -> None:
        """Takes the API's list of models. The API also answers to names that it does not list, so a model is missing
        only if it was listed before.

        Raises `BullpenError` when no model is left to serve.
        """
        named = {model.name for model in self.config.models}
        self._missing = frozenset((named & self._seen).difference(listed))
        self._seen.update(listed)
        if named and self._missing == named:
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, "the API lists none of its models any more")

    async def close(self) -> None:
        await self._client.close()

    def _question(self, job: Job) -> JsonObject:
        return question_of(job, self.configured(job.model.model_id).options)

    def _left_out(self, question: JsonObject, job: Job) -> Collection[Parameter]:
        told: JsonObject = question["extra_body"]
        thinks = "thinking" in told or "effort" in told.get("output_config", {})
        given: dict[Parameter, bool] = {
            "temperature": "temperature" in told,
            "top_p": "top_p" in told,
            "reasoning_effort": thinks,
        }
        return [name for name, is_given in given.items() if not is_given]

    def _told(self, error: Exception) -> BullpenError:
        """The error that a failure means to the mesh."""
        if isinstance(error, anthropic.APIStatusError):
            status = error.status_code if error.status_code >= 400 else None  # it came when the answer had begun
            said = read_error(error.body if error.body is not None else str(error))
            said = replace(said, message=without(self._key, said.message or str(error)))
            return refusal(status, said, dict(error.response.headers), TOO_LONG)
        if isinstance(error, httpx2.HTTPError):  # the SDK does not translate what happens while it reads
            return unreachable(place(str(self._client.base_url)), error)
        if isinstance(error, anthropic.APIConnectionError):
            return unreachable(place(str(self._client.base_url)), error.__cause__ or error)
        return garbage(without(self._key, str(error)))


async def _framed(response: Any) -> None:
    """Rewrites the stream for the SDK, which drops events without a name line, and bodies that are no events."""
    if response.is_success and response.request.url.path.endswith(STREAMS):
        reframe(response, named_events, mended)
