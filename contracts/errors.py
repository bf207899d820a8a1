"""Every failure as a caller sees it: one code, one status, one sentence.

A failure stands twice in its message: in the headers (`Nats-Service-Error`, for tools that know ADR-32) and in the body
(for `nats req --raw` and all others). Provider errors are mapped to what the mesh can do about them: ask another
worker, fix the key, fix the request, or wait.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import Cost, Epoch, OpenModel, Tokens, Whole, WholeMilliseconds, Words
from contracts.response import MOST_ATTEMPTS, Answer, AttemptSummary, Outcome


class ErrorCode(StrEnum):
    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    NO_SUCH_MODEL = "no_such_model"
    NO_WORKER = "no_worker"
    DRAINING = "draining"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    CONFLICT = "conflict"
    POISON_REQUEST = "poison_request"
    BUDGET_EXCEEDED = "budget_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    UPSTREAM_AUTH = "upstream_auth"
    UPSTREAM_ERROR = "upstream_error"
    EMPTY_ANSWER = "empty_answer"
    MALFORMED_TOOL_CALL = "malformed_tool_call"
    INTERNAL = "internal"


STATUS: dict[ErrorCode, int] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: 400,
    ErrorCode.PAYLOAD_TOO_LARGE: 413,
    ErrorCode.NO_SUCH_MODEL: 404,
    ErrorCode.NO_WORKER: 503,
    ErrorCode.DRAINING: 503,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.CONFLICT: 409,
    ErrorCode.POISON_REQUEST: 500,
    ErrorCode.BUDGET_EXCEEDED: 402,
    ErrorCode.DEADLINE_EXCEEDED: 504,
    ErrorCode.CANCELLED: 499,
    ErrorCode.UPSTREAM_AUTH: 502,
    ErrorCode.UPSTREAM_ERROR: 502,
    ErrorCode.EMPTY_ANSWER: 502,
    ErrorCode.MALFORMED_TOOL_CALL: 502,
    ErrorCode.INTERNAL: 500,
}
"""HTTP status numbers, as in docs/wire.md."""

WORTH_RETRYING = frozenset(
    {
        ErrorCode.NO_WORKER,
        ErrorCode.DRAINING,
        ErrorCode.OVERLOADED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.UPSTREAM_ERROR,
        ErrorCode.EMPTY_ANSWER,
        ErrorCode.MALFORMED_TOOL_CALL,
        ErrorCode.INTERNAL,
    }
)
"""Codes after which the same request may succeed later, unless the error says otherwise."""

ANOTHER_WORKER_MAY_HELP = frozenset(
    {
        ErrorCode.NO_SUCH_MODEL,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.NO_WORKER,
        ErrorCode.DRAINING,
        ErrorCode.OVERLOADED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.UPSTREAM_AUTH,
        ErrorCode.UPSTREAM_ERROR,
        ErrorCode.EMPTY_ANSWER,
        ErrorCode.MALFORMED_TOOL_CALL,
        ErrorCode.INTERNAL,
    }
)
"""Codes of one worker's failure after which the Manager asks another worker."""

NOT_STARTED = frozenset(
    {
        ErrorCode.NO_SUCH_MODEL,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        ErrorCode.NO_WORKER,
        ErrorCode.DRAINING,
        ErrorCode.OVERLOADED,
        ErrorCode.RATE_LIMITED,
    }
)
"""Codes with which a worker refuses before it has computed anything: asking another worker costs nothing."""

BEGUN_NOWHERE = frozenset(
    {ErrorCode.NO_WORKER, ErrorCode.DRAINING, ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED, ErrorCode.CONFLICT}
)
"""Codes that say nothing about the request itself: no worker could take it now."""


MAX_MESSAGE, MAX_FIELD = 2000, 200
"""Characters. An error may quote megabytes of a bad request; the error itself must always fit."""


Fault = Literal["request", "model", "worker", "account", "ours"]
"""Whose fault a failed attempt is, as far as the worker can tell.

`request`: it could not be turned into a question for the provider. `model`: this model at this worker refused it or
failed. `worker`: the provider cannot be reached, or the process is ill. `account`: the provider account's key, money or
limits. `ours`: a bug.
"""


class ErrorDetail(OpenModel):
    code: ErrorCode
    status: Annotated[int, Field(ge=0, le=999)]
    message: Words
    retryable: bool
    retry_after_ms: WholeMilliseconds | None = None
    field: Words | None = None
    """The request's field that is wrong, as a dotted path (`messages.0.role`)."""
    prompt_tokens: Tokens | None = None
    """Only when the prompt is too long for the model: the prompt's size in tokens as the worker counts; 0: unknown."""
    fault: Fault | None = None
    """Worker to Manager: whose fault it is. Null: the worker does not say."""


class PartialUsage(OpenModel):
    """What a failed or cancelled attempt had used before it ended. Null: unknown."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    cached_tokens: Tokens | None = None
    """Part of `prompt_tokens`, as are `cache_write_tokens`."""
    cache_write_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None
    """Part of `completion_tokens`."""
    cost_usd: Cost | None = None

    @classmethod
    def of(cls, answer: Answer) -> "PartialUsage":
        """The usage of an answer."""
        told = answer.__dict__
        return cls.built({name: told[name] for name in cls.model_fields})


class ErrorReply(OpenModel):
    """The body of a failed request's one reply."""

    schema_: Literal["bullpen.error.v1"] = Field(default="bullpen.error.v1", alias="schema")
    task_id: str | None = None
    request_id: str | None = None
    error: ErrorDetail
    attempts: Annotated[tuple[AttemptSummary, ...], Field(max_length=MOST_ATTEMPTS)] = ()
    usage: PartialUsage | None = None
    outcome: Outcome | None = None
    """Worker to Manager: how the attempt ended, where the error code does not say it: `truncated`."""
    attempt: Whole | None = None
    """Worker to Manager: the attempt that has failed. A message about another attempt or epoch is ignored."""
    epoch: Epoch | None = None
    """Worker to Manager: the worker's epoch."""


class BullpenError(Exception):
    """A request failed in a way that the contract has a code for."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
        retryable: bool | None = None,
        prompt_tokens: int | None = None,
        fault: Fault | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.retryable = code in WORTH_RETRYING if retryable is None else retryable
        self.prompt_tokens = prompt_tokens
        """Tokens of a prompt that is too long for its model; a model with a larger context window may help."""
        self.fault = fault
        """Whose fault it is. None: not known."""
        self.outcome = outcome
        """How an attempt that raised it ended, where the code does not say it: `truncated`."""

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def status(self) -> int:
        return STATUS[self.code]

    @property
    def begun_nowhere(self) -> bool:
        """Whether the request may wait until a worker can take it."""
        return self.retryable and self.code in BEGUN_NOWHERE

    def detail(self) -> ErrorDetail:
        return ErrorDetail(
            code=self.code,
            status=self.status,
            message=_short(self.message, MAX_MESSAGE),
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            field=None if self.field is None else _short(self.field, MAX_FIELD),
            prompt_tokens=self.prompt_tokens,
            fault=self.fault,
        )

    @classmethod
    def from_detail(cls, detail: ErrorDetail) -> "BullpenError":
        return cls(
            detail.code,
            detail.message,
            field=detail.field,
            retry_after_ms=detail.retry_after_ms,
            retryable=detail.retryable,
            prompt_tokens=detail.prompt_tokens,
            fault=detail.fault,
        )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
