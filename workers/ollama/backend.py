"""The official client against a running Ollama. Serves what is installed there, or pulls what is missing.

Closing the stream closes the connection, which is what makes Ollama stop computing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, cast

import httpx
import ollama
import structlog
from pydantic import Field

from config.loader import ConfigError, secret
from contracts import BullpenError, Capability, ErrorCode, FinishReason, JsonObject, ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report, Usage
from workers.base.provider.chat import SizeGuard, counted, logprobs, plausible, tokens
from workers.base.provider.connection import CONNECT_TIMEOUT, QUICK, UNUSABLE, bounded, without
from workers.base.provider.errors import from_status, garbage, unreachable
from workers.base.provider.overlap_trimmer import OverlapTrimmer
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently
from workers.ollama.question import body_of, goes_on

log = structlog.get_logger(__name__)

KEY = "OLLAMA_API_KEY"
"""Read by the client itself; servers behind a proxy want one."""
DEFAULT_HOST = "http://127.0.0.1:11434"
DEFAULT_WINDOW = 4096
"""What Ollama gives a conversation when nobody sets `num_ctx`."""
PULL_SILENCE = 600.0
"""Seconds: checking a large model that was just fetched takes long, and nothing is told meanwhile."""
FINISH: dict[str, FinishReason] = {"length": "length"}
UNTOLD: tuple[Capability, ...] = ("logprobs", "prefill")
"""What a model may have without Ollama telling so: the config's word counts."""
CAPABILITIES: dict[str, Capability] = {"tools": "tools", "vision": "vision"}
FAILURES = (ollama.ResponseError, ConnectionError, httpx.HTTPError, *UNUSABLE)


class OllamaConfig(BackendConfig):
    host: str | None = None
    """Where Ollama runs; else OLLAMA_HOST, else this machine."""
    pull_missing: bool = False
    """Fetch configured models that are not installed there."""
    keep_alive: str | None = None
    """How long Ollama keeps a model loaded after use, for example `10m`."""
    local: bool = True
    num_ctx: Annotated[int, Field(ge=256)] | None = None
    """Tokens of one conversation; the model's or Ollama's own default when left out."""


