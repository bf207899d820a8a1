"""The official SDK against OpenAI, or against `base_url`. Always streamed: a closed stream stops the bill.

The SDK's own retries are off, because asking again is the Manager's decision and costs money.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Literal, Self, cast

import openai
import structlog
from openai.types import Model
from openai.types.chat import ChatCompletionChunk
from pydantic import Field, model_validator

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report
from workers.base.provider.chat import openai_messages, tokens
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
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently
from workers.openai.answer import Answer

log = structlog.get_logger(__name__)

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OWN_API = "api.openai.com"
MOST_MODELS = 50
WINDOWS = ("max_model_len", "context_length", "context_window", "n_ctx")
"""What servers call the context window in their list of models (vLLM; OpenRouter; Groq; llama.cpp)."""
GO_ON: JsonObject = {"continue_final_message": True, "add_generation_prompt": False}


class OpenAIConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Another server that speaks this API; else OPENAI_BASE_URL, else OpenAI itself."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")] = KEY
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
        silence = max(config.first_token_timeout, config.next_token_timeout)
        timeout = openai.Timeout(silence + 1, connect=CONNECT_TIMEOUT)
        once = {"Connection": "close"} if is_plain(self._url) else {}
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none-needed",
            base_url=self._url or f"https://{OWN_API}/v1",
            max_retries=0,
            timeout=timeout,
            default_headers=once,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bounded]}),
        )
        self._models: tuple[ModelConfig, ...] = config.models

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
        where = place(str(self._client.base_url))
        try:
            async with asyncio.timeout(QUICK):
                await self.health()
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
        if not self._models and self._asks_openai:
            self._models = self.config.default_models
        if not self._models:
            report("asking the server which models it has")
            self._models = await self._listed()
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        provider = self.pays(own=self._asks_openai)
        cards = (model.card(local=self.config.local, provider=provider) for model in self._models)
        return tuple(cards) if self.config.prefill == "none" else tuple(map(_going_on, cards))

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer, body = Answer(job), built(self._body, job)

        async def ask() -> AsyncIterator[ChatCompletionChunk]:
            sending = self._client.chat.completions.create(**body)
            return cast("openai.AsyncStream[ChatCompletionChunk]", await asked(sending, job))

        try:
            async with aclosing(patiently(ask, self.config)) as chunks:
                async for chunk in chunks:
                    if (delta := answer.take(chunk)) is not None:
                        yield delta
            if (rest := answer.rest()) is not None:
                yield rest
            if (done := answer.done()) is not None:
                yield done
        except (openai.OpenAIError, *UNUSABLE) as error:
            raise self._told(error) from error

    async def health(self) -> None:
        try:
            await self._client.with_options(timeout=CONNECT_TIMEOUT).models.list()
        except openai.NotFoundError:
            return  # it answers; it just has no list of models
        except (openai.OpenAIError, *UNUSABLE) as error:
            raise self._told(error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _listed(self) -> tuple[ModelConfig, ...]:
        try:
            found = {model.id: _described(model) for model in (await self._client.models.list()).data}
        except (openai.OpenAIError, *UNUSABLE) as error:
            raise self._told(error) from error
        if not found:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{place(str(self._client.base_url))} lists no models")
        if len(found) > MOST_MODELS:
            log.warning("models_left_out", listed=len(found), served=MOST_MODELS, cure="name the models in config.yaml")
        return tuple(found.values())[:MOST_MODELS]

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        options = next((model.options for model in self._models if model.name == job.model.model_id), {})
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
            "extra_body": {key: value for key, value in extra.items() if value is not None},
        }

    def _told(self, error: Exception) -> BullpenError:
        """What a failure means to the mesh."""
        text = without(self._key, _text(error))
        if isinstance(error, openai.APIStatusError):
            return from_status(error.status_code, text, dict(error.response.headers))
        if isinstance(error, openai.APIConnectionError):
            return unreachable(place(str(self._client.base_url)), error.__cause__ or error)
        if isinstance(error, openai.APIError) and (status := _status(error.body)) is not None:
            return from_status(status, text)
        return garbage(text)


def _going_on(card: ModelCard) -> ModelCard:
    able = dict.fromkeys((*card.capabilities, "prefill"))
    return card.model_copy(update={"capabilities": tuple(able)})


def _described(model: Model) -> ModelConfig:
    """The model as its server lists it; llama.cpp has a drawer of its own for what is not OpenAI's."""
    more = model.model_extra or {}
    said = {**more, **(more.get("meta") or {})}
    window = max(tokens(said.get(name), 0) for name in WINDOWS)
    return ModelConfig.model_validate({"name": model.id, **({"context_window": window} if window else {})})


def _text(error: Exception) -> str:
    """What the provider says, without the SDK's frame around it."""
    body = error.body if isinstance(error, openai.APIError) else None
    said = body.get("message") if isinstance(body, dict) else None
    return said if isinstance(said, str) and said else str(error)


def _status(body: object) -> int | None:
    """The status in an error that came when the answer had begun."""
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None
