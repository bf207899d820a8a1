"""One request under way: its private inboxes, its time-outs, and the cancel when its caller leaves early.

`_next` waits for messages. When `ManagerWatch` says so, it asks which Manager has the task, or sends the request again:
the same body with the same `idempotency_key`, so a finished answer is not computed twice. Every sending has an inbox of
its own, so that a Manager that was only frozen cannot mix its chunks into another one's stream. A Manager's final
message, an error included, is final: Managers retry workers, the client only retries Managers.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from bus import Bus, BusError, Listener, Message, tracing
from bus.deadline import header
from client.errors import RequestFailed
from client.pieces import Pieces
from client.question import Question
from client.watch import ManagerWatch, Step
from contracts import (
    Answer,
    CancelRequest,
    Chunk,
    EmbeddingResponse,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceResponse,
    Resumed,
    StatusRequest,
    StreamEvent,
)
from contracts.headers import DEADLINE
from contracts.subjects import INFER_CANCEL, INFER_STATUS

GRACE = 1.0
"""Seconds after the deadline in which the final message must have come."""

GIVEN_BACK = f'"{ErrorCode.DRAINING}"'.encode()
"""In every error of a Manager or worker that leaves before it has answered."""

RUNNING = b'"state":"running"'
"""In a Manager's status reply when a worker runs the request; without it the request may wait for a worker."""

