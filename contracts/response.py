"""The answer, and the pieces of it that travel while it is being made."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import Cost, Epoch, JsonObject, Milliseconds, OpenModel, Tokens, Whole, Words

ConfidenceSource = Literal["logprobs", "verifier", "prior"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


MOST_ATTEMPTS = 1000
MOST_TOOL_CALLS = 1000
LogProbability = Annotated[float, Field(le=0)]


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


MOST_TOP_LOGPROBS = 20


class TopLogprob(OpenModel):
    """A token that the model might have said, and the natural logarithm of its probability."""

    token: str
    logprob: LogProbability
    bytes: tuple[int, ...] | None = None
    """The token's UTF-8, which may be a part of a character. None: unknown."""


class TokenLogprob(TopLogprob):
    """A token that it said, and what else it might have said there, likeliest first."""

    top_logprobs: Annotated[tuple[TopLogprob, ...], Field(max_length=MOST_TOP_LOGPROBS)] = ()


class FunctionDelta(OpenModel):
    name: str | None = None
    """Once, in the call's first piece."""
    arguments: str = ""


class ToolCallDelta(OpenModel):
    """A piece of the call of a tool, as in OpenAI's chat API: the pieces of one `index` join to the call."""

    index: Annotated[int, Field(ge=0, lt=MOST_TOOL_CALLS)]
    id: str | None = None
    """Once, in the call's first piece."""
    type: Literal["function"] = "function"
    function: FunctionDelta = FunctionDelta()


class AttemptSummary(OpenModel):
    worker_id: str
    model_id: str
    outcome: Outcome
    duration_ms: Milliseconds
    error: Words | None = None


class InferenceResponse(OpenModel):
    """A whole answer. The first six fields are the seed of the contract and never change."""

    task_id: str
    model_id: str
    output: str
    tokens_used: Tokens
    """Prompt and completion together."""
    duration_ms: Milliseconds
    """From the request's arrival at the role that answers, to the last token."""
    confidence: Annotated[float, Field(ge=0, le=1)]

    schema_: Literal["bullpen.response.v1"] = Field(default="bullpen.response.v1", alias="schema")
    request_id: str
    backend: str
    worker_id: str
    prompt_tokens: Tokens | None
    """As the provider counts, cached ones included. None: it did not say, and `tokens_used` lacks them."""
    completion_tokens: Tokens
    """As the provider counts, reasoning included; where it did not say: the pieces that came."""
    cached_tokens: Tokens | None = None
    """Prompt tokens that the provider had in its cache. None: unknown."""
    cache_write_tokens: Tokens | None = None
    """Prompt tokens that it wrote to its cache, where it bills them apart. None: unknown."""
    reasoning_tokens: Tokens | None = None
    """Completion tokens of hidden reasoning. None: unknown."""
    cost_usd: Cost | None = None
    """None: the price is unknown. Never silently zero."""
    finish_reason: FinishReason
    confidence_source: ConfidenceSource
    ttft_ms: Milliseconds | None = None
    """Time to the first token."""
    queue_ms: Milliseconds = 0.0
    """Time spent waiting for a free place, at the Manager and at the worker."""
    attempts: Annotated[tuple[AttemptSummary, ...], Field(max_length=MOST_ATTEMPTS)] = ()
    tool_calls: tuple[JsonObject, ...] | None = None
    reasoning: str | None = None
    """What the model thought, where its provider shows it. It is no part of `output`."""
    refusal: str | None = None
    """Why the model declined to answer, in its own words, where the provider tells that apart."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the answer's tokens, for a request with `logprobs`."""
    extra: JsonObject | None = None
    """What belongs into `extra` of this answer as an earlier turn, by the kind of backend; opaque."""
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
    seq: Whole
    """0, 1, 2 … over the whole stream: never repeated, never skipped."""
    delta: str
    """Text of the answer; empty where the piece brings only something else."""
    reasoning: str | None = None
    """Text that the model thought."""
    tool_calls: tuple[ToolCallDelta, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the tokens in `delta`, for a request with `logprobs`."""
    tokens: Tokens | None = None
    """Worker to Manager: the tokens of the answer so far."""


class Resumed(OpenModel):
    """The stream goes on with another worker."""

    type: Literal["resumed"] = "resumed"
    task_id: str
    seq: Whole
    from_: str = Field(alias="from")
    to: str
    mode: Literal["continued", "restarted"]


class FinalResponse(InferenceResponse):
    """The last message with content of a stream."""

    type: Literal["response"] = "response"
    attempt: Whole | None = None
    """Worker to Manager: of which attempt it is the answer. One that names another attempt, or epoch, is ignored."""
    epoch: Epoch | None = None
    """Worker to Manager: the worker's."""


StreamEvent = Annotated[Chunk | Resumed | FinalResponse, Field(discriminator="type")]
