"""The official SDK against OpenAI, or against `base_url`. Always streamed: a closed stream stops the bill.

The SDK's own retries are off, because asking again is the Manager's decision and costs money.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Literal, Self, cast

import openai
from openai.types import Model
from openai.types.chat import ChatCompletionChunk
from pydantic import AfterValidator, Field, model_validator

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report, out_of_service
from workers.base.provider.chat import openai_messages
from workers.base.provider.chat_models import Prober, sends_no_bill
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
from workers.base.provider.proxies import client_options
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently
from workers.openai.answer import Answer
from workers.openai.catalogue import GONE, Catalogue, is_named
from workers.openai.listing import chats, with_kinds

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OWN_API = "api.openai.com"
LISTED_WITHIN = 60.0
"""Seconds in which a server says which models it has."""
NO_LIST = (404, 405, 501)
"""What a server answers that has no list of models; it may chat all the same."""
NO_MONEY = "insufficient_quota"
"""The code of a 429 that no waiting ends, for whichever model."""
GO_ON: JsonObject = {"continue_final_message": True, "add_generation_prompt": False}


def _variable(name: str) -> str:
    if not (name.isascii() and name.isidentifier() and name.isupper()):
        raise ValueError("should be the name of an environment variable: A-Z 0-9 _")
    return name


class OpenAIConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Another server that speaks this API; else OPENAI_BASE_URL, else OpenAI itself."""
    key_variable: Annotated[str, AfterValidator(_variable)] = KEY
    """The environment variable with the key (with `_FILE` behind it: of the file that holds it)."""
    default_models: tuple[ModelConfig, ...] = ()
    """Served when `models` is empty and OpenAI itself is asked; another server is asked what it has."""
    local: bool = False
    """True for a server on your own machine: nobody sends a bill for it."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """What the server calls the limit; older servers want `max_tokens`."""
    prefill: Literal["none", "assistant", "vllm"] = "none"
    """How the server goes on after a begun answer: not at all, as OpenAI's own; when the assistant has the last word
    (llama.cpp); when told so besides (vLLM)."""

    @model_validator(mode="after")
    def _says_how(self) -> Self:
        if self.prefill == "none" and any("prefill" in model.capabilities for model in self.models):
            raise ValueError("a model that can go on after a begun answer needs `prefill`: assistant or vllm")
        return self


class OpenAIBackend(Backend[OpenAIConfig]):
    name = "openai"
    price_list = "openai"
    config_class = OpenAIConfig

    def __init__(self, config: OpenAIConfig) -> None:
        super().__init__(config)
        self._key = api_key(config.key_variable)
        self._url = address(URL, config.base_url)
        once = {"Connection": "close"} if is_plain(self._url) else {}
        url = self._url or f"https://{OWN_API}/v1"
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none-needed",
            base_url=url,
            max_retries=0,
            timeout=openai.Timeout(LISTED_WITHIN, connect=CONNECT_TIMEOUT),
            default_headers=once,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bounded]}, **client_options(url)),
        )
        self._prober = Prober(self.infer, self._learned)
        named = config.models or (config.default_models if self._asks_openai else ())
        self._free = config.local or sends_no_bill(str(self._client.base_url))
        self._catalogue = Catalogue(named, self._prober if self._free else None)
        self._all = not named
        """Whether all is served that the server lists and that can chat."""

    @classmethod
    async def available(cls, config: OpenAIConfig) -> Availability:
        try:
            backend = cls(config)
        except ConfigError as error:
            return Availability.no(str(error), f"correct {URL} or {config.key_variable}")
        try:
            return await backend._available()
        finally:
            await backend.close()

    async def _available(self) -> Availability:
        key = self.config.key_variable
        if self._asks_openai:
            if self._key is None:
                return Availability.no("no key and no server", f"set {key}, or {URL} for a server of your own")
            return Availability.yes(f"{key} is set")
        where = self._where
        try:
            async with asyncio.timeout(QUICK):
                await self._listed()
        except BullpenError as error:
            return Availability.no(error.message, f"start the server at {where}, or correct {URL} or {key}")
        except TimeoutError:
            return Availability.no(f"{where} does not answer", f"start that server, or correct {URL}")
        return Availability.yes(f"{where} answers")

    @property
    def _asks_openai(self) -> bool:
        """Whether the server is OpenAI's own, in whatever region."""
        host = self._client.base_url.host
        return host == OWN_API or host.endswith(f".{OWN_API}")

    async def start(self, report: Report) -> None:
        if self._all:
            report("asking the server which models it has")
        listed = await self._listed()
        if listed is None and self._all:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} has no list of models: name them in `models`")
        self._catalogue.take(listed or ())
        if listed and not self._catalogue.models and self._catalogue.to_ask:
            report("asking the server's models whether they can chat")
            await self._ask_unknown()
        self._check_service()
        self._ask_unknown()

    def models(self) -> tuple[ModelCard, ...]:
        missing = self._catalogue.missing
        cards = ((model, self._card(model)) for model in self._catalogue.models)
        return tuple(out_of_service(card, GONE) if model.name in missing else card for model, card in cards)

    def _card(self, model: ModelConfig) -> ModelCard:
        card = model.card(local=self.config.local, provider=self.pays(own=self._asks_openai))
        return card if self.config.prefill == "none" else _going_on(card)

    def _ask_unknown(self) -> "asyncio.Task[None]":
        """Where it costs nothing."""
        return self._prober.ask([self._card(model) for model in self._catalogue.to_ask])

    def _learned(self) -> None:
        self._catalogue.again()

    def _check_service(self) -> None:
        """Raises `BullpenError` when there is nothing to serve."""
        if self._catalogue.in_service:
            return
        if self._catalogue.missing:
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, f"{self._where} lists none of its models any more")
        if self._catalogue.unknown:
            cure = "name those that can in `models`"
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} does not say which models can chat: {cure}")
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} lists no models that can chat")

    @property
    def _where(self) -> str:
        return place(str(self._client.base_url))

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer, body = Answer(job), built(self._body, job)

        async def ask() -> AsyncIterator[ChatCompletionChunk]:
            sending = self._client.chat.completions.create(**body)
            return cast("openai.AsyncStream[ChatCompletionChunk]", await asked(sending, job))

        try:
            async with aclosing(patiently(ask, answer.take, self.patience(job))) as deltas:
                async for delta in deltas:
                    yield delta
            if (rest := answer.rest()) is not None:
                yield rest
            if (done := answer.done()) is not None:
                yield done
        except (openai.OpenAIError, *UNUSABLE) as error:
            raise self._told(error) from error

    async def health(self) -> None:
        listed = await self._listed()
        if listed is not None:
            self._catalogue.take(listed)
            self._ask_unknown()
        self._check_service()

    async def close(self) -> None:
        await self._prober.close()
        await self._client.close()

    async def _listed(self) -> Sequence[Model] | None:
        """The server's models; None: it has no list. Raises `BullpenError` when it cannot answer."""
        quick = self._client.with_options(timeout=CONNECT_TIMEOUT)
        try:
            listed = [model for model in (await quick.models.list()).data if is_named(model)]
            return await self._with_kinds(listed) if self._all else listed
        except (openai.OpenAIError, *UNUSABLE) as error:
            if isinstance(error, openai.APIStatusError) and error.status_code in NO_LIST:
                return None
            raise self._told(error) from error

    async def _with_kinds(self, listed: Sequence[Model]) -> Sequence[Model]:
        """With what LM Studio tells of its models in a list of its own, where something is not known otherwise."""
        if self._free and any(chats(model) is None for model in listed):
            with suppress(openai.OpenAIError, *UNUSABLE):
                url = self._client.base_url.copy_with(path="/api/v0/models")
                own = await self._client.with_options(timeout=CONNECT_TIMEOUT).get(str(url), cast_to=object)
                return with_kinds(listed, own)
        return listed

    def configured(self, model: str) -> ModelConfig:
        return next((one for one in self._catalogue.models if one.name == model), ModelConfig(name=model))

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        options = self.configured(job.model.model_id).options
        wanted: JsonObject = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": [stop for stop in request.stops if stop] or None,
            "seed": request.seed,
            "response_format": request.response_format,
            "tools": list(request.tools) if request.tools else None,
            "tool_choice": request.tool_choice,
            "logprobs": True if "logprobs" in job.model.capabilities else None,
            "stream_options": {"include_usage": True},
            self.config.max_tokens_field: job.max_tokens,
        }
        extra = {**options, **(GO_ON if job.prefix and self.config.prefill == "vllm" else {})}
        return {
            **{key: value for key, value in wanted.items() if value is not None and key not in options},
            "model": job.model.model_id,
            "messages": openai_messages(job),
            "stream": True,
            "timeout": openai.Timeout(None, connect=CONNECT_TIMEOUT),  # `patiently` ends a silence
            "extra_body": {key: value for key, value in extra.items() if value is not None},
        }

    def _told(self, error: Exception) -> BullpenError:
        """What a failure means to the mesh."""
        text = without(self._key, _text(error))
        if isinstance(error, openai.APIStatusError):
            refused = from_status(error.status_code, text, dict(error.response.headers))
            if error.code == NO_MONEY:
                refused.fault = "account"
            return refused
        if isinstance(error, openai.APIConnectionError):
            return unreachable(self._where, error.__cause__ or error)
        if isinstance(error, openai.APIError) and (status := _status(error.body)) is not None:
            return from_status(status, text)
        return garbage(text)


def _going_on(card: ModelCard) -> ModelCard:
    able = dict.fromkeys((*card.capabilities, "prefill"))
    return card.model_copy(update={"capabilities": tuple(able)})


def _text(error: Exception) -> str:
    """What the provider says, without the SDK's frame around it."""
    body = error.body if isinstance(error, openai.APIError) else None
    said = body.get("message") if isinstance(body, dict) else None
    return said if isinstance(said, str) and said else str(error)


def _status(body: object) -> int | None:
    """The status in an error that came when the answer had begun."""
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None
