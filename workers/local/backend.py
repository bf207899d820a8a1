"""llama.cpp inside the worker: a GGUF file, no server, no key.

`xllamacpp` computes in threads of its own. One thread for each conversation waits for it and hands each token to the
event loop, which therefore never blocks: heartbeats go on while the model computes. When a stream is closed, its next
token is the last one; while its prompt is read, the next batch of the prompt is.
"""

import asyncio
import os
import re
import secrets
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import xllamacpp
from pydantic import Field, field_validator

from contracts import BullpenError, Capability, ErrorCode, FinishReason, JsonObject, ModelCard
from workers.base import (
    Availability,
    Backend,
    BackendConfig,
    Delta,
    Done,
    Embedded,
    EmbeddingJob,
    Job,
    ModelConfig,
    Report,
    Usage,
)
from workers.base.host.resources import ResourceMeter
from workers.base.provider.chat import conversation, token_logprobs
from workers.base.provider.embeddings import listed
from workers.base.provider.errors import first_line, garbage, too_long
from workers.base.provider.overlap_trimmer import OverlapTrimmer
from workers.base.provider.plain_turns import plain_turns
from workers.base.provider.question import built, fault_before_asking
from workers.base.provider.streaming import patiently
from workers.local import bundled
from workers.local.gguf import chats, context_length, has_pooling, memory_needed, read_through
from workers.local.inspection import Inspection

SIBLINGS = "BULLPEN_SIBLINGS"
"""The environment variable with the number of workers of this backend that `bullpen up` runs on this machine, with any
config.
"""
LARGEST_WINDOW = 8192
"""The most tokens of a conversation with an added file: the window takes memory even when it is not used."""
ABLE: frozenset[Capability] = frozenset({"chat", "stream", "logprobs", "json", "prefill", "embed"})
TOO_LARGE = re.compile(r"input \((\d+) tokens\) is (?:too large|larger)")
CPU_BATCH = 64
"""Tokens of a prompt that are read at once. Meanwhile no other conversation gets a token, and no stream can be closed.
On a processor, larger batches are not faster.
"""
RANDOM_SEED = 2**32 - 1
"""llama.cpp's value for "no seed"; a caller's seed is kept below it."""
TURN = 1.0
"""Seconds without a piece after which a conversation checks whether others move: prompts are read in turn."""
WAITING: JsonObject = {"prompt_progress": {}}
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}
ALWAYS: JsonObject = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "return_progress": True,  # a piece for every batch of the prompt: a sign of life, and a chance to leave
    "logprobs": True,
    "top_logprobs": 1,  # with none of the alternatives it tells no probabilities at all
}


