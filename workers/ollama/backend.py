"""A running Ollama, through its official client. Serves the models that are installed there, and pulls missing ones if
it may.

Closing the stream closes the connection, which makes Ollama stop computing.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from typing import Annotated, Any, cast

import httpx
import structlog
from pydantic import BeforeValidator, Field, field_validator

from config.loader import ConfigError, secret
from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from contracts.base import is_model_name
from workers.base import Availability, BackendConfig, Delta, Embedded, EmbeddingJob, Job, ModelConfig, Report
from workers.base.interface.config import Parameter
from workers.base.provider.chat import counted, tokens
from workers.base.provider.chat_models import Prober
from workers.base.provider.connection import CONNECT_TIMEOUT, QUICK, UNUSABLE, bounded, headers_seen, without
from workers.base.provider.embeddings import embedding, vector
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import garbage, refusal, too_long, unreachable
from workers.base.provider.frames import lines, reframe
from workers.base.provider.proxies import client_options
from workers.base.provider.remote_backend import RemoteBackend
from workers.ollama import settings
from workers.ollama.answer import Answer
from workers.ollama.catalogue import Catalogue
from workers.ollama.question import CALLS, STEERED, body_of
from workers.ollama.reading import mended
from workers.ollama.sdk import ollama
from workers.ollama.wordings import TOO_LONG

log = structlog.get_logger(__name__)

KEY = "OLLAMA_API_KEY"
"""The key that Ollama's client reads itself; servers behind a proxy may require one."""
WINDOW = "OLLAMA_CONTEXT_LENGTH"
"""The server's default number of tokens for a conversation, for servers that do not report it."""
LIMITED = 429
STREAMS = ("/api/chat", "/api/pull")
DEFAULT_HOST = "http://127.0.0.1:11434"
PULL_SILENCE = 600.0
"""Seconds of silence allowed during a pull: checking a large downloaded model takes long, and Ollama reports nothing
meanwhile.
"""
DESCRIBED_WITHIN = 60.0
"""Seconds in which Ollama has to describe its models."""
FAILURES = (ollama.ResponseError, ConnectionError, httpx.HTTPError, *UNUSABLE)


