"""A request on its way through the Manager: what was asked, its attempts, and what was heard of them."""

import asyncio
from base64 import b64encode
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from bus import Listener, Message, Reply, deadline
from contracts import (
    Answer,
    AttemptSummary,
    BullpenError,
    CancelRequest,
    Capability,
    ControlRequest,
    EmbeddingRequest,
    EmbeddingResponse,
    ErrorCode,
    FinalResponse,
    InferenceRequest,
    InferenceResponse,
    Request,
    ResponseRecord,
    StatusRequest,
    utc_now,
)
from contracts import headers as h
from contracts.base import words
from contracts.going_on import asked_to_go_on
from contracts.response import ANSWER
from contracts.subjects import header_value
from manager.idempotency import Mine
from manager.request.attempt import NOTHING, Attempt, Start
from manager.request.event_queue import EventQueue, Heard
from manager.request.events import NO_RESPONDERS, CalledOff, Gone, read_event
from manager.request.lifecycle import State
from manager.request.plausible import Given, believed
from manager.request.queue import Turn
from manager.request.retry_policy import FIRST, Ask, Seam, best_of
from manager.request.seam import Anchor, Joint
from manager.request.trace import RequestTrace
from manager.routing.query import Choice, RoutingQuery

T = TypeVar("T")
PASSED_ON = (h.TRACEPARENT, h.TRACESTATE, h.CANCEL_TOKEN)
"""Headers of the caller that workers get unchanged."""
PREFILL: frozenset[Capability] = frozenset({"prefill"})


