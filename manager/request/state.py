"""A request on its way through the Manager: what was asked, who was tried, what they said."""

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from bus import Listener, Message, Reply, deadline
from bus.reply import task_header
from contracts import (
    AttemptSummary,
    BullpenError,
    Capability,
    Chunk,
    ControlRequest,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceRequest,
    InferenceResponse,
    Outcome,
    ResponseRecord,
    StatusRequest,
    WorkerMessage,
    utc_now,
)
from contracts import headers as h
from manager.idempotency import Mine
from manager.request.attempt import Attempt, read_event
from manager.request.events import Events, Gone, Heard
from manager.routing.query import RoutingQuery

T = TypeVar("T")
TIMES_PER_WORKER = 3
"""How often a worker that never got the request is sent it."""
TIMES_FULL = 8
"""How often one that has no place for it is asked; between two times its heart beats, or it has done something else."""
PREFILL: frozenset[Capability] = frozenset({"prefill"})


_NOBODY_LISTENS = ErrorReply(error=BullpenError(ErrorCode.NO_WORKER, "nobody listens there").detail())
"""What the server's own "no responders" means: it was not begun, so going elsewhere is free."""


@dataclass(slots=True, eq=False)
class RequestState:
    request: InferenceRequest
    key: str | None
    """The caller's idempotency key."""
    body: bytes
    headers: Mapping[str, str]
    task_id: str
    request_id: str
    reply: Reply
    asked: RoutingQuery
    arrived: float
    """The loop's clock, as is `deadline`."""
    deadline: float
    created_at: datetime = field(default_factory=utc_now)
    attempts: list[Attempt] = field(default_factory=list)
    listeners: list[Listener[Message]] = field(default_factory=list)
    events: Events = field(default_factory=Events)
    entry: Mine | None = None
    """Our right to answer for the key."""
    best: FinalResponse | None = None
    """The best answer so far, when it was not sure enough to be final."""
    stopped: BullpenError | None = None
    """Why it is not answered: nobody wants the answer any more, or we leave."""
    waiting: "asyncio.Task[Any] | None" = None
    unaffordable: dict[str, BullpenError] = field(default_factory=dict)
    """By model, which budget has not enough left for it."""
    booked: ResponseRecord | None = None
    """Its row in the books."""
    patient: bool = False
    """It is a job, and comes again when nobody can begin it."""
    delivered_tokens: int = 0
    """Of the text that a streaming caller has so far."""

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def too_long(self) -> BullpenError | None:
        """What the last one said into whose model's context window the prompt does not fit."""
        return next((attempt.error for attempt in reversed(self.attempts) if attempt.tokens_told), None)

    @property
    def running(self) -> list[Attempt]:
        """Who is at it now."""
        return [attempt for attempt in self.attempts if attempt.ended is None]

    @property
    def other_model_at_it(self) -> bool:
        """Whether a model that is no stand-in is at it, or has answered: then no stand-in is asked beside it."""
        working = [attempt for attempt in self.attempts if attempt.ended is None or attempt.outcome is Outcome.OK]
        return any(not attempt.choice.card.stand_in for attempt in working)

    @property
    def continuable(self) -> bool:
        """Whether the caller has the start of an answer that somebody else can go on with."""
        whole = self.request.tools or self.request.response_format
        return bool(self.reply.delivered) and self.best is None and not whole

    def tried(self, reconnected_at: float, *, again: bool) -> frozenset[str]:
        """Who is not asked again. `reconnected_at`: when our connection was last made anew (loop's clock).

        `again`: whoever had no place for it may be, but not for ever.
        """
        full = Counter(attempt.worker_id for attempt in self.attempts if attempt.said_full)
        asked = Counter(attempt.worker_id for attempt in self.attempts if not attempt.said_full)
        had_it = {attempt.worker_id for attempt in self.attempts if attempt.excludes(reconnected_at)}
        often = {worker_id for worker_id, times in asked.items() if times >= TIMES_PER_WORKER}
        always = {worker_id for worker_id, times in full.items() if times >= TIMES_FULL or not again}
        return frozenset(had_it | often | always)

    @property
    def summaries(self) -> tuple[AttemptSummary, ...]:
        return tuple(attempt.summary() for attempt in self.attempts)

    @property
    def cost(self) -> Decimal | None:
        """All attempts together, US dollars; None as soon as one of them is unknown."""
        costs = [attempt.cost for attempt in self.attempts]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))

    def is_meant(self, asked: StatusRequest) -> bool:
        """Whether somebody asks about this one."""
        return asked.request_id == self.request_id or (asked.request_id is None and asked.task_id == self.task_id)

    def question(
        self, reconnected_at: float, now: float, ahead: int = 0, *, waited: bool = False, again: bool = False
    ) -> RoutingQuery:
        """What ranking needs to know now: the question, who was tried, and how many wait before it."""
        spent = sum((attempt.likely_cost or Decimal(0) for attempt in self.attempts), Decimal(0))
        return replace(
            self.asked,
            at_least=max((attempt.tokens_told for attempt in self.attempts), default=0),
            excluded=self.tried(reconnected_at, again=again),
            include_full=again,
            left_s=self.remaining(now),
            waiting=ahead,
            has_queued=waited,
            spent=spent,
            unaffordable=frozenset(self.unaffordable),
            unsure=frozenset(attempt.model_id for attempt in self.attempts if attempt.outcome is Outcome.OK),
            confidence=0.0 if self.best is None else self.best.confidence,
            other_model_at_it=self.other_model_at_it,
        )

    def remaining(self, now: float) -> float:
        """Seconds until the deadline."""
        return self.deadline - now

    def headers_for(self, attempt: Attempt, now: float) -> dict[str, str]:
        """What the worker must know beside the caller's own words."""
        told = {name: self.headers[name] for name in (h.TRACEPARENT, h.TRACESTATE) if name in self.headers}
        if attempt.start.text:
            told[h.CONTINUE] = b64encode(attempt.start.text.encode()).decode()
            told[h.CONTINUE_TOKENS] = str(attempt.start.tokens)
        return {
            **told,
            h.DEADLINE: deadline.header(self.remaining(now), attempt.choice.worker.clock.seconds),
            h.ATTEMPT: str(attempt.number),
            h.REQUEST: self.request_id,
            h.TASK: task_header(self.task_id),
            h.MODEL: attempt.model_id,
            h.EVENTS: "1",
            h.HOPS: str(hops(self.headers) + 1),
        }

    def hear(self, attempt: Attempt, message: Message) -> None:
        """Something came from the worker of an attempt."""
        event: WorkerMessage | BullpenError
        try:
            event = _NOBODY_LISTENS if message.no_responders else read_event(message.data, self._known(attempt))
        except BullpenError as error:
            event = error
        if isinstance(event, Chunk):
            attempt.received(event)
        self.events.put(Heard(attempt, event, message.reply))

    def _known(self, attempt: Attempt) -> dict[str, str]:
        backend = attempt.choice.worker.heartbeat.backend
        return {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "backend": backend,
            "worker_id": attempt.worker_id,
        }

    def comes_again(self, failure: BullpenError | None) -> bool:
        """Whether nothing was done for it yet: a job that waits a day for somebody is not booked every minute."""
        return self.patient and not self.attempts and failure is not None and failure.begun_nowhere

    def given_up_on(self, worker_id: str, epoch: str) -> list[Attempt]:
        """What this worker may still be at, although nobody waits for it."""
        return [a for a in self.attempts if a.may_speak and (a.worker_id, a.epoch) == (worker_id, epoch)]

    def cancel(self, attempt: Attempt) -> ControlRequest:
        """Tells the worker of an attempt to stop."""
        return ControlRequest(op="cancel", request_id=self.request_id, attempt=attempt.number)

    def lost(self, worker_id: str, why: str, *, died: bool) -> None:
        """A worker is gone, and with it whatever it did for this request."""
        for attempt in self.running:
            if attempt.worker_id == worker_id:
                self.events.put(Heard(attempt, Gone(why, died)))

    def finished(self, answer: FinalResponse, attempt: Attempt, now: float) -> InferenceResponse:
        """The answer as the caller gets it: times from the caller's point of view, all attempts named."""
        before_ms = round((attempt.sent - self.arrived) * 1000, 3)
        ttft_ms = None if answer.ttft_ms is None else answer.ttft_ms + before_ms
        if self.reply.first_chunk_at is not None:
            ttft_ms = round((self.reply.first_chunk_at - self.arrived) * 1000, 3)
        told = {
            "output": attempt.start.text + answer.output,
            "completion_tokens": attempt.start.tokens + answer.completion_tokens,
            "tokens_used": attempt.start.tokens + answer.tokens_used,
            "task_id": self.task_id,
            "request_id": self.request_id,
            "duration_ms": round((now - self.arrived) * 1000, 3),
            "queue_ms": answer.queue_ms + before_ms,
            "ttft_ms": ttft_ms,
            "attempts": self.summaries,
            "cost_usd": self.cost,
            "resumed": self.reply.was_resumed,
        }
        values = {name: getattr(answer, name) for name in InferenceResponse.model_fields}
        return InferenceResponse.model_construct(**{**values, **told})

    def replayed(self, answer: InferenceResponse, now: float) -> InferenceResponse:
        """An answer that was given before, as the answer to this request: nothing was computed for it."""
        told = {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "duration_ms": round((now - self.arrived) * 1000, 3),
            "queue_ms": 0.0,
            "ttft_ms": None,
            "attempts": (),
            "cost_usd": Decimal(0),
            "resumed": False,
            "replayed": True,
        }
        return answer.model_copy(update=told)

    async def unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for something that a cancel ends. Raises `BullpenError` when it did."""
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(work)
        self.waiting = task
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            if self.stopped is None:
                raise
            raise self.stopped from None
        finally:
            self.waiting = None

    def stop(self, why: BullpenError) -> None:
        """Ends it; whoever waits, or follows an attempt, notices at once."""
        self.stopped = self.stopped or why
        if self.waiting is not None:
            self.waiting.cancel()
        if self.current is not None:
            self.events.put(Heard(self.current, Gone(why.message)))

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


def hops(headers: Mapping[str, str]) -> int:
    return h.number(headers.get(h.HOPS), 0)


def out_of_time() -> BullpenError:
    return BullpenError(ErrorCode.DEADLINE_EXCEEDED, "no answer was complete before the deadline")


def cancelled(why: str) -> BullpenError:
    return BullpenError(ErrorCode.CANCELLED, why)