class OllamaConfig(BackendConfig):
    host: str | None = None
    """Address of Ollama. Left out: OLLAMA_HOST, or else this machine."""
    pull_missing: bool = False
    """Whether configured models that are not installed there are fetched."""
    keep_alive: Annotated[float | str | None, BeforeValidator(settings.keep_alive)] = None
    """How long Ollama keeps a model loaded after use: seconds (below 0: for ever), or a duration such as `10m`."""
    local: bool = True
    num_ctx: Annotated[int, Field(ge=256)] | None = None
    """Tokens of one conversation. Left out: the default of the model or of Ollama."""

    @field_validator("models")
    @classmethod
    def _taken(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        return tuple(model.model_copy(update={"options": settings.checked(model.options)}) for model in models)


class OllamaBackend(RemoteBackend[OllamaConfig]):
    name = "ollama"
    config_class = OllamaConfig
    takes = STEERED
    calls = CALLS
    answer = Answer
    failures = FAILURES
    config_cure = "correct OLLAMA_HOST"

    def __init__(self, config: OllamaConfig) -> None:
        super().__init__(config)
        self._client = _client(config, DESCRIBED_WITHIN)
        self._asking = _client(config, None)  # `patiently` ends a silence
        self._loaded: set[str] | None = None
        """The models in Ollama's memory at the last look. None: Ollama did not say."""
        self._prober = Prober(self.infer, lambda: None)
        self._catalogue = Catalogue(config, self._prober.chats, tokens(_number(secret(WINDOW)), 0))

    @classmethod
    async def offered(cls, target: str, report: Report) -> JsonObject | None:
        """The config for an Ollama at this address."""
        if not target.startswith(("http://", "https://")):
            return None
        report(f"asking {target}")
        found = await cls.available(OllamaConfig(host=target))
        return {"host": target} if found.available else None

    async def _available(self) -> Availability:
        try:
            async with asyncio.timeout(QUICK):
                installed = await self._installed()
        except (BullpenError, TimeoutError):
            cure = "start it with `ollama serve`, or set OLLAMA_HOST"
            return Availability.no(f"no Ollama answers at {_where(self.config)}", cure)
        if not installed and not (self.config.models and self.config.pull_missing):
            return Availability.no("Ollama has no model installed", "ollama pull llama3.2")
        return Availability.yes(f"Ollama at {_where(self.config)} has {len(installed)} models")

    async def start(self, report: Report) -> None:
        installed = await self._installed()
        if self.config.pull_missing:
            for model in self.config.models:
                if not _has(installed, model.name):
                    await self._pull(model.name, report)
            installed = await self._installed()
        await self._look(installed)
        unknown = self._unknown()
        if unknown and not self._catalogue.cards:
            report("asking the installed models whether they can chat")
            await self._prober.ask(unknown)
        self._check_service()
        await self._look_what_is_loaded()

    def models(self) -> tuple[ModelCard, ...]:
        return self._catalogue.cards

    async def _look(self, installed: Mapping[str, str]) -> None:
        """Reads the descriptions of the installed models. A broken model must not keep the others from being served."""
        self._catalogue.take(installed)
        for name in self._catalogue.undescribed:
            try:
                self._catalogue.describe(name, await self._client.show(name))
            except FAILURES as error:
                failure = self._told(error)
                if failure.fault == "worker":
                    raise failure from error
                self._catalogue.failures[name] = failure.message
                log.warning("model_left_out", model=name, reason=failure.message)
        self._prober.ask(self._unknown())

    def _unknown(self) -> list[ModelCard]:
        """Models that may get a test question, because it costs nothing."""
        return self._catalogue.unknown if self.config.local else []

    def _check_service(self) -> None:
        """Raises `BullpenError` when there is no model to serve."""
        cards = self._catalogue.cards
        if not cards:
            raise BullpenError(
                ErrorCode.UPSTREAM_ERROR,
                "Ollama has no chat model installed, and none that embeds: ollama pull llama3.2",
            )
        if not any(card.capabilities for card in cards):
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, cards[0].trouble)

    async def _ask(self, question: JsonObject, job: Job) -> AsyncIterator[ollama.ChatResponse]:
        pieces = cast("AsyncGenerator[ollama.ChatResponse]", await self._asking.chat(**question))
        return self._read(pieces, job.model.model_id)

    async def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        request, model = job.request, job.model.model_id

        async def ask() -> ollama.EmbedResponse:
            return await self._asking.embed(
                model=model,
                input=request.texts,
                truncate=request.truncate,
                dimensions=request.dimensions,
                options=self._options(model),
                keep_alive=self.config.keep_alive,
            )

        try:
            async with aclosing(embedding(ask, _vectors, self.patience(job))) as pieces:
                async for piece in pieces:
                    yield piece
        except FAILURES as error:
            raise self._told(error, headers_seen()) from error

    def has_to_load(self, model: str) -> bool:
        return self._loaded is not None and not _has(self._loaded, model)

    async def _read(
        self, pieces: AsyncGenerator[ollama.ChatResponse], model: str
    ) -> AsyncGenerator[ollama.ChatResponse]:
        """The same pieces. Raises errors with the answer's headers, which say how long a limit lasts and which the
        SDK's errors lack.
        """
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if piece.logprobs:
                        self._catalogue.with_logprobs.add(model)
                    yield piece
        except ollama.ResponseError as error:
            raise self._told(error, headers_seen()) from error

    async def health(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._look(await self._installed())
        except TimeoutError as error:
            raise unreachable(_where(self.config), error) from error
        self._check_service()
        await self._look_what_is_loaded()

    async def close(self) -> None:
        await self._prober.close()
        await self._client.close()
        await self._asking.close()

    async def _look_what_is_loaded(self) -> None:
        """Reads which models are loaded. Ollama unloads a model that is not used, or when another one needs its memory.
        Older servers do not say.
        """
        try:
            async with asyncio.timeout(QUICK):
                loaded = {str(model.model): model.context_length for model in (await self._client.ps()).models}
            self._loaded = set(loaded)
            self._catalogue.loaded(loaded)
        except (*FAILURES, TimeoutError):
            self._loaded = None

    async def _installed(self) -> dict[str, str]:
        """The digests of the installed models, by name; models whose names the mesh cannot use are left out."""
        try:
            listed = (await self._client.list()).models
            return {str(model.model): str(model.digest) for model in listed if is_model_name(model.model)}
        except FAILURES as error:
            raise self._told(error) from error

    async def _pull(self, name: str, report: Report) -> None:
        """Fetches a model and reports the progress. A model that cannot be fetched is out of service; the others are
        served.
        """
        report(f"pulling {name}")
        client = _client(self.config, PULL_SILENCE)
        try:
            async for step in await client.pull(name, stream=True):
                if step.total:
                    report(f"pulling {name}: {100 * (step.completed or 0) // step.total} %")
        except FAILURES as error:
            self._catalogue.failures[name] = self._told(error).message
        finally:
            await client.close()

    def _question(self, job: Job) -> JsonObject:
        return body_of(job, self._options(job.model.model_id), self.config.keep_alive)

    def _left_out(self, question: JsonObject, job: Job) -> Collection[Parameter]:
        unable: tuple[Parameter, ...] = ("reasoning_effort",)
        return () if question.get("think") else unable

    def _options(self, name: str) -> JsonObject:
        model = self.configured(name)
        return {**model.options, "num_ctx": self._catalogue.num_ctx(model)}

    def _told(self, error: Exception, headers: Mapping[str, str] | None = None) -> BullpenError:
        """The error that a failure means to the mesh."""
        said: object = error.error if isinstance(error, ollama.ResponseError) else str(error)
        said = said if isinstance(said, str) else json.dumps(said)
        text = without((secret(KEY) or "").strip(), said) or type(error).__name__
        if isinstance(error, ollama.ResponseError):
            told = read_error(text)
            if error.status_code != LIMITED and TOO_LONG.is_told(None, told):  # its engines say it with a 500
                return too_long(text, TOO_LONG.prompt_tokens(told))
            return refusal(error.status_code if error.status_code > 0 else None, told, headers)
        if isinstance(error, ConnectionError | httpx.HTTPError):
            return unreachable(_where(self.config), ConnectionError(text))
        return garbage(f"{type(error).__name__}: {text}")


def _vectors(told: ollama.EmbedResponse) -> Embedded:
    """The vectors. Older servers do not count their tokens."""
    return Embedded([vector(list(one)) for one in told.embeddings], counted(told.prompt_eval_count))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _host(config: OllamaConfig) -> str:
    return config.host or secret("OLLAMA_HOST") or DEFAULT_HOST


def _where(config: OllamaConfig) -> str:
    """The host for people: without user or password."""
    return _host(config).rpartition("@")[2]


def _client(config: OllamaConfig, silence: float | None) -> ollama.AsyncClient:
    """Ollama's client, which accepts `host`, `host:port` and addresses. Raises `ConfigError`."""
    timeout = httpx.Timeout(silence, connect=CONNECT_TIMEOUT)
    try:
        return ollama.AsyncClient(
            host=_host(config),
            timeout=timeout,
            event_hooks={"response": [bounded, _framed]},
            **client_options(_host(config)),
        )
    except (ValueError, httpx.InvalidURL):
        raise ConfigError(f"{_where(config)!r} is not where an Ollama could be: write host:port") from None


async def _framed(response: Any) -> None:
    """Rewrites the stream for the client, which accepts only lines with one object each."""
    if response.is_success and response.request.url.path.endswith(STREAMS):
        reframe(response, lines, mended)


def _has(installed: Collection[str], name: str) -> bool:
    return name in installed or f"{name}:latest" in installed