@dataclass(slots=True, eq=False)
class RequestState:
    request: Request
    key: str | None
    """The caller's idempotency key."""
    body: bytes
    headers: Mapping[str, str]
    task_id: str
    request_id: str
    reply: Reply
    asked: RoutingQuery
    """What routing needs to know of the request from the start."""
    arrived: float
    """The loop's clock, as is `deadline`."""
    deadline: float
    hops: int = 0
    """How often another Manager has passed the request on."""
    created_at: datetime = field(default_factory=utc_now)
    attempts: list[Attempt] = field(default_factory=list)
    listeners: list[Listener[Message]] = field(default_factory=list)
    events: EventQueue = field(default_factory=EventQueue)
    entry: Mine | None = None
    """Our right to answer for the idempotency key."""
    stopped: BullpenError | None = None
    """Why the request ends without an answer: the caller cancelled it, or the Manager leaves."""
    waiting: "asyncio.Task[Any] | None" = None
    unaffordable: dict[str, BullpenError] = field(default_factory=dict)
    """By model id, the budget that has not enough left for this request."""
    booked: ResponseRecord | None = None
    """The request's row in the books."""
    patient: bool = False
    """The request is a job, and comes again when no worker can begin it."""
    delivered_tokens: int = 0
    """Tokens of the answer that a streaming caller has so far."""
    spoke_last: str = ""
    """The worker whose words a streaming caller has got last."""
    turn: Turn | None = None
    """The request's last turn in the queue."""
    trace: RequestTrace | None = None
    """None: traces are off."""
    _given: dict[int, Given] = field(default_factory=dict)
    """By attempt, what the Manager knows better than the worker, see `plausible`."""

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def running(self) -> list[Attempt]:
        """The attempts under way."""
        return [attempt for attempt in self.attempts if not attempt.is_over]

    @property
    def best(self) -> FinalResponse | None:
        """The surest answer so far."""
        return best_of(self.attempts)

    @property
    def continuable(self) -> bool:
        """Whether the caller has the start of an answer that another worker can go on with."""
        whole = self.request.tools or self.request.response_format or self.reply.delivered.has_calls
        return bool(self.reply.delivered.text) and self.best is None and not whole

    @property
    def is_seamless(self) -> bool:
        """Whether the request streams to a caller that cannot take back what it has."""
        return self.reply.streaming and self.request.continuation == "seamless"

    @property
    def seam(self) -> Seam:
        """What may follow the text that the caller has."""
        has = self.reply.delivered
        if not self.is_seamless or not has:
            return Seam.FREE
        return Seam.NONE if has.has_calls or (has.text and json_wanted(self.request)) else Seam.JOIN

    def start_for(self, choice: Choice) -> Start:
        """The start of an answer that the next worker is given. Reasoning alone is no start of an answer."""
        has, most = self.reply.delivered, self.request.max_tokens
        start = Start(has.text, self.delivered_tokens, has.reasoning, has.logprobs)
        if self.continuable and "prefill" in choice.card.capabilities:
            return start
        if self.seam is not Seam.JOIN:
            return NOTHING
        if not has.text:
            return replace(start, tokens=0, anchor=Anchor.of(""))
        return replace(start, anchor=Anchor.of(has.text), room=None if most is None else max(0, most - start.tokens))

    def joint_of(self, start: Start) -> Joint | None:
        return Joint(start.anchor, start.room) if self.is_seamless else None

    def body_for(self, attempt: Attempt) -> bytes:
        """The request's body for this attempt. A model that cannot go on after a start gets the start as an earlier
        turn, and the instruction to repeat its end.
        """
        start = attempt.start
        if start.anchor is None or not start.anchor.text:
            return self.body
        most = None if start.room is None else (start.room and start.room + start.anchor.most_tokens) or 1
        assert isinstance(self.request, InferenceRequest)  # vectors do not stream
        asked = asked_to_go_on(self.request, start.text.rstrip(), start.anchor.text, most)
        return asked.model_dump_json(exclude_unset=True).encode()

    @property
    def other_model_at_it(self) -> bool:
        """Whether a model that is no stand-in runs or has answered: then no stand-in is asked beside it."""
        working = [attempt for attempt in self.attempts if not attempt.is_over or attempt.state is State.ANSWERED]
        return any(not attempt.choice.card.stand_in for attempt in working)

    @property
    def summaries(self) -> tuple[AttemptSummary, ...]:
        return tuple(
            AttemptSummary.built(
                {
                    "worker_id": attempt.worker_id,
                    "model_id": attempt.model_id,
                    "outcome": attempt.outcome,
                    "duration_ms": attempt.duration_ms,
                    "error": words(str(attempt.error)) if attempt.error else None,
                }
            )
            for attempt in self.attempts
        )

    @property
    def cost(self) -> Decimal | None:
        """The cost of all attempts together, US dollars; None when one of them is unknown."""
        costs = [attempt.cost for attempt in self.attempts]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))

    def is_meant(self, asked: StatusRequest) -> bool:
        """Whether a status request means this request."""
        return asked.request_id == self.request_id or (asked.request_id is None and asked.task_id == self.task_id)

    def query(self, ask: Ask, now: float, *, ahead: int, has_queued: bool) -> RoutingQuery:
        """The routing query as of now. `ahead`: requests that wait for a place before this one."""
        if not self.attempts and ask is FIRST and not self.unaffordable:  # nothing has happened to it yet
            return replace(self.asked, left_s=self.remaining(now), waiting=ahead, has_queued=has_queued)
        spent = sum((attempt.likely_cost or Decimal(0) for attempt in self.attempts), Decimal(0))
        best = self.best
        return replace(
            self.asked,
            at_least=max((self._tokens_in, *(attempt.prompt_is for attempt in self.attempts))),
            excluded=ask.exclude,
            include_full=ask.include_full,
            include_unclaimed=ask.include_unclaimed,
            known_only=ask.known_only,
            left_s=self.remaining(now),
            waiting=ahead,
            has_queued=has_queued,
            spent=spent,
            unaffordable=frozenset(self.unaffordable),
            unsure=frozenset(attempt.model_id for attempt in self.attempts if attempt.state is State.ANSWERED),
            confidence=0.0 if best is None else best.confidence,
            other_model_at_it=self.other_model_at_it,
        )

    @property
    def _tokens_in(self) -> int:
        """Tokens of the prompt with the start of the answer, which has to be read as well; 0: no more than was
        asked.
        """
        has_start = self.is_seamless and self.reply.delivered.text
        return self.asked.tokens_in + self.delivered_tokens if has_start else 0

    def remaining(self, now: float) -> float:
        """Seconds until the deadline."""
        return self.deadline - now

    def headers_for(self, attempt: Attempt, now: float) -> dict[str, str]:
        """The headers that a worker needs beside the caller's own words."""
        told = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        if attempt.start.text and attempt.start.anchor is None:
            told[h.CONTINUE] = b64encode(attempt.start.text.encode()).decode()
            told[h.CONTINUE_TOKENS] = str(attempt.start.tokens)
        return {
            **told,
            h.DEADLINE: deadline.header(self.remaining(now), attempt.choice.worker.clock.seconds),
            h.ATTEMPT: str(attempt.number),
            h.REQUEST: self.request_id,
            h.TASK: header_value(self.task_id),
            h.MODEL: attempt.model_id,
            h.EVENTS: "1",
            h.HOPS: str(self.hops + 1),
        }

    def hear(self, attempt: Attempt, message: Message, now: float) -> tuple[str, ...]:
        """Takes a message of an attempt's worker in. Returns the names of its fields that cannot be true."""
        if message.no_responders:
            self.events.put(Heard(attempt, NO_RESPONDERS))
            return ()
        given = self._given.get(attempt.number) or self._give(attempt)
        word, refused = believed(read_event(message.data, given.known), given, (now - attempt.sent_at) * 1000)
        if word is not None:
            self.events.put(Heard(attempt, word, message.reply))
        return refused

    def _give(self, attempt: Attempt) -> Given:
        given = self._given[attempt.number] = Given(
            request_id=self.request_id,
            task_id=self.task_id,
            number=attempt.number,
            epoch=attempt.epoch,
            backend=attempt.backend,
            worker_id=attempt.worker_id,
            card=attempt.choice.card,
            bytes_in=len(self.body) + 4 * len(attempt.start.text),
            max_tokens=self.request.max_tokens,
            logprobs=self.request.logprobs,
            texts=len(self.request.texts) if isinstance(self.request, EmbeddingRequest) else None,
        )
        return given

    def comes_again(self, failure: BullpenError | None) -> bool:
        """Whether nothing was done for the request yet: a job that waits a day for a worker is not booked every
        minute.
        """
        return self.patient and not self.attempts and failure is not None and failure.begun_nowhere

    def given_up_on(self, worker_id: str, epoch: str) -> list[Attempt]:
        """Attempts that were given up, but at which their worker may still work."""
        return [a for a in self.attempts if a.awaits_last_word and (a.worker_id, a.epoch) == (worker_id, epoch)]

    def cancel(self, attempt: Attempt) -> ControlRequest:
        """The message that tells an attempt's worker to stop."""
        return ControlRequest(op="cancel", request_id=self.request_id, attempt=attempt.number)

    def is_stopped_by(self, asked: CancelRequest) -> bool:
        """Whether a cancel means this request, and comes from its caller."""
        return asked.stops(self.task_id, self.headers.get(h.CANCEL_TOKEN, ""))

    def lost(self, worker_id: str, why: str, *, died: bool) -> None:
        """A worker is gone, and with it every attempt of this request there."""
        for attempt in self.running:
            if attempt.worker_id == worker_id:
                self.events.put(Heard(attempt, Gone(why, died)))

    def finished(self, answer: FinalResponse, attempt: Attempt, now: float) -> Answer:
        """The answer as the caller gets it: with times from the caller's point of view, and all attempts."""
        before_ms = round((attempt.sent_at - self.arrived) * 1000, 3)
        ttft_ms = None if answer.ttft_ms is None else answer.ttft_ms + before_ms
        if self.reply.first_chunk_at is not None:
            ttft_ms = round((self.reply.first_chunk_at - self.arrived) * 1000, 3)
        answer = attempt.joined(answer)
        told = {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "duration_ms": round((now - self.arrived) * 1000, 3),
            "queue_ms": answer.queue_ms + before_ms,
            "ttft_ms": ttft_ms,
            "attempts": self.summaries,
            "cost_usd": self.cost,
            "resumed": self.reply.was_resumed,
        }
        values = {**{name: answer.__dict__[name] for name in ANSWER}, **told}
        if answer.embeddings is None:
            return InferenceResponse.built({**values, "schema_": "bullpen.response.v1"})
        return EmbeddingResponse.built({**values, "schema_": "bullpen.embedding.v1", "embeddings": answer.embeddings})

    def replayed(self, answer: Answer, now: float) -> Answer:
        """An earlier answer, as the answer to this request: nothing was computed for it."""
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
        """Waits for `awaitable`, unless a cancel ends the request. Raises `BullpenError` when it does."""
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
        """Ends the request with `why`; whatever waits for it is woken at once."""
        self.stopped = self.stopped or why
        if self.waiting is not None:
            self.waiting.cancel()
        if self.current is not None:
            self.events.put(Heard(self.current, CalledOff(why)))

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


def hops(headers: Mapping[str, str]) -> int:
    return h.number(headers.get(h.HOPS), 0)


def json_wanted(request: Request) -> bool:
    return "json" in request.needs


def cancelled(why: str) -> BullpenError:
    return BullpenError(ErrorCode.CANCELLED, why)
