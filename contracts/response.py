"""The answer, and the pieces of it that travel while it is being made."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import JsonObject, Money, OpenModel

ConfidenceSource = Literal["logprobs", "verifier", "prior"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class Outcome(StrEnum):
    """How one attempt ended, as the books call it."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"
    LATE_DISCARDED = "late_discarded"
    HEDGED_LOSER = "hedged_loser"
    TRUNCATED = "truncated"


class AttemptSummary(OpenModel):
    worker_id: str
    model_id: str
    outcome: Outcome
    duration_ms: float
    error: str | None = None


class InferenceResponse(OpenModel):
    """A whole answer. The first six fields are the seed of the contract and never change."""

    task_id: str
    model_id: str
    output: str
    tokens_used: int
    """Prompt and completion together."""
    duration_ms: float
    """From the request's arrival at the role that answers, to the last token."""
    confidence: Annotated[float, Field(ge=0, le=1)]

    schema_: Literal["bullpen.response.v1"] = Field(default="bullpen.response.v1", alias="schema")
    request_id: str
    backend: str
    worker_id: str
    prompt_tokens: int | None
    """As the provider counts, cached ones included. None: it did not say, and `tokens_used` lacks them."""
    completion_tokens: int
    """As the provider counts, reasoning included; where it did not say: the pieces that came."""
    cached_tokens: int | None = None
    """Prompt tokens that the provider had in its cache. None: unknown."""
    cache_write_tokens: int | None = None
    """Prompt tokens that it wrote to its cache, where it bills them apart. None: unknown."""
    reasoning_tokens: int | None = None
    """Completion tokens of hidden reasoning. None: unknown."""
    cost_usd: Money | None = None
    """None: the price is unknown. Never silently zero."""
    finish_reason: FinishReason
    confidence_source: ConfidenceSource
    ttft_ms: float | None = None
    """Time to the first token."""
    queue_ms: float = 0.0
    """Time spent waiting for a free place, at the Manager and at the worker."""
    attempts: tuple[AttemptSummary, ...] = ()
    tool_calls: tuple[JsonObject, ...] | None = None
    unsupported: tuple[str, ...] = ()
    """Parameters that the request set and the model does not take: it answered without them."""
    resumed: bool = False
    replayed: bool = False
    simulated: bool = False
    """True when no model was asked (the simulated worker)."""
    created_at: datetime


class Chunk(OpenModel):
    """A piece of a streamed answer."""

    type: Literal["chunk"] = "chunk"
    task_id: str
    seq: int
    """0, 1, 2 … over the whole stream: never repeated, never skipped."""
    delta: str
    tokens: int | None = None
    """Worker to Manager: the tokens of the answer so far."""


class Resumed(OpenModel):
    """The stream goes on with another worker."""

    type: Literal["resumed"] = "resumed"
    task_id: str
    seq: int
    from_: str = Field(alias="from")
    to: str
    mode: Literal["continued", "restarted"]


class FinalResponse(InferenceResponse):
    """The last message with content of a stream."""

    type: Literal["response"] = "response"


StreamEvent = Annotated[Chunk | Resumed | FinalResponse, Field(discriminator="type")]