class LocalConfig(BackendConfig):
    models: tuple[ModelConfig, ...] = (ModelConfig(name=bundled.MODEL, context_window=2048, stand_in=True),)
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    max_tokens: Annotated[int, Field(ge=1)] | None = 256
    threads: Annotated[int, Field(ge=1)] | None = None
    """Processors to compute with. Left out: this worker's share of the processors that it may use, among its
    `replicas`.
    """
    gpu_layers: Annotated[int, Field(ge=0)] = 0

    @field_validator("models")
    @classmethod
    def _able(cls, models: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        claimed = {capability for model in models for capability in model.capabilities}
        if claimed - ABLE:
            raise ValueError(f"this backend cannot do {', '.join(sorted(claimed - ABLE))} yet, whatever the model can")
        if any({"chat", "embed"} <= set(model.capabilities) for model in models):
            raise ValueError("a model is loaded to chat or to embed: start a worker for each")
        return models


class LocalBackend(Backend[LocalConfig]):
    name = "local"
    config_class = LocalConfig
    takes = frozenset({"temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "logit_bias"})

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self._server: xllamacpp.Server | None = None
        self._window = 0
        self._goes_on = False
        self._key = secrets.token_hex(16)
        self._threads = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="llama")
        self._running = 0
        self._heard = 0.0
        """When any conversation last got a piece (loop's clock)."""

    @classmethod
    async def available(cls, config: LocalConfig) -> Availability:
        try:
            path = _file_of(_only(config.models))
        except BullpenError as error:
            return Availability.no(error.message, "`bullpen add ./model.gguf` serves a file that you have")
        return Availability.yes(f"model file {path.name}")

    @classmethod
    async def offered(cls, target: str, report: Report) -> JsonObject | None:
        """The config for a GGUF file or the bundled model, which is fetched if it is missing."""
        if target in bundled.NAMES:
            await asyncio.to_thread(bundled.fetch, report)
            return {}
        return await asyncio.to_thread(_config_for, Path(target))

    async def start(self, report: Report) -> None:
        model = _only(self.config.models)
        report(f"loading {model.name}")
        path = _file_of(model)
        if not _embeds(model):
            await _check_chats(path)
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._load, self._params(model, path))
        except (RuntimeError, ValueError, OSError) as error:
            why = f"cannot load {path}: is it a whole GGUF file, and is there enough memory?"
            told = f"{why} ({first_line(str(error))})"
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, told, field="models.0.options.path") from error

    def adopt(self, config: LocalConfig) -> bool:
        """Takes over the settings that llama.cpp did not need to load the model."""
        if _as_loaded(config) != _as_loaded(self.config):
            return False
        self.config = config
        return True

    async def memory_needed(self) -> int | None:
        """Bytes of the file and the conversations' caches, as far as the file says."""
        try:
            model = _only(self.config.models)
            return await asyncio.to_thread(memory_needed, _file_of(model), self._context(model))
        except (BullpenError, OSError, ValueError):
            return None  # `start` says what is wrong with it

    def _load(self, params: Any) -> None:
        """Loads the model; returns when it answers. (Dropping a server whose loop does not run yet would hang for
        ever.)

        llama.cpp stops the whole process while it loads. So the file is read first: from memory, loading takes 0.4 s
        for each 100 MB, from a disk many times as long.
        """
        read_through(Path(params.model.path))
        server = xllamacpp.Server(params)
        inside = Inspection(server.listening_address, self._key)
        self._window = inside.window()
        self._goes_on = not _embeds(_only(self.config.models)) and inside.goes_on()
        self._server = server

    def models(self) -> tuple[ModelCard, ...]:
        """The model's card: its window is llama.cpp's, never larger than the model was trained for, and its
        capabilities include `prefill` if it can continue an answer.
        """
        card = _only(self.config.models).card(local=True)
        claimed = tuple(capability for capability in card.capabilities if capability != "prefill")
        able = (*claimed, "prefill") if self._goes_on else claimed
        window = min(card.context_window, self._window)
        return (card.model_copy(update={"context_window": window, "capabilities": able}),)

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer, pieces = _Answer(job), self._pieces(job)

        async def ask() -> AsyncIterator[JsonObject]:
            return pieces

        try:
            async with aclosing(patiently(ask, answer.take, self.patience(job))) as deltas:
                async for delta in deltas:
                    yield delta
        except BullpenError as error:
            error.fault = error.fault or fault_before_asking(job)
            raise
        if (done := answer.done()) is not None:
            yield done

    async def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        """Reads one text after the other, so that closing the generator ends the work with the present text."""
        loop, left = asyncio.get_running_loop(), Event()
        self._heard = self._heard if self._running else loop.time()
        self._running += 1
        told: list[Embedded] = []
        try:
            for text in job.request.texts:
                told.append(await loop.run_in_executor(self._threads, self._vector, text, left))
                self._heard = loop.time()
                yield Delta("", 0)
        finally:
            self._running -= 1
            left.set()
        yield Embedded([one.vectors[0] for one in told], sum(one.prompt_tokens or 0 for one in told))

    def _vector(self, text: str, left: Event) -> Embedded:
        """The vector of one text. Raises `BullpenError`."""
        if left.is_set() or self._server is None:
            raise garbage("nothing: the request was left")
        answer: JsonObject = self._server.handle_embeddings({"input": [text], "encoding_format": "float"})
        if "error" in answer:
            raise _refusal(answer["error"])
        return listed(answer)

    async def _pieces(self, job: Job) -> AsyncIterator[JsonObject]:
        """llama.cpp's pieces of the answer, as they come. Raises `BullpenError`."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        left = Event()

        def on_piece(piece: JsonObject) -> bool:
            if not left.is_set():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            return left.is_set()

        body = built(self._body, job)
        computing = loop.run_in_executor(self._threads, self._compute, body, on_piece)
        computing.add_done_callback(lambda _: pieces.put_nowait(None))
        self._heard = self._heard if self._running else loop.time()
        self._running += 1
        try:
            while (piece := await self._next(pieces)) is not None:
                yield piece
            await computing
        finally:
            self._running -= 1
            left.set()
            computing.cancel()  # when it has not even begun

    async def _next(self, pieces: asyncio.Queue[JsonObject | None]) -> JsonObject | None:
        """The next piece; `WAITING` when other conversations had their turn meanwhile; None at the end."""
        clock = asyncio.get_running_loop().time
        heard = self._heard
        while True:
            try:
                async with asyncio.timeout(TURN):
                    piece = await pieces.get()
            except TimeoutError:
                if self._heard > heard:
                    return WAITING
            else:
                self._heard = clock()
                return piece

    def _compute(self, body: JsonObject, on_piece: Any) -> None:
        assert self._server is not None
        try:
            self._server.handle_chat_completions(body, on_piece)
        except ValueError as error:
            raise BullpenError(ErrorCode.INVALID_REQUEST, first_line(str(error))) from error
        except RuntimeError as error:
            raise garbage(str(error)) from error

    async def health(self) -> None:
        if self._server is None:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the model is not loaded")
        silent = asyncio.get_running_loop().time() - self._heard
        if self._running and silent > self.config.next_token_timeout:
            raise BullpenError(
                ErrorCode.UPSTREAM_ERROR, f"{self._running} answers wait, and none moved for {silent:.0f} s"
            )

    async def close(self) -> None:
        """Waits for the threads that still compute: a closed stream ends at its next piece."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._server = None

    def _context(self, model: ModelConfig) -> int:
        """Tokens of all conversations together."""
        return model.context_window * self.config.max_concurrency

    def _params(self, model: ModelConfig, path: Path) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = self.config.max_concurrency
        params.n_ctx = self._context(model)
        params.kv_unified = False  # every conversation has its whole window
        params.cache_ram_mib = 0  # or it keeps the conversations that ended, up to 8 GiB
        params.n_gpu_layers = self.config.gpu_layers
        if not self.config.gpu_layers:
            params.n_batch = params.n_ubatch = CPU_BATCH
        if _embeds(model):
            params.embedding = True
            params.n_batch = params.n_ubatch = model.context_window  # a text is read at once
            if not has_pooling(path):
                params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        params.cpuparams.n_threads = self.config.threads or _share_of_processors(self.config.replicas)
        params.verbosity = -1
        params.warmup = False
        params.fit_params = False
        params.ui = False
        params.n_threads_http = 1
        params.api_keys = [self._key]  # its own HTTP server is on loopback, and closed to everybody else
        return params

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        model = _only(self.config.models)
        turns = plain_turns(conversation(job))
        messages: list[JsonObject] = [{"role": message.role, "content": message.text} for message in turns]
        if model.options.get("system") and not any(m["role"] == "system" for m in messages):
            messages.insert(0, {"role": "system", "content": str(model.options["system"])})
        wanted: JsonObject = {
            "messages": messages,
            "temperature": request.temperature,
            "max_tokens": job.max_tokens,
            "top_p": request.top_p,
            "stop": [stop for stop in request.stops if stop] or None,
            "seed": None if request.seed is None else request.seed % RANDOM_SEED,
            "response_format": request.response_format,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
            "logit_bias": [[int(token), bias] for token, bias in (request.logit_bias or {}).items()] or None,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        return {**body, **ALWAYS, "top_logprobs": max(ALWAYS["top_logprobs"], request.top_logprobs or 0)}


def _config_for(file: Path) -> JsonObject | None:
    """The config of a worker for this file; None: there is no such file. Raises `BullpenError` when the file cannot be
    served.
    """
    path = file.expanduser().resolve()
    if not path.is_file():
        return None
    try:
        can = ["chat", "stream", "logprobs", "json"] if chats(path) else ["embed"]
        window = context_length(path)
    except (OSError, ValueError, struct.error) as error:
        raise BullpenError(ErrorCode.INVALID_REQUEST, f"{path} cannot be served: {error}") from None
    model = {
        "name": path.stem,
        "context_window": min(window or LARGEST_WINDOW, LARGEST_WINDOW),
        "capabilities": can,
        "options": {"path": str(path)},
    }
    return {"models": [model], "max_concurrency": 2, "max_tokens": 2048}


class _Answer:
    """Gathers an answer from llama.cpp's pieces."""

    def __init__(self, job: Job) -> None:
        self._seam = OverlapTrimmer(job.prefix, may_repeat=False)
        self._tells_tokens = job.request.logprobs
        self._begun = False
        self._finish: FinishReason | None = None
        self._usage: JsonObject | None = None
        self._read = self._kept = 0
        """Tokens of the prompt that were read, and those among them that an earlier conversation left in the cache."""
        self._written = 0

    def take(self, piece: JsonObject) -> Delta | None:
        """The text or the progress in a piece; None when it has neither. Raises `BullpenError` for an error."""
        if "error" in piece:
            raise _refusal(piece["error"])
        if "prompt_progress" in piece:
            if progress := piece["prompt_progress"]:
                self._read, self._kept = progress["processed"], progress["cache"]
            return None if self._begun else Delta("", 0, usage=self._used())
        self._usage = piece.get("usage") or self._usage
        for choice in piece.get("choices", []):
            if choice.get("finish_reason"):
                self._finish = FINISH.get(choice["finish_reason"], "stop")
            if text := choice["delta"].get("content"):
                self._begun = True
                tokens = (choice.get("logprobs") or {}).get("content") or []
                count, chances = max(1, len(tokens)), tuple(token["logprob"] for token in tokens)
                self._written += count
                told = token_logprobs(tokens) if self._tells_tokens else ()
                return Delta(self._seam.take(text), count, chances, self._used(), token_logprobs=told)
            if thought := choice["delta"].get("reasoning_content"):
                self._written += 1
                return Delta("", 0, usage=self._used(), reasoning=thought)  # no part of the answer, but a sign of life
        return None

    def _used(self) -> Usage:
        """The usage so far."""
        return Usage(self._read, self._written, self._kept)

    def done(self) -> Done | None:
        """The end of the answer; None when there was none: the answer was cut off."""
        if self._finish is None or self._usage is None:
            return None
        used, details = self._usage, self._usage.get("prompt_tokens_details") or {}
        return Done(
            self._finish, used["prompt_tokens"], used["completion_tokens"], cached_tokens=details.get("cached_tokens")
        )


def _share_of_processors(replicas: int) -> int:
    """The processors for this worker. llama.cpp's threads spin while they wait, so two workers on the same processors
    are twenty times slower, not two.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = ResourceMeter().read().cpu_limit or mine
    here = os.environ.get(SIBLINGS, "")
    return max(1, int(min(mine, limit)) // max(replicas, int(here) if here.isdecimal() else 1))


def _as_loaded(config: LocalConfig) -> list[object]:
    """The settings whose change needs a new object: all but those that are read for each question."""
    told = config.model_dump(include={"max_concurrency", "threads", "replicas", "gpu_layers"})
    return [told, *((m.name, m.context_window, m.capabilities, m.options.get("path")) for m in config.models)]


def _only(models: tuple[ModelConfig, ...]) -> ModelConfig:
    if len(models) != 1:
        why = f"a local worker serves one model, its config names {len(models)}"
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, why, field="models")
    return models[0]


def _file_of(model: ModelConfig) -> Path:
    """The model's GGUF file. Raises `BullpenError` when it is missing."""
    if path := model.options.get("path"):
        file, field = Path(str(path)).expanduser(), "models.0.options.path"
    elif model.name == bundled.MODEL:
        found = bundled.bundled_file()
        if found is None:
            why = (
                f"the bundled model is not here: `bullpen add {bundled.NAMES[-1]}` fetches it ({bundled.MEGABYTES} MB)"
            )
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, why, field="models.0.name")
        file, field = found, "models.0.name"
    else:
        cure = f"name its GGUF file as options.path; without, there is {bundled.MODEL}"
        why = f"there is no model {model.name} here: {cure}"
        raise BullpenError(ErrorCode.NO_SUCH_MODEL, why, field="models.0.name")
    if not file.is_file():
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"there is no model file {file}", field=field)
    return file


async def _check_chats(path: Path) -> None:
    """Raises `BullpenError` for a model that can only embed or rank. A broken file passes: the loader's error says
    more.
    """
    with suppress(OSError, ValueError):
        if not await asyncio.to_thread(chats, path):
            why = f"the model in {path} cannot chat: it embeds or ranks"
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, why, field="models.0.options.path")


def _embeds(model: ModelConfig) -> bool:
    return "embed" in model.capabilities


def _refusal(error: JsonObject) -> BullpenError:
    text = first_line(str(error.get("message", "")))
    if (large := TOO_LARGE.search(text)) is not None:
        return too_long(text, int(large[1]))
    if error.get("type") == "exceed_context_size_error":
        return too_long(text, error.get("n_prompt_tokens"))
    if error.get("code") == 400:
        return BullpenError(ErrorCode.INVALID_REQUEST, text)
    return BullpenError(ErrorCode.UPSTREAM_ERROR, text, fault="model")