A = TypeVar("A", bound=Answer)
_EVENT: TypeAdapter[Chunk | Resumed | FinalResponse] = TypeAdapter(StreamEvent)
_STATUS = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A message and the number of the sending (1, 2 …) to which it is a reply; `_STATUS`: a reply to a status
    request.
    """

    sending: int
    message: Message


class Exchange:
    """A request from its sending to its final message. Leaving earlier cancels the request."""

    def __init__(self, bus: Bus, question: Question) -> None:
        self._bus = bus
        self._question = question
        self._now = asyncio.get_running_loop().time
        self._deadline = self._now() + question.deadline_ms / 1000
        self._end = self._deadline + GRACE
        self._watch = ManagerWatch(self._now())
        self._heard: asyncio.Queue[Received | BusError] = asyncio.Queue()
        self._denied = bus.when_denied(question.subject, self.fail)
        self._inboxes: list[Listener[Message]] = []
        self._sending = 0
        """The number of the last sending; -1: it was given up."""
        self._status: Listener[Message] | None = None
        self._reconnects = bus.reconnects
        self._pieces = Pieces(question.task_id)
        self._reading = 1
        """The number of the sending whose chunks the caller gets."""
        self._held_back: Received | None = None
        self._settled = False
        self._left = False
        self.on_running: Callable[[], None] = lambda: None
        """Called when a Manager reports, after a second of silence, that a worker runs the request."""

    async def __aenter__(self) -> Self:
        self._denied.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._denied.__exit__(kind, error, trace)
        for listener in (*self._inboxes, *([self._status] if self._status else ())):
            listener.close()
        await self.abandon()

    @property
    def task_id(self) -> str:
        return self._question.task_id

    @property
    def cancel(self) -> bytes:
        """The body of the message that cancels this request."""
        return cancel_body(self._question.task_id, self._question.cancel_token)

    async def abandon(self) -> None:
        """Cancels the request; after its answer, cancels only what a Manager that was given up may still run."""
        if self._left:
            return
        self._left = True
        if self._watch.sends > (1 if self._settled else 0):
            with suppress(BusError):
                await self._bus.publish(INFER_CANCEL, self.cancel)

    def fail(self, error: BusError) -> None:
        """Ends the request with `error`: no further message will come."""
        self._heard.put_nowait(error)

    async def response(self) -> InferenceResponse:
        """The whole answer. Raises `RequestFailed`."""
        return await self._whole(InferenceResponse)

    async def vectors(self) -> EmbeddingResponse:
        """The answer to a request for vectors. Raises `RequestFailed`."""
        return await self._whole(EmbeddingResponse)

    async def _whole(self, kind: type[A]) -> A:
        while True:
            heard = await self._next()
            try:
                response = kind.model_validate_json(heard.message.data)
            except ValidationError:
                if self._is_stale(heard):  # its Manager was given up on: the answer counts, an error does not
                    continue
                raise self._failure(heard.message.data) from None
            self._settled = True
            return response

    async def event(self) -> Chunk | Resumed | FinalResponse:
        """The next event of a stream; none is missing before it. Raises `RequestFailed`."""
        while True:
            heard = await self._next()
            if self._is_stale(heard):
                continue
            if heard.sending != self._reading:
                self._reading, self._held_back = heard.sending, heard
                if (resumed := self._pieces.start_over()) is not None:
                    return resumed
                continue
            event = self._read(heard.message)
            if not self._is_whole(event):
                self._start_anew()
            elif isinstance(event, FinalResponse):
                self._settled = True
                return event
            else:
                return self._pieces.given(event)

    def _read(self, message: Message) -> Chunk | Resumed | FinalResponse:
        if not message.data:
            raise self._fail(ErrorCode.INTERNAL, "the stream ended without an answer")
        try:
            return _EVENT.validate_json(message.data)
        except ValidationError:
            raise self._failure(message.data) from None

    def _is_whole(self, event: Chunk | Resumed | FinalResponse) -> bool:
        """Whether no piece is missing before the event. False: pieces were lost while the connection was down. Raises
        `RequestFailed` when they were lost otherwise.
        """
        missing = self._pieces.missing(event)
        broke = self._bus.reconnects != self._reconnects
        if missing and not broke and not isinstance(event, FinalResponse):
            raise self._fail(ErrorCode.INTERNAL, f"a piece of the stream was lost: {missing}")
        return not (missing and broke)

    def _start_anew(self) -> None:
        self._inboxes[-1].close()
        self._sending = -1
        self._watch.lost(self._now())

    # Hearing, asking, sending again

    async def _next(self) -> Received:
        """The next message of the answer. Asks and sends again meanwhile. Raises `RequestFailed`, `BusError`."""
        if self._held_back is not None:
            heard, self._held_back = self._held_back, None
            return heard
        while True:
            now = self._now()
            if self._heard.empty() and now >= self._end:
                raise self._too_late()
            if self._heard.empty() and now >= self._watch.due:
                await self._step(now)
            elif (heard_now := await self._hear()) is not None and self._is_answer(heard_now):
                if not self._is_given_back(heard_now):
                    return heard_now
                self._start_anew()

    async def _hear(self) -> Received | None:
        """The next message; None: a step of the watch is due first."""
        if not self._heard.empty():
            heard = self._heard.get_nowait()
        else:
            try:
                async with asyncio.timeout_at(min(self._end, self._watch.due)):
                    heard = await self._heard.get()
            except TimeoutError:
                return None
        if isinstance(heard, BusError):
            raise heard
        return heard

    def _is_answer(self, heard: Received) -> bool:
        """Reports a message to the watch. Returns whether it is part of an answer."""
        now, unheard = self._now(), heard.message.no_responders
        match heard.sending == _STATUS, unheard:
            case True, True:
                self._watch.status_unheard(now)
            case True, False:
                self._watch.held(now)
                if RUNNING in heard.message.data:
                    self.on_running()
            case False, True if not self._is_stale(heard):
                self._watch.unsent(now)
            case False, False if not self._is_stale(heard):
                self._watch.heard(now)
        return heard.sending != _STATUS and not unheard

    def _is_given_back(self, heard: Received) -> bool:
        """Whether the Manager leaves before the answer, so that another one has to take the request."""
        if self._is_stale(heard) or GIVEN_BACK not in heard.message.data:
            return False
        try:
            error = ErrorReply.model_validate_json(heard.message.data).error
        except ValidationError:
            return False
        return error.code is ErrorCode.DRAINING

    def _is_stale(self, heard: Received) -> bool:
        """Whether the message is a reply to a sending that was given up."""
        return heard.sending != self._sending

    async def _step(self, now: float) -> None:
        """Does the step that is due."""
        if now >= self._deadline:
            self._watch.rest()
        elif not self._bus.is_connected:
            self._watch.cut_off(now)
        elif self._watch.step is Step.ASK:
            await self._ask()
        elif self._watch.step is Step.GIVE_UP:
            raise self._given_up()
        elif self._watch.sends and not await self._reaches_server():
            self._watch.cut_off(self._now())
        elif self._heard.empty():
            await self._send()

    async def _reaches_server(self) -> bool:
        """Whether the server still answers. Its messages for this client have then arrived."""
        try:
            await self._bus.flush(GRACE)
        except BusError:
            return False
        return True

    async def _ask(self) -> None:
        if self._status is None:
            self._status = self._bus.listen(partial(self._put, _STATUS))
        body = StatusRequest(task_id=self._question.task_id).to_bytes()
        await self._bus.publish(INFER_STATUS, body, reply=self._status.subject)
        self._watch.asked(self._now())

    async def _send(self) -> None:
        if self._question.is_seamless and self._pieces.has_answer:
            why = "the stream was lost with its Manager, or our connection, and nothing else would join it"
            raise self._fail(ErrorCode.UPSTREAM_ERROR, why)
        if self._question.stream and self._inboxes:
            self._inboxes[-1].close()
        self._sending = len(self._inboxes) + 1
        inbox = self._bus.listen(partial(self._put, self._sending))
        self._inboxes.append(inbox)
        self._reconnects = self._bus.reconnects
        headers = {**tracing.onward(), **self._question.headers, DEADLINE: header(self._deadline - self._now())}
        await self._bus.publish(self._question.subject, self._question.body, reply=inbox.subject, headers=headers)
        self._watch.sent(self._now())

    def _put(self, sending: int, message: Message) -> None:
        self._heard.put_nowait(Received(sending, message))

    # Failing

    def _too_late(self) -> RequestFailed:
        if self._watch.no_manager:
            return self._given_up()
        waited = f"no answer within {self._question.deadline_ms / 1000 + GRACE:g} s"
        if not self._bus.is_connected:
            why = f"the connection to NATS at {self._bus.settings.where} is down"
        else:
            why = "the Manager that took the question may have died, ask again"
        return self._fail(ErrorCode.DEADLINE_EXCEEDED, f"{waited}: {why}")

    def _given_up(self) -> RequestFailed:
        if self._watch.no_manager:
            cure = "start the mesh with `bullpen up`, or one with `bullpen manager`"
            return self._fail(ErrorCode.NO_WORKER, f"no Manager listens on {self._question.subject}: {cure}")
        times = f"{self._watch.sends} times a Manager took the request and fell silent"
        return self._fail(ErrorCode.NO_WORKER, f"{times}: `bullpen doctor` shows what is running")

    def _failure(self, data: bytes) -> RequestFailed:
        """The failure in a final message."""
        try:
            reply = ErrorReply.model_validate_json(data)
        except ValidationError:
            return self._fail(ErrorCode.INTERNAL, "the answer cannot be read: is the Manager of another version?")
        self._settled = True
        return RequestFailed(reply)

    def _fail(self, code: ErrorCode, message: str) -> RequestFailed:
        return RequestFailed.here(code, message, self._question.task_id)


def cancel_body(task_id: str, token: str | None = None) -> bytes:
    return CancelRequest(task_id=task_id, token=token or None).to_bytes()
