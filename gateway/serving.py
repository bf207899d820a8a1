"""One HTTP request to a model: find the caller, read the request, ask the mesh, and write the answer in the client's
dialect.

Read `answer` for the course of a request. When a client leaves, its handler is cancelled, and the request to the mesh
with it. There is one exception: an unstreamed request with an `Idempotency-Key` is finished, because its client will
come back for the answer.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import structlog
from aiohttp.web import BaseRequest, Response, StreamResponse

from bus import BusError, Tasks, tracing
from bus.role_status import Figure
from bus.tasks import Idle
from client import Bullpen, Options
from contracts import Answer, BullpenError, EmbeddingResponse, ErrorCode, InferenceResponse, JsonObject, new_id
from contracts.embedding import joined
from gateway.config import GatewayConfig
from gateway.connection import Connection
from gateway.cors import check_origin, preflight, readable
from gateway.dialects import Asked, Dialect, Refused
from gateway.dialects.about import about, ids, visible
from gateway.http import JSON, Failure, body_of, headers_of, json_object
from gateway.keys import Caller, Callers
from gateway.models import Models
from gateway.streaming import AnswerStream, ReaderTooSlow
from gateway.timing import SERVER_TIMING, Timing
from gateway.undelivered import KEPT, Undelivered, is_repeat, name_of

log = structlog.get_logger(__name__)

IDEMPOTENCY_KEY = "Idempotency-Key"
IGNORED = "x-bullpen-ignored"
REPLAYED = "x-bullpen-replayed"
LONGEST_KEY = 128
LEAVE_MS = AGAIN_MS = 1000
LAST_WORDS_WITHIN = 2.0
"""Seconds in which a stream that the gateway ends may still send its error."""


class Answering:
    def __init__(self, bullpen: Bullpen, models: Models, callers: Callers, config: GatewayConfig) -> None:
        self._bullpen = bullpen
        self._models = models
        self._callers = callers
        self._config = config
        self._tasks = Tasks("answers")
        """Requests that are finished even when their client has left."""
        self._streams: set[AnswerStream] = set()
        self._streams_of: Counter[str] = Counter()
        """How many are open, by the key's id."""
        self._undelivered = Undelivered()
        self.idle = Idle()
        self.leaving = False
        self._answered = self._failed = self._left = self._slow = 0

    async def answer(self, request: BaseRequest, dialect: Dialect) -> StreamResponse:
        """Answers a request. Raises only when the client is gone."""
        request_id = new_id()
        span = _span(request, request_id)
        with self.idle.busy():
            headers, timing = readable(self._config.origins, request.headers), Timing()
            try:
                response = await self._answer(request, dialect, request_id, headers, timing)
                self._answered += 1
                span.end()
                return response
            except (asyncio.CancelledError, ConnectionError):
                self._left += 1
                span.end("cancelled", "the client left")
                raise
            except ReaderTooSlow:
                self._slow += 1
                span.end("cancelled", "the client reads nothing")
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionResetError("the client reads nothing any more") from None
            except Exception as error:
                if not isinstance(error, Refused | BullpenError):
                    log.exception("http_request_failed", request_id=request_id)
                self._failed += 1
                failure = Failure.of(error, keyed=IDEMPOTENCY_KEY in request.headers)
                headers[SERVER_TIMING] = timing.told()
                span.tell(http__response__status_code=failure.status)
                span.end(failure.code)
                return failure.answer(dialect, request_id, headers)

    async def _answer(
        self, request: BaseRequest, dialect: Dialect, request_id: str, headers: dict[str, str], timing: Timing
    ) -> StreamResponse:
        """Answers a request. `headers`: filled with headers for the answer, also for an error's."""
        if self.leaving:
            headers["Connection"] = "close"
            raise BullpenError(ErrorCode.DRAINING, "this gateway is leaving, ask again", retry_after_ms=LEAVE_MS)
        caller = self.admit(request)
        body = await body_of(request, limit=self._config.body_limit, within=self._config.body_within)
        asked = dialect.read(json_object(body), headers_of(request))
        if asked.ignored:
            headers[IGNORED] = visible(", ".join(asked.ignored))
        if not caller.may_ask(self._models.meant(asked.model)):
            why = f"this API key may not ask for {asked.model}"
            raise Refused(why, "model", 403, "model_not_allowed")
        questions = self._questions(asked, caller, request_id, _key_of(request))
        writer = dialect.writer(asked, request_id, int(time.time()))
        if not questions:
            return Response(body=writer.whole(()), headers={**headers, **ids(request_id)}, content_type=JSON)
        if asked.stream:
            self._check_streams(caller)
        name = None if asked.stream or IDEMPOTENCY_KEY in request.headers else _name(request, caller, body)
        if name is not None and is_repeat(request.headers) and (lost := self._undelivered.take(name)):
            return self._whole_answer(request, lost.body, {**lost.headers, REPLAYED: "true"}, name)
        caller.begin(1 if asked.kind == "embed" else asked.answers)
        timing.asked()
        if asked.stream:
            headers |= ids(request_id)
            return await self._stream(AnswerStream(request, writer, headers, timing), questions, caller)
        ask = self._embed_all if asked.kind == "embed" else self._ask_all
        answers = await self._whole(request, ask(questions), caller)
        told = {**about(answers[0]), **headers, SERVER_TIMING: timing.told(answers)}
        written = asyncio.to_thread(writer.whole, answers) if asked.kind == "embed" else None
        return self._whole_answer(request, await written if written else writer.whole(answers), told, name)

    def _whole_answer(
        self, request: BaseRequest, body: bytes, headers: Mapping[str, str], name: bytes | None
    ) -> Response:
        """`name`: of the question, under which its answer is kept until it has arrived."""
        if name is not None and isinstance(connection := request.protocol, Connection):
            written = self._undelivered.keep(name, body, headers)
            if written is not None:
                asyncio.get_running_loop().call_later(KEPT, written.forget)
            connection.writes(written)
        return Response(body=body, headers=headers, content_type=JSON)

    def _check_streams(self, caller: Caller) -> None:
        """Raises `BullpenError(rate_limited)` when the key has too many streams open."""
        most = self._config.streams_per_key
        if caller.key_id and self._streams_of[caller.key_id] >= most:
            why = f"this API key has {most} streams open, which is as many as it may"
            raise BullpenError(ErrorCode.RATE_LIMITED, why, retry_after_ms=AGAIN_MS)

    def admit(self, request: BaseRequest) -> Caller:
        """Finds the caller. Raises `Refused` (401, 403)."""
        check_origin(self._config.origins, request.headers)
        return self._callers.admit(request.headers)

    def page_headers(self, request: BaseRequest) -> dict[str, str]:
        """Headers for an answer that is no model's: they let a listed site's page read it."""
        return readable(self._config.origins, request.headers)

    def preflight(self, request: BaseRequest) -> Response:
        """The answer to a browser's OPTIONS request, which has no key."""
        told = preflight(self._config.origins, request.headers)
        return Response(status=204 if told else 403, headers=told)

    def reconfigure(self, config: GatewayConfig) -> None:
        """Uses other settings, from the next request on."""
        self._config = config

    def _questions(self, asked: Asked, caller: Caller, request_id: str, key: str | None) -> list[Options]:
        """The requests to the mesh, one for each wanted answer. Raises `Refused`."""
        fields: JsonObject = {"deadline_ms": int(self._config.deadline * 1000), **asked.request}
        now = asyncio.get_running_loop().time()
        fields |= self._models.resolve(asked.model, now, caller.may_ask)
        self._models.check_serves(asked.kind, fields, now, caller.may_ask)
        if caller.tenant is not None:
            fields["metadata"] = {**(fields.get("metadata") or {}), "tenant": caller.tenant}
        if asked.stream:
            fields["continuation"] = "seamless"
        wanted = [{**fields, **part} for part in asked.parts for _ in range(asked.copies)]
        return [_question(one, request_id, key, index, len(wanted)) for index, one in enumerate(wanted)]

    async def _stream(self, stream: AnswerStream, questions: Sequence[Options], caller: Caller) -> StreamResponse:
        self._streams.add(stream)
        self._streams_of[caller.key_id] += 1
        try:
            return await stream.send(
                self._bullpen,
                questions,
                keep_alive_every=self._config.keep_alive_every,
                slow_reader_timeout=self._config.slow_reader_timeout,
            )
        finally:
            self._streams.discard(stream)
            self._streams_of.subtract([caller.key_id])
            if not self._streams_of[caller.key_id]:
                del self._streams_of[caller.key_id]
            caller.used(sum(final.tokens_used for final in stream.finals))

    async def _whole(
        self, request: BaseRequest, asking: Coroutine[Any, Any, Sequence[Answer]], caller: Caller
    ) -> Sequence[Answer]:
        if IDEMPOTENCY_KEY in request.headers:  # the client comes back for it
            answers: Sequence[Answer] = await asyncio.shield(self._tasks.start(asking, "keyed"))
        else:
            answers = await asking
        caller.used(sum(answer.tokens_used for answer in answers))
        return answers

    async def _ask_all(self, questions: Sequence[Options]) -> list[InferenceResponse]:
        """All answers. Raises the first failure, and cancels the other requests."""
        if len(questions) == 1:
            return [await self._ask(questions[0])]
        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._ask(question)) for question in questions]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in asked]

    async def _embed_all(self, questions: Sequence[Options]) -> list[EmbeddingResponse]:
        """The vectors of all parts as one answer, from the model that answers the first part."""
        first = await self._embed(questions[0])
        model: JsonObject = {"model": first.model_id, "backend": first.backend}
        try:
            async with asyncio.TaskGroup() as group:
                rest = [group.create_task(self._embed({**question, **model})) for question in questions[1:]]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [joined([first, *(task.result() for task in rest)])]

    async def _embed(self, question: Mapping[str, Any]) -> EmbeddingResponse:
        texts = question["input"]
        try:
            return await self._bullpen.embed(texts, **{**question, "encoding_format": "base64"})
        except BusError as error:
            raise BullpenError(ErrorCode.NO_WORKER, str(error)) from None

    async def _ask(self, question: Options) -> InferenceResponse:
        try:
            return await self._bullpen.ask(**question)
        except BusError as error:
            raise BullpenError(ErrorCode.NO_WORKER, str(error)) from None

    # Leaving, and how it is

    async def finish(self, within: float) -> None:
        """Takes no new request, and waits for those under way; after `within` seconds it ends them."""
        self.leaving = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self.idle.wait()
                await self._tasks.finished()
        for stream in self._streams:
            stream.end_with(BullpenError(ErrorCode.DRAINING, "this gateway is leaving, ask again"))
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_WITHIN):
                await self.idle.wait()
        await self._tasks.cancel()

    def figures(self) -> Iterator[Figure]:
        """The figures for `/metrics`."""
        yield Figure("http_requests_running", "Requests that are being answered", len(self.idle))
        yield Figure("http_streams_running", "Streams among them", len(self._streams))
        yield Figure("http_requests_answered_total", "Requests that were answered", self._answered, "counter")
        yield Figure("http_requests_failed_total", "Requests that ended with an error", self._failed, "counter")
        yield Figure("http_clients_left_total", "Clients that left before the end", self._left, "counter")
        yield Figure("http_slow_readers_total", "Clients cut off because they read nothing", self._slow, "counter")


