"""The official SDK against OpenAI, or against `base_url`. Always streamed: a closed stream stops the bill.

The SDK's own retries are off, because asking again is the Manager's decision and costs money.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, cast

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from pydantic import Field

from contracts import BullpenError, FinishReason, JsonObject, ModelCard
from contracts.settings import secret
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report
from workers.base.chat import SizeGuard, openai_messages
from workers.base.patience import patiently
from workers.base.provider_errors import from_status, garbage, unreachable

OWN_API = "api.openai.com"
CONNECT_TIMEOUT = 5.0
MOST_MODELS = 50
FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class OpenAIConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Another server that speaks this API; else OPENAI_BASE_URL, else OpenAI itself."""
    default_models: tuple[ModelConfig, ...] = ()
    """Served when `models` is empty and OpenAI itself is asked; another server is asked what it has."""
    local: bool = False
    """True for a server on your own machine: nobody sends a bill for it."""
    max_tokens_field: str = "max_completion_tokens"
    """What the server calls the limit; older servers want `max_tokens`."""
    continue_final_message: bool = False
    """The server goes on after a trailing message of the assistant (vLLM, llama.cpp)."""


class OpenAIBackend(Backend[OpenAIConfig]):
    name = "openai"
    config_class = OpenAIConfig

    def __init__(self, config: OpenAIConfig) -> None:
        super().__init__(config)
        self._client = _client(config)
        self._models: tuple[ModelCard, ...] = ()

    @classmethod
    async def available(cls, config: OpenAIConfig) -> Availability:
        if _base_url(config) is None and secret("OPENAI_API_KEY") is None:
            cure = "set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own"
            return Availability.no("no key and no server", cure)
        if _base_url(config) is None:
            return Availability.yes("OPENAI_API_KEY is set")
        client = _client(config).with_options(timeout=1.5)
        try:
            await client.models.list()
        except openai.APIStatusError as error:
            return Availability.no(f"{client.base_url} answers {error.status_code}", "check OPENAI_API_KEY and the URL")
        except openai.OpenAIError:
            return Availability.no(
                f"{client.base_url} is not reachable", "start that server, or correct OPENAI_BASE_URL"
            )
        finally:
            await client.close()
        return Availability.yes(f"{client.base_url} answers")

    async def start(self, report: Report) -> None:
        configured = self.config.models
        if not configured and _base_url(self.config) is None:
            configured = self.config.default_models
        if not configured:
            report("asking the server which models it has")
            configured = await self._listed()
        self._models = tuple(model.card(local=self.config.local) for model in configured)
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        return self._models

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer = _Answer(job)
        try:
            created = await self._client.chat.completions.create(**self._body(job))
            chunks = cast("openai.AsyncStream[ChatCompletionChunk]", created)
            async with chunks, aclosing(patiently(aiter(chunks), self.config)) as pieces:
                async for chunk in pieces:
                    if (delta := answer.take(chunk)) is not None:
                        yield delta
        except openai.OpenAIError as error:
            raise self._told(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise garbage(str(error)) from error
        if (done := answer.done()) is not None:
            yield done

    async def health(self) -> None:
        try:
            await self._client.with_options(timeout=CONNECT_TIMEOUT).models.list()
        except openai.NotFoundError:
            return  # it answers; it just has no list of models
        except openai.OpenAIError as error:
            raise self._told(error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _listed(self) -> tuple[ModelConfig, ...]:
        try:
            page = await self._client.models.list()
        except openai.OpenAIError as error:
            raise self._told(error) from error
        return tuple(ModelConfig(name=model.id) for model in page.data[:MOST_MODELS])

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        options = next(
            (m.options for m in (*self.config.models, *self.config.default_models) if m.name == job.model.model_id), {}
        )
        wanted: JsonObject = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stops) or None,
            "seed": request.seed,
            "response_format": request.response_format,
            "tools": list(request.tools) if request.tools else None,
            "tool_choice": request.tool_choice,
            "logprobs": True if "logprobs" in job.model.capabilities else None,
            "extra_body": {"continue_final_message": True, "add_generation_prompt": False}
            if job.prefix and self.config.continue_final_message
            else None,
            self.config.max_tokens_field: job.max_tokens,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        return {
            **body,
            **options,
            "model": job.model.model_id,
            "messages": openai_messages(job),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _told(self, error: openai.OpenAIError) -> BullpenError:
        if isinstance(error, openai.APIStatusError):
            return from_status(error.status_code, _without_key(error.message), dict(error.response.headers))
        if isinstance(error, openai.APIConnectionError):
            return unreachable(str(self._client.base_url), error.__cause__ or error)
        return garbage(_without_key(str(error)))


class _Answer:
    """Gathers the pieces of one answer."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._finish: FinishReason | None = None
        self._usage: CompletionUsage | None = None
        self._calls: dict[int, JsonObject] = {}
        self._tokens = 0

    def take(self, chunk: ChatCompletionChunk) -> Delta | None:
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish = FINISH.get(choice.finish_reason, "stop")
        for call in choice.delta.tool_calls or []:
            self._add_call(call)
        if not choice.delta.content:
            return None
        logprobs = tuple(token.logprob for token in (choice.logprobs.content or [])) if choice.logprobs else ()
        tokens = max(1, len(logprobs))
        self._tokens += tokens
        return Delta(self._size.take(choice.delta.content), tokens, logprobs)

    def _add_call(self, call: Any) -> None:
        """Tool calls come in pieces: the name first, then its arguments bit by bit."""
        known = self._calls.setdefault(
            call.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        known["id"] = call.id or known["id"]
        if call.function is not None:
            known["function"]["name"] += call.function.name or ""
            known["function"]["arguments"] += self._size.take(call.function.arguments or "")

    def done(self) -> Done | None:
        """The end; None when the provider never said why it stopped.

        Some servers tell no usage: then the pieces counted stand for the answer's tokens, and the prompt's
        are unknown and counted as none.
        """
        if self._finish is None:
            return None
        calls = tuple(self._calls[index] for index in sorted(self._calls))
        if self._usage is None:
            return Done(self._finish, 0, self._tokens, calls)
        return Done(self._finish, self._usage.prompt_tokens, self._usage.completion_tokens, calls)


def _base_url(config: OpenAIConfig) -> str | None:
    """The address of another server than OpenAI's own, if there is one."""
    url = config.base_url or secret("OPENAI_BASE_URL")
    return None if url is None or OWN_API in url else url


def _client(config: OpenAIConfig) -> openai.AsyncOpenAI:
    silence = max(config.first_token_timeout, config.next_token_timeout)
    return openai.AsyncOpenAI(
        api_key=secret("OPENAI_API_KEY") or "none-needed",
        base_url=_base_url(config),
        max_retries=0,
        timeout=openai.Timeout(silence + 1, connect=CONNECT_TIMEOUT),
    )


def _without_key(text: str) -> str:
    key = secret("OPENAI_API_KEY")
    return text.replace(key, "***") if key else text
