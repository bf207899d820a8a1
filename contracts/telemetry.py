"""Telemetry's messages: one per request, one per attempt, one per change of a worker's state.

The key is our `request_id`, never the caller's `task_id`: callers reuse theirs, and a billed row
must not be dropped because of it.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field
from pydantic_core import to_json

from contracts.base import JsonObject, OpenModel
from contracts.embedding import Request
from contracts.envelope import ContentMode
from contracts.errors import BullpenError, ErrorCode, PartialUsage
from contracts.heartbeat import Price, WorkerState
from contracts.response import Answer, ConfidenceSource, Outcome
from contracts.subjects import Kind

MOST_ESCAPED = len(r"\u0000")
"""Bytes that one byte of text takes in JSON, at most."""
MOST_AROUND = 100
"""Bytes of quotes and brackets around the content."""


class ResponseRecord(OpenModel):
    """One row per request, answered or failed."""

    request_id: str
    task_id: str
    kind: Kind = "infer"
    """`infer` for an answer, `embed` for vectors."""
    created_at: datetime
    """When the request arrived."""
    status: Literal["ok", "error"]
    error_code: ErrorCode | None = None
    error_message: str | None = None
    model_id: str | None = None
    backend: str | None = None
    worker_id: str | None = None
    manager_id: str | None = None
    """Null when the worker was asked directly."""
    policy: str = "balanced"
    priority: str = "interactive"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Part of `prompt_tokens`, as are `cache_write_tokens`."""
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Part of `completion_tokens`."""
    tokens_used: int | None = None
    cost_usd: Decimal | None = None
    """The cost of all attempts together. Null: unknown."""
    price: Price | None = None
    """The price at the time of the request."""
    duration_ms: float
    ttft_ms: float | None = None
    queue_ms: float | None = None
    confidence: float | None = None
    confidence_source: ConfidenceSource | None = None
    finish_reason: str | None = None
    attempts: int = 0
    streamed: bool = False
    resumed: bool = False
    replayed: bool = False
    simulated: bool = False
    prompt: str | None = None
    """The question as text: the prompt, or the last user message."""
    output: str | None = None
    context: JsonObject = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    content: ContentMode = "full"
    """How much of the words this record keeps."""

    def within(self, most: int) -> "ResponseRecord":
        """The record with no more than about `most` bytes of content, so that it fits into a message.

        Prompt and answer are cut, and say so; figures and the tenant never are.
        """
        if self._is_small(most) or len(to_json((self.prompt, self.output, self.context, self.metadata))) <= most:
            return self
        metadata = self.metadata
        if len(to_json(metadata)) > most // 4:
            metadata = {name: value for name, value in metadata.items() if name == "tenant"}
        return self.model_copy(
            update={
                "prompt": _cut(self.prompt, most // 3),
                "output": _cut(self.output, most // 3),
                "context": {},
                "metadata": metadata,
            }
        )

    def _is_small(self, most: int) -> bool:
        """Whether the record surely fits, without writing it down."""
        characters = len(self.prompt or "") + len(self.output or "")
        return not self.context and not self.metadata and MOST_ESCAPED * characters + MOST_AROUND <= most

    @classmethod
    def answered(
        cls,
        request: Request,
        response: Answer,
        *,
        created_at: datetime,
        cost_usd: Decimal | None,
        price: Price | None = None,
        manager_id: str | None = None,
    ) -> "ResponseRecord":
        """The row of a request that got its answer; `cost_usd` covers all attempts."""
        told = response.__dict__
        own = {
            "created_at": created_at,
            "status": "ok",
            "error_code": None,
            "error_message": None,
            "manager_id": manager_id,
            "cost_usd": cost_usd,
            "price": price,
            "attempts": 0 if response.replayed else max(1, len(response.attempts)),
            "output": response.output or response.refusal or "",
            "content": "full",
        }
        if request.kind == "embed":
            own |= dict.fromkeys(("output", "confidence", "confidence_source", "finish_reason", "ttft_ms"))
        return cls.built({**{name: told[name] for name in _SHARED}, **_asked(request), **own})

    @classmethod
    def failed(
        cls,
        request: Request,
        error: BullpenError,
        *,
        request_id: str,
        created_at: datetime,
        duration_ms: float,
        attempts: int,
        cost_usd: Decimal | None,
        manager_id: str | None = None,
    ) -> "ResponseRecord":
        """The row of a request that got an error."""
        return cls(
            request_id=request_id,
            created_at=created_at,
            status="error",
            error_code=error.code,
            error_message=error.message,
            duration_ms=duration_ms,
            attempts=attempts,
            cost_usd=cost_usd,
            manager_id=manager_id,
            **_asked(request),
        )


def _cut(text: str | None, most: int) -> str | None:
    """`text`, cut to about `most` bytes of JSON."""
    if len(to_json(text)) <= most:
        return text
    whole = (text or "").encode()
    kept = whole[:most].decode(errors="ignore")
    if len(to_json(kept)) > most + 2:
        kept = kept[: most // MOST_ESCAPED]
    return f"{kept} … ({len(whole)} bytes in all)"


_SHARED = tuple(name for name in ResponseRecord.model_fields if name in Answer.model_fields)
"""The fields that the books take from the answer unchanged."""


def _asked(request: Request) -> JsonObject:
    """The parts of the question that the books keep."""
    return {
        "task_id": request.task_id,
        "kind": request.kind,
        "policy": request.policy,
        "priority": request.priority,
        "streamed": request.stream,
        "prompt": request.question,
        "context": request.context_extras,
        "metadata": request.metadata,
    }


class AttemptRecord(OpenModel):
    """One row per attempt, key (request_id, attempt)."""

    request_id: str
    attempt: int
    task_id: str
    kind: Kind = "infer"
    created_at: datetime
    worker_id: str
    backend: str
    model_id: str
    epoch: str | None = None
    outcome: Outcome
    error_code: ErrorCode | None = None
    error_message: str | None = None
    duration_ms: float
    ttft_ms: float | None = None
    queue_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Part of `prompt_tokens`, as are `cache_write_tokens`."""
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Part of `completion_tokens`."""
    cost_usd: Decimal | None = None
    price: Price | None = None
    """The price at the time of the attempt."""
    confidence: float | None = None
    simulated: bool = False

    @classmethod
    def of(
        cls,
        *,
        request_id: str,
        attempt: int,
        task_id: str,
        kind: Kind,
        created_at: datetime,
        worker_id: str,
        backend: str,
        model_id: str,
        epoch: str | None,
        outcome: Outcome,
        error: BullpenError | None,
        answer: Answer | None,
        duration_ms: float,
        ttft_ms: float | None,
        queue_ms: float | None,
        usage: PartialUsage,
        cost_usd: Decimal | None,
        price: Price | None,
    ) -> "AttemptRecord":
        """The row of one attempt. No field has a default, so that every writer sets every field."""
        return cls.built(
            {
                "request_id": request_id,
                "attempt": attempt,
                "task_id": task_id,
                "kind": kind,
                "created_at": created_at,
                "worker_id": worker_id,
                "backend": backend,
                "model_id": model_id,
                "epoch": epoch,
                "outcome": outcome,
                "error_code": error.code if error else None,
                "error_message": error.message if error else None,
                "duration_ms": duration_ms,
                "ttft_ms": ttft_ms,
                "queue_ms": queue_ms,
                "confidence": answer.confidence if answer and kind == "infer" else None,
                "simulated": answer.simulated if answer else False,
                "price": price,
                **usage.__dict__,
                "cost_usd": cost_usd,
            }
        )


class WorkerEventRecord(OpenModel):
    """A worker changed its state."""

    event_id: str
    created_at: datetime
    worker_id: str
    backend: str
    epoch: str
    state: WorkerState
    previous: WorkerState | None = None
    reason: str = ""
    detail: JsonObject = Field(default_factory=dict)


class Feedback(OpenModel):
    """`infer.feedback`: a judgement on an answer."""

    task_id: Annotated[str, Field(min_length=1, max_length=128)]
    score: Annotated[float, Field(ge=0, le=1)]
    source: str | None = None
    comment: str | None = None


class FeedbackRecord(Feedback):
    feedback_id: str
    created_at: datetime
