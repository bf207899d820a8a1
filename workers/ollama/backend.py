"""The official client against a running Ollama. Serves what is installed there, or pulls what is missing.

Closing the stream closes the connection, which is what makes Ollama stop computing.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, cast

import httpx
import ollama
from pydantic import Field
from pydantic_core import to_json

from contracts import BullpenError, Capability, ChatMessage, ErrorCode, FinishReason, JsonObject, ModelCard, new_id
from contracts.settings import secret
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report
from workers.base.chat import SizeGuard, split_data_url
from workers.base.patience import patiently
from workers.base.provider_errors import from_status, garbage, unreachable

DEFAULT_HOST = "http://127.0.0.1:11434"
CONNECT_TIMEOUT = 5.0
DEFAULT_WINDOW = 4096
"""What Ollama gives a conversation when nobody sets `num_ctx`."""
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
CAPABILITIES: dict[str, Capability] = {"tools": "tools", "vision": "vision"}


Chunks = AsyncGenerator[ollama.ChatResponse, None]


class OllamaConfig(BackendConfig):
    host: str | None = None
    """Where Ollama runs; else OLLAMA_HOST, else this machine."""
    pull_missing: bool = False
    """Fetch configured models that are not installed there."""
    keep_alive: str | None = None
    """How long Ollama keeps a model loaded after use, for example `10m`."""
    local: bool = True
    num_ctx: Annotated[int, Field(ge=256)] | None = None
    """Tokens of one conversation; Ollama's own default when left out."""