def _key_of(request: BaseRequest) -> str | None:
    """The idempotency key of the request. Raises `Refused` for an invalid one."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise Refused(f"{IDEMPOTENCY_KEY} should have 1 to {LONGEST_KEY} printable characters", IDEMPOTENCY_KEY)
    return key


def _name(request: BaseRequest, caller: Caller, body: bytes) -> bytes | None:
    return name_of(request.headers, caller.key_id, request.path, body)


def _span(request: BaseRequest, request_id: str) -> tracing.Span:
    """The span of an HTTP request. The requests to the mesh for it belong to the same trace, or to the client's."""
    span = tracing.NO_SPAN
    if tracing.is_on():
        span = tracing.start("http", request.headers, "server", bullpen__request_id=request_id)
        span.tell(http__request__method=request.method, url__path=request.path)
    tracing.go_on(span.headers or request.headers)
    return span


def _question(fields: JsonObject, request_id: str, key: str | None, index: int, of: int) -> Options:
    own: JsonObject = {"task_id": request_id if of == 1 else f"{request_id}-{index}"}
    if key is not None:
        own["idempotency_key"] = key if of == 1 else f"{key}:{index}"
    if index and isinstance(seed := fields.get("seed"), int):
        own["seed"] = seed + index  # the same seed would give the same answer
    return cast("Options", {**fields, **own})
