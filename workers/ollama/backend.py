"""The official client against a running Ollama. Serves what is installed there, or pulls what is missing.

Closing the stream closes the connection, which is what makes Ollama stop computing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, cast

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
DESCRIBED_WITHIN = 60.0
"""Seconds in which Ollama says what it has."""
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
        self._client = _client(config, DESCRIBED_WITHIN)
        self._asking = _client(config, None)  # `patiently` ends a silence
        self._loaded: set[str] | None = None
        """The models in Ollama's memory when it was last asked. None: it did not say."""
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
        await self._look_what_is_loaded()

    def models(self) -> tuple[ModelCard, ...]:
        return self._models

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer = _Answer(job)
        body = body_of(job, self._options(job.model.model_id), self.config.keep_alive)

        async def ask() -> AsyncIterator[ollama.ChatResponse]:
            return cast("AsyncIterator[ollama.ChatResponse]", await self._asking.chat(**body))

        try:
            async with aclosing(patiently(ask, answer.take, self.patience(job))) as deltas:
                async for delta in deltas:
                    if answer.end is None or delta.text:
                        yield delta
                    if answer.end is not None:
                        break
        except FAILURES as error:
            raise self._told(error) from error
        if (done := answer.done()) is not None:
            yield done

    def has_to_load(self, model: str) -> bool:
        return self._loaded is not None and not _has(list(self._loaded), model)

    async def health(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._installed()
        except TimeoutError as error:
            raise unreachable(_where(self.config), error) from error
        await self._look_what_is_loaded()

    async def close(self) -> None:
        await self._client.close()
        await self._asking.close()

    async def _look_what_is_loaded(self) -> None:
        """Ollama lets go of a model that is not used, or when another one needs its room. Older servers don't tell."""
        try:
            async with asyncio.timeout(QUICK):
                self._loaded = {str(model.model) for model in (await self._client.ps()).models}
        except (*FAILURES, TimeoutError):
            self._loaded = None

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

    def _num_ctx(self, model: ModelConfig) -> int | None:
        return tokens(model.options.get("num_ctx"), 0) or self.config.num_ctx

    def _options(self, name: str) -> JsonObject:
        model = self.configured(name)
        return {**model.options, "num_ctx": self._num_ctx(model)}

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
        self.end: ollama.ChatResponse | None = None
        """The piece that says why the answer ends."""

    def take(self, chunk: ollama.ChatResponse) -> Delta | None:
        delta = self._delta(chunk)
        if not chunk.done:
            return delta
        self.end = chunk
        delta = delta or Delta("", 0)
        return replace(delta, text=delta.text + self._seam.end())  # what might have been the answer's start once more

    def _delta(self, chunk: ollama.ChatResponse) -> Delta | None:
        calls = chunk.message.tool_calls or ()
        for call in calls:
            self._calls.append(self._size.call(call.function.name, call.function.arguments))
        if not chunk.message.content:
            # A call is a part of the answer; a thought is not shown, but something moves.
            return Delta("", len(calls)) if calls or chunk.message.thinking else None
        chances = logprobs(token.logprob for token in chunk.logprobs or ())
        self._said = True
        return Delta(self._seam.take(self._size.take(chunk.message.content)), max(1, len(chances)), chances)

    def done(self) -> Done | None:
        """The end; None when there was none.

        Older servers leave out the count of a prompt that they had read before: then it is unknown.
        """
        if (chunk := self.end) is None:
            return None
        finish: FinishReason = "tool_calls" if self._calls else FINISH.get(chunk.done_reason or "", "stop")
        answered = self._said or bool(self._calls)
        used = plausible(Usage(counted(chunk.prompt_eval_count), counted(chunk.eval_count)), answered=answered)
        return Done(finish, used.prompt_tokens, used.completion_tokens, tuple(self._calls))


def _host(config: OllamaConfig) -> str:
    return config.host or secret("OLLAMA_HOST") or DEFAULT_HOST


def _where(config: OllamaConfig) -> str:
    """The host as it is shown to people: without user or password."""
    return _host(config).rpartition("@")[2]


def _client(config: OllamaConfig, silence: float | None) -> ollama.AsyncClient:
    """The client takes `host`, `host:port` and addresses alike. Raises `ConfigError`."""
    timeout = httpx.Timeout(silence, connect=CONNECT_TIMEOUT)
    try:
        return ollama.AsyncClient(
            host=_host(config), timeout=timeout, event_hooks={"response": [bounded, _without_blank_lines]}
        )
    except (ValueError, httpx.InvalidURL):
        raise ConfigError(f"{_where(config)!r} is not where an Ollama could be: write host:port") from None


async def _without_blank_lines(response: Any) -> None:
    """Servers and proxies send them to keep a connection alive; the client takes every line for an object."""
    read = response.aiter_lines

    async def lines() -> AsyncIterator[str]:
        async for line in read():
            if line.strip():
                yield line

    response.aiter_lines = lines


def _has(installed: list[str], name: str) -> bool:
    return name in installed or f"{name}:latest" in installed