class OllamaBackend(Backend[OllamaConfig]):
    name = "ollama"
    config_class = OllamaConfig

    def __init__(self, config: OllamaConfig) -> None:
        super().__init__(config)
        self._client = _client(config, max(config.first_token_timeout, config.next_token_timeout) + 1)
        self._models: tuple[ModelCard, ...] = ()

    @classmethod
    async def available(cls, config: OllamaConfig) -> Availability:
        client = _client(config, 1.5)
        try:
            installed = await client.list()
        except (ConnectionError, httpx.HTTPError, ollama.ResponseError):
            cure = "start it with `ollama serve`, or set OLLAMA_HOST"
            return Availability.no(f"no Ollama answers at {_host(config)}", cure)
        finally:
            await client.close()
        if not installed.models and not (config.models and config.pull_missing):
            return Availability.no("Ollama has no model installed", "ollama pull llama3.2")
        return Availability.yes(f"Ollama at {_host(config)} has {len(installed.models)} models")

    async def start(self, report: Report) -> None:
        try:
            installed = [str(model.model) for model in (await self._client.list()).models]
            wanted = self.config.models or tuple(ModelConfig(name=name) for name in installed)
            for model in wanted:
                if not _has(installed, model.name):
                    await self._pull(model.name, report)
            self._models = tuple([await self._card(model) for model in wanted])
        except Exception as error:
            raise self._told(error) from error
        if not self._models:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "Ollama has no model installed: ollama pull llama3.2")

    def models(self) -> tuple[ModelCard, ...]:
        return self._models

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        size, calls = SizeGuard(job.max_tokens), list[JsonObject]()
        done: Done | None = None
        try:
            chunks = cast("Chunks", await self._client.chat(**self._body(job)))
            async with aclosing(patiently(chunks, self.config)) as pieces:
                async for chunk in pieces:
                    calls += [_call(call) for call in chunk.message.tool_calls or ()]
                    if chunk.message.content:
                        logprobs = tuple(token.logprob for token in chunk.logprobs or ())
                        yield Delta(size.take(chunk.message.content), max(1, len(logprobs)), logprobs)
                    if chunk.done:
                        done = _done(chunk, calls)
        except Exception as error:
            raise self._told(error) from error
        if done is not None:
            yield done

    async def health(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._client.list()
        except Exception as error:
            raise self._told(error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _pull(self, name: str, report: Report) -> None:
        """Fetches a model, telling how far it is. Raises `BullpenError` when the config does not allow it."""
        if not self.config.pull_missing:
            raise BullpenError(
                ErrorCode.NO_SUCH_MODEL, f"{name} is not installed there: ollama pull {name}, or set pull_missing: true"
            )
        report(f"pulling {name}")
        async for step in await self._client.pull(name, stream=True):
            if step.total:
                report(f"pulling {name}: {100 * (step.completed or 0) // step.total} %")

    async def _card(self, model: ModelConfig) -> ModelCard:
        """The model as Ollama describes it: what it can do, and how long a conversation may be."""
        shown = await self._client.show(model.name)
        known = {CAPABILITIES[name] for name in shown.capabilities or () if name in CAPABILITIES}
        trained = [
            v for k, v in (shown.modelinfo or {}).items() if k.endswith(".context_length") and isinstance(v, int)
        ]
        window = min([self.config.num_ctx or DEFAULT_WINDOW, *trained])
        capabilities: tuple[Capability, ...] = ("chat", "stream", "json", *sorted(known))
        aliases = model.aliases or ((model.name.removesuffix(":latest"),) if model.name.endswith(":latest") else ())
        card = model.card(local=self.config.local)
        return card.model_copy(update={"context_window": window, "capabilities": capabilities, "aliases": aliases})

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        own = next((m.options for m in self.config.models if m.name == job.model.model_id), {})
        options: JsonObject = {
            "temperature": request.temperature,
            "num_predict": job.max_tokens,
            "top_p": request.top_p,
            "stop": list(request.stops) or None,
            "seed": request.seed,
            "num_ctx": self.config.num_ctx,
            **own,
        }
        messages = [_message(message) for message in request.conversation]
        if job.prefix:
            messages.append({"role": "assistant", "content": job.prefix})
        return {
            "model": job.model.model_id,
            "messages": messages,
            "tools": list(request.tools) if request.tools else None,
            "format": _format(request.response_format),
            "options": {key: value for key, value in options.items() if value is not None},
            "keep_alive": self.config.keep_alive,
            "logprobs": True if "logprobs" in job.model.capabilities else None,
            "stream": True,
        }

    def _told(self, error: Exception) -> BullpenError:
        """What a failure means to the mesh. Cancellation is no `Exception` and passes by."""
        match error:
            case BullpenError():
                return error
            case ollama.ResponseError():
                return from_status(error.status_code if error.status_code > 0 else 500, error.error)
            case ConnectionError() | httpx.TransportError() | TimeoutError():
                return unreachable(_host(self.config), error)
            case _:
                return garbage(f"{type(error).__name__}: {error}")


def _host(config: OllamaConfig) -> str:
    return config.host or secret("OLLAMA_HOST") or DEFAULT_HOST


def _client(config: OllamaConfig, silence: float) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=_host(config), timeout=httpx.Timeout(silence, connect=CONNECT_TIMEOUT))


def _has(installed: list[str], name: str) -> bool:
    return name in installed or f"{name}:latest" in installed


def _message(message: ChatMessage) -> JsonObject:
    told: JsonObject = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.images:
        told["images"] = [split_data_url(url)[1] for url in message.images]
    if message.name and message.role == "tool":
        told["tool_name"] = message.name
    return told


def _format(wanted: JsonObject | None) -> Any:
    """Ollama takes `json`, or a schema."""
    if wanted is None or wanted.get("type") == "text":
        return None
    return wanted.get("json_schema", {}).get("schema") or "json"


def _call(call: ollama.Message.ToolCall) -> JsonObject:
    function = call.function
    arguments = to_json(function.arguments).decode()
    return {"id": new_id(), "type": "function", "function": {"name": function.name, "arguments": arguments}}


def _done(chunk: ollama.ChatResponse, calls: list[JsonObject]) -> Done:
    finish: FinishReason = "tool_calls" if calls else FINISH.get(chunk.done_reason or "stop", "stop")
    return Done(finish, chunk.prompt_eval_count or 0, chunk.eval_count or 0, tuple(calls))
