"""The answer, and the pieces of it that travel while it is being made."""

from collections.abc import Iterable
from dataclasses import dataclass
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
    """The token's UTF-8, which may be a part of a character. Null: unknown."""


class TokenLogprob(TopLogprob):
    """A token of the answer, and what else the model might have said there, likeliest first."""

    top_logprobs: Annotated[tuple[TopLogprob, ...], Field(max_length=MOST_TOP_LOGPROBS)] = ()


class FunctionDelta(OpenModel):
    name: str | None = None
    """In the call's first piece only."""
    arguments: str = ""


class ToolCallDelta(OpenModel):
    """A piece of a tool call, as in the common chat API: the pieces of one `index` join to the call."""

    index: Annotated[int, Field(ge=0, lt=MOST_TOOL_CALLS)]
    id: str | None = None
    """In the call's first piece only."""
    type: Literal["function"] = "function"
    function: FunctionDelta = FunctionDelta()


@dataclass(frozen=True, slots=True)
class Piece:
    """The content of one chunk of a stream, or of several successive ones."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: int | None = None
    """Tokens of the answer so far, when the worker says it."""

    def __bool__(self) -> bool:
        return bool(self.answers or self.reasoning or self.logprobs)

    @property
    def answers(self) -> bool:
        """Whether the piece has a part of the answer itself, not reasoning alone."""
        return bool(self.text or self.tool_calls)

    def __add__(self, later: "Piece") -> "Piece":
        return Piece(
            self.text + later.text,
            self.reasoning + later.reasoning,
            _joined((*self.tool_calls, *later.tool_calls)),
            (*self.logprobs, *later.logprobs),
            later.tokens,
        )


def _joined(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """The same with fewer pieces: a piece that only continues the call before it is joined to it."""
    found: list[ToolCallDelta] = []
    for delta in deltas:
        before = found[-1] if found else None
        goes_on = delta.id is None and delta.function.name is None
        if before is not None and goes_on and before.index == delta.index:
            arguments = before.function.arguments + delta.function.arguments
            function = before.function.model_copy(update={"arguments": arguments})
            found[-1] = before.model_copy(update={"function": function})
        else:
            found.append(delta)
    return tuple(found)


class AttemptSummary(OpenModel):
    worker_id: str
    model_id: str
    outcome: Outcome
    duration_ms: Milliseconds
    error: Words | None = None


MOST_DIMENSIONS = 65_536
Vector = Annotated[tuple[float, ...], Field(max_length=MOST_DIMENSIONS)]
Vectors = tuple[Vector, ...] | tuple[str, ...]
"""Each vector as numbers, or as little-endian 32-bit floats in base64."""


class Answer(OpenModel):
    """The fields of every answer, of whatever kind."""

    task_id: str
    model_id: str
    output: str
    tokens_used: Tokens
    """Prompt and completion together."""
    duration_ms: Milliseconds
    """From the request's arrival at the role that answers, to the last token."""
    confidence: Annotated[float, Field(ge=0, le=1)]

    request_id: str
    backend: str
    worker_id: str
    prompt_tokens: Tokens | None
    """As the provider counts, cached ones included. Null: unknown, and `tokens_used` lacks them."""
    completion_tokens: Tokens
    """As the provider counts, reasoning included; where the provider does not count, the number of pieces."""
    cached_tokens: Tokens | None = None
    """Prompt tokens that the provider had in its cache. None: unknown."""
    cache_write_tokens: Tokens | None = None
    """Prompt tokens that the provider wrote to its cache, where it bills them apart. Null: unknown."""
    reasoning_tokens: Tokens | None = None
    """Completion tokens of hidden reasoning. None: unknown."""
    cost_usd: Cost | None = None
    """Null: the price is unknown. Never silently zero."""
    finish_reason: FinishReason
    confidence_source: ConfidenceSource
    ttft_ms: Milliseconds | None = None
    """Time to the first token."""
    queue_ms: Milliseconds = 0.0
    """Time spent waiting for a free place, at the Manager and at the worker."""
    attempts: Annotated[tuple[AttemptSummary, ...], Field(max_length=MOST_ATTEMPTS)] = ()
    tool_calls: Annotated[tuple[JsonObject, ...], Field(max_length=MOST_TOOL_CALLS)] | None = None
    reasoning: str | None = None
    """The model's reasoning, where its provider shows it. It is no part of `output`."""
    refusal: str | None = None
    """Why the model declined to answer, in its own words, where the provider tells that apart."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the answer's tokens, for a request with `logprobs`."""
    extra: JsonObject | None = None
    """What a caller puts into `extra` when it sends this answer as an earlier turn, by backend; to be passed back
    unchanged.
    """
    unsupported: tuple[str, ...] = ()
    """Parameters of the request that the model does not take: it answered without them."""
    resumed: bool = False
    replayed: bool = False
    simulated: bool = False
    """True when no model was asked (the simulated worker)."""
    created_at: datetime


ANSWER = tuple(Answer.model_fields)


class InferenceResponse(Answer):
    """A whole answer. The first six fields are the seed of the contract and never change."""

    schema_: Literal["bullpen.response.v1"] = Field(default="bullpen.response.v1", alias="schema")


class Chunk(OpenModel):
    """A piece of a streamed answer."""

    type: Literal["chunk"] = "chunk"
    task_id: str
    seq: Whole
    """0, 1, 2 … over the whole stream: never repeated, never skipped."""
    delta: str
    """Text of the answer; empty where the chunk brings something else only."""
    reasoning: str | None = None
    """Text of the model's reasoning."""
    tool_calls: tuple[ToolCallDelta, ...] | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the tokens in `delta`, for a request with `logprobs`."""
    tokens: Tokens | None = None
    """Worker to Manager: tokens of the answer so far."""

    @classmethod
    def of(cls, task_id: str, seq: int, piece: Piece) -> "Chunk":
        return cls.built(
            {
                "type": "chunk",
                "task_id": task_id,
                "seq": seq,
                "delta": piece.text,
                "reasoning": piece.reasoning or None,
                "tool_calls": piece.tool_calls or None,
                "logprobs": piece.logprobs or None,
                "tokens": piece.tokens,
            }
        )

    @property
    def piece(self) -> Piece:
        return Piece(self.delta, self.reasoning or "", self.tool_calls or (), self.logprobs or (), self.tokens)


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
    """Worker to Manager: the attempt of this answer. A message about another attempt or epoch is ignored."""
    epoch: Epoch | None = None
    """Worker to Manager: the worker's epoch."""
    embeddings: Vectors | None = None
    """Worker to Manager: the vectors of an `EmbeddingRequest`; such an answer has no words."""

    @classmethod
    def of(cls, answer: Answer, attempt: int | None = None, epoch: str | None = None) -> "FinalResponse":
        """The same answer as the last message of a stream, or of a worker to its Manager."""
        told = answer.__dict__
        own = {"schema_": "bullpen.response.v1", "type": "response", "attempt": attempt, "epoch": epoch}
        return cls.built({**{name: told[name] for name in ANSWER}, **own, "embeddings": told.get("embeddings")})


StreamEvent = Annotated[Chunk | Resumed | FinalResponse, Field(discriminator="type")]