class OllamaBackend(Backend[OllamaConfig]):
    name = "ollama"
    config_class = OllamaConfig

    def __init__(self, config: OllamaConfig) -> None:
        super().__init__(config)
        self._client = _client(config, max(config.first_token_timeout, config.next_token_timeout) + 1)
        self._models: tuple[ModelCard, ...] = ()

    @classmethod
    async def available(cls, config: OllamaConfig) -> Availability:
        try:
            backend = cls(config)
        except ConfigError as error:
            return Availability.no(str(error), "correct OLLAMA_HOST")
        try:
            async with asyncio.timeout(QUICK):
                installed = await backend._installed()
        except (BullpenError, TimeoutError):
            cure = "start it with `ollama serve`, or set OLLAMA_HOST"
            return Availability.no(f"no Ollama answers at {_where(config)}", cure)
        finally:
            await backend.close()
        if not installed and not (config.models and config.pull_missing):
            return Availability.no("Ollama has no model installed", "ollama pull llama3.2")
        return Availability.yes(f"Ollama at {_where(config)} has {len(installed)} models")

    async def start(self, report: Report) -> None:
        installed = await self._installed()
        for model in self.config.models:
            if not _has(installed, model.name):
                await self._pull(model.name, report)
        cards = [await self._card(model) for model in self.config.models]
        if not self.config.models:
            cards = [await self._found(name) for name in installed]
        self._models = tuple(card for card in cards if card is not None)
        if not self._models:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "Ollama has no chat model installed: ollama pull llama3.2")

    def models(self) -> tuple[ModelCard, ...]:
        return self._models

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer = _Answer(job)
        body = built(self._question, job)

        async def ask() -> AsyncIterator[ollama.ChatResponse]:
            return cast("AsyncIterator[ollama.ChatResponse]", await asked(self._client.chat(**body), job))

        try:
            async with aclosing(patiently(ask, self.config)) as chunks:
                async for chunk in chunks:
                    if (delta := answer.take(chunk)) is not None:
                        yield delta
                    if chunk.done:
                        if (rest := answer.rest()) is not None:
                            yield rest
                        yield answer.done(chunk)
                        return
        except FAILURES as error:
            raise self._told(error) from error

    async def health(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._installed()
        except TimeoutError as error:
            raise unreachable(_where(self.config), error) from error

    async def close(self) -> None:
        await self._client.close()

    async def _installed(self) -> list[str]:
        try:
            return [str(model.model) for model in (await self._client.list()).models]
        except FAILURES as error:
            raise self._told(error) from error

    async def _pull(self, name: str, report: Report) -> None:
        """Fetches a model, telling how far it is. Raises `BullpenError` when the config does not allow it."""
        if not self.config.pull_missing:
            raise BullpenError(
                ErrorCode.NO_SUCH_MODEL, f"{name} is not installed there: ollama pull {name}, or set pull_missing: true"
            )
        report(f"pulling {name}")
        client = _client(self.config, PULL_SILENCE)
        try:
            async for step in await client.pull(name, stream=True):
                if step.total:
                    report(f"pulling {name}: {100 * (step.completed or 0) // step.total} %")
        except FAILURES as error:
            raise self._told(error) from error
        finally:
            await client.close()

    async def _found(self, name: str) -> ModelCard | None:
        """One of the models that just happen to be there: a broken one must not keep the others from serving."""
        try:
            return await self._card(ModelConfig(name=name))
        except BullpenError as error:
            log.warning("model_left_out", model=name, reason=error.message)
            return None

    async def _card(self, model: ModelConfig) -> ModelCard | None:
        """The model as Ollama describes it: what it can do, and how long a conversation may be. None: it can't chat."""
        try:
            shown = await self._client.show(model.name)
        except FAILURES as error:
            raise self._told(error) from error
        described = shown.capabilities or ["completion"]
        if "completion" not in described:
            return None
        known = {"chat", "stream", "json", *(CAPABILITIES[name] for name in described if name in CAPABILITIES)}
        known.update(capability for capability in model.capabilities if capability in UNTOLD)
        if goes_on(shown):
            known.add("prefill")
        alias = (model.name.removesuffix(":latest"),) if model.name.endswith(":latest") else ()
        changed = {
            "context_window": self._window(model, shown),
            "capabilities": tuple(sorted(known)),
            "aliases": model.aliases or alias,
        }
        return model.card(local=self.config.local).model_copy(update=changed)

    def _window(self, model: ModelConfig, shown: ollama.ShowResponse) -> int:
        """Tokens of one conversation: what is asked for, else the Modelfile's; never more than it was trained for."""
        told = dict(line.split(None, 1) for line in (shown.parameters or "").splitlines() if " " in line.strip())
        own = str(told.get("num_ctx", ""))
        wanted = self._num_ctx(model) or (int(own) if own.isdecimal() else DEFAULT_WINDOW)
        info = (shown.modelinfo or {}).items()
        trained = [tokens(value, 0) for name, value in info if name.endswith(".context_length")]
        return min([wanted, *(window for window in trained if window)])

    def _num_ctx(self, model: ModelConfig | None) -> int | None:
        own = tokens(model.options.get("num_ctx"), 0) if model else 0
        return own or self.config.num_ctx

    def _question(self, job: Job) -> JsonObject:
        return body_of(job, self._options(job.model.model_id), self.config.keep_alive)

    def _options(self, name: str) -> JsonObject:
        model = next((model for model in self.config.models if model.name == name), None)
        return {**(model.options if model else {}), "num_ctx": self._num_ctx(model)}

    def _told(self, error: Exception) -> BullpenError:
        """What a failure means to the mesh."""
        said = error.error if isinstance(error, ollama.ResponseError) else error
        text = without((secret(KEY) or "").strip(), str(said)) or type(error).__name__
        if isinstance(error, ollama.ResponseError):
            return from_status(error.status_code if error.status_code > 0 else 500, text)
        if isinstance(error, ConnectionError | httpx.HTTPError):
            return unreachable(_where(self.config), ConnectionError(text))
        return garbage(f"{type(error).__name__}: {text}")


class _Answer:
    """Gathers the pieces of one answer."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._seam = OverlapTrimmer(job.prefix)
        self._calls: list[JsonObject] = []
        self._said = False

    def take(self, chunk: ollama.ChatResponse) -> Delta | None:
        for call in chunk.message.tool_calls or ():
            self._calls.append(self._size.call(call.function.name, call.function.arguments))
        if not chunk.message.content:
            return Delta("", 0) if chunk.message.thinking else None  # it is not shown, but something moves
        chances = logprobs(token.logprob for token in chunk.logprobs or ())
        self._said = True
        return Delta(self._seam.take(self._size.take(chunk.message.content)), max(1, len(chances)), chances)

    def rest(self) -> Delta | None:
        """What was held back because it might have been the start of the answer once more."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    def done(self, chunk: ollama.ChatResponse) -> Done:
        """The end. Older servers leave out the count of a prompt that they had read before: then it is unknown."""
        finish: FinishReason = "tool_calls" if self._calls else FINISH.get(chunk.done_reason or "", "stop")
        answered = self._said or bool(self._calls)
        used = plausible(Usage(counted(chunk.prompt_eval_count), counted(chunk.eval_count)), answered=answered)
        return Done(finish, used.prompt_tokens, used.completion_tokens, tuple(self._calls))


def _host(config: OllamaConfig) -> str:
    return config.host or secret("OLLAMA_HOST") or DEFAULT_HOST


def _where(config: OllamaConfig) -> str:
    """The host as it is shown to people: without user or password."""
    return _host(config).rpartition("@")[2]


def _client(config: OllamaConfig, silence: float) -> ollama.AsyncClient:
    """The client takes `host`, `host:port` and addresses alike. Raises `ConfigError`."""
    timeout = httpx.Timeout(silence, connect=CONNECT_TIMEOUT)
    try:
        return ollama.AsyncClient(host=_host(config), timeout=timeout, event_hooks={"response": [bounded]})
    except (ValueError, httpx.InvalidURL):
        raise ConfigError(f"{_where(config)!r} is not where an Ollama could be: write host:port") from None


def _has(installed: list[str], name: str) -> bool:
    return name in installed or f"{name}:latest" in installed
