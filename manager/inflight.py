"""A request on its way through the Manager: what was asked, who was tried, what they said."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from bus import Listener, Message, Reply, deadline
from bus.reply import task_header
from contracts import (
    AttemptSummary,
    BullpenError,
    ErrorCode,
    FinalResponse,
    InferenceRequest,
    InferenceResponse,
    WorkerMessage,
    utc_now,
)
from contracts import headers as h
from manager.attempt import Attempt
from manager.ranking import Question


@dataclass(frozen=True, slots=True)
class Gone:
    """Not a worker's word but ours: it went away."""

    why: str


@dataclass(frozen=True, slots=True)
class Heard:
    """Something about an attempt. `sender` is where the worker waits for our word, if it does."""

    attempt: Attempt
    event: WorkerMessage | Gone | BullpenError
    sender: str = ""


@dataclass(slots=True, eq=False)
class Inflight:
    request: InferenceRequest
    body: bytes
    headers: Mapping[str, str]
    task_id: str
    request_id: str
    reply: Reply
    asked: Question
    arrived: float
    """The loop's clock, as is `deadline`."""
    deadline: float
    created_at: datetime = field(default_factory=utc_now)
    attempts: list[Attempt] = field(default_factory=list)
    listeners: list[Listener[Message]] = field(default_factory=list)
    events: asyncio.Queue[Heard] = field(default_factory=asyncio.Queue)
    best: FinalResponse | None = None
    """The best answer so far, when it was not sure enough to be final."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts else None

    @property
    def tried(self) -> frozenset[str]:
        return frozenset(attempt.worker_id for attempt in self.attempts)

    @property
    def summaries(self) -> tuple[AttemptSummary, ...]:
        return tuple(attempt.summary() for attempt in self.attempts)

    @property
    def cost(self) -> Decimal | None:
        """All attempts together, US dollars; None as soon as one of them is unknown."""
        costs = [attempt.cost for attempt in self.attempts]
        return None if None in costs else sum((cost for cost in costs if cost is not None), Decimal(0))

    def question(self) -> Question:
        """What ranking needs to know now: the question, and who was tried."""
        return replace(self.asked, excluded=self.tried)

    def remaining(self, now: float) -> float:
        """Seconds until the deadline."""
        return self.deadline - now

    def headers_for(self, attempt: Attempt, now: float) -> dict[str, str]:
        """What the worker must know beside the caller's own words."""
        passed_on = {name: self.headers[name] for name in (h.TRACEPARENT, h.TRACESTATE) if name in self.headers}
        return {
            **passed_on,
            h.DEADLINE: deadline.header(self.remaining(now)),
            h.ATTEMPT: str(attempt.number),
            h.REQUEST: self.request_id,
            h.TASK: task_header(self.task_id),
            h.MODEL: attempt.model_id,
            h.EVENTS: "1",
            h.HOPS: str(hops(self.headers) + 1),
        }

    async def next_event(self, until: float) -> Heard | None:
        """The next thing heard, or None when the loop's clock reaches `until`."""
        if not self.events.empty():
            return self.events.get_nowait()
        try:
            async with asyncio.timeout_at(until):
                return await self.events.get()
        except TimeoutError:
            return None

    def finished(self, answer: FinalResponse, attempt: Attempt, now: float) -> InferenceResponse:
        """The answer as the caller gets it: times from the caller's point of view, all attempts named."""
        before_ms = round((attempt.sent - self.arrived) * 1000, 3)
        told = {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "duration_ms": round((now - self.arrived) * 1000, 3),
            "queue_ms": answer.queue_ms + before_ms,
            "ttft_ms": None if answer.ttft_ms is None else answer.ttft_ms + before_ms,
            "attempts": self.summaries,
            "cost_usd": self.cost,
            "resumed": self.reply.was_resumed,
        }
        values = {name: getattr(answer, name) for name in InferenceResponse.model_fields}
        return InferenceResponse.model_construct(**{**values, **told})

    def cancel(self) -> None:
        """The caller wants it no more; whoever follows an attempt notices at once."""
        self.cancelled.set()
        if self.current is not None:
            self.events.put_nowait(Heard(self.current, Gone("cancelled")))

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()


def hops(headers: Mapping[str, str]) -> int:
    text = headers.get(h.HOPS, "0")
    return int(text) if text.isdigit() else 0


def out_of_time() -> BullpenError:
    return BullpenError(ErrorCode.DEADLINE_EXCEEDED, "no answer was complete before the deadline")
