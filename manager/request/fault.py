"""Whose fault a failed attempt is: the model's at this worker, the worker's, neither, or not known yet. Pure."""

from enum import Enum

from contracts import ErrorCode, Outcome
from manager.request.attempt import Attempt
from manager.request.lifecycle import State

CONCERNS_WORKER = frozenset({"worker", "account"})
SAYS_NOTHING = frozenset({ErrorCode.NO_WORKER, ErrorCode.DRAINING, ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED})
"""Codes with which a worker that is well declines: it is full, limited, or leaving."""


class Fault(Enum):
    NONE = "none"
    """Not the worker's or model's: the request's own, the caller's wish, or known already (the worker is gone, or
    full).
    """
    MODEL = "model"
    """This model's at this worker."""
    WORKER = "worker"
    """The worker's as a whole: it does not claim, its provider is away, its key is refused."""
    OPEN = "open"
    """Not known yet: the provider declined the request. The model's if another worker answers it; else the
    request's.
    """


def fault_of(attempt: Attempt) -> Fault:
    """The fault of an attempt that is over."""
    error = attempt.error
    if error is None or attempt.choice.worker.gone or attempt.worker_died or attempt.state is State.CANCELLED:
        return Fault.NONE
    if attempt.outcome is Outcome.HEDGED_LOSER or error.code in (ErrorCode.CANCELLED, ErrorCode.DEADLINE_EXCEEDED):
        return Fault.NONE
    if attempt.state is State.REFUSED and attempt.final is None:
        return Fault.WORKER  # it did not claim
    if error.code in SAYS_NOTHING and attempt.state is State.REFUSED:
        return Fault.NONE
    if error.fault in CONCERNS_WORKER:
        return Fault.WORKER
    if error.field == "dimensions":
        return Fault.NONE  # a model that cannot shorten its vectors is well
    if attempt.state is State.REFUSED:
        return _of_refusal(attempt)
    return Fault.NONE if error.fault == "request" else Fault.MODEL


def _of_refusal(attempt: Attempt) -> Fault:
    error = attempt.error
    assert error is not None
    if error.fault == "request" or attempt.prompt_is:
        return Fault.NONE
    return Fault.MODEL if error.code is ErrorCode.NO_SUCH_MODEL else Fault.OPEN
