"""The life of an attempt: its states, what each event means to them, and which state follows. Pure.

The states before the end say how far the worker is; those after it say what the books call it.
"""

from enum import StrEnum
from typing import assert_never

from contracts import NOT_STARTED, Claim, ErrorCode, ErrorReply, FinalResponse, Progress
from manager.request.events import (
    Accepted,
    AttemptEvent,
    CalledOff,
    GivenUp,
    Gone,
    Overdue,
    Streamed,
    Unjoined,
    Unreadable,
)


class State(StrEnum):
    """The state of an attempt."""

    SENT = "sent"
    """Sent, not claimed: not started."""
    QUEUED = "queued"
    """Claimed; waits inside the worker."""
    PREFILL = "prefill"
    """The worker computes; no token yet."""
    DECODE = "decode"
    ANSWERED = "answered"
    REFUSED = "refused"
    """Not begun and free: the worker declined, or did not claim it."""
    FAILED = "failed"
    UNCERTAIN = "uncertain"
    """May have been computed: the worker fell silent, or went away."""
    CANCELLED = "cancelled"
    LATE = "late"
    """The answer came after the attempt was given up."""


LIVE = frozenset({State.SENT, State.QUEUED, State.PREFILL, State.DECODE})


class Signal(StrEnum):
    """What an event means to the state of an attempt."""

    CLAIM = "claim"
    WAITS = "waits inside the worker"
    READS = "reads the prompt"
    WRITES = "writes the answer"
    ANSWER = "answer"
    REFUSAL = "refusal"
    FAILURE = "failure"
    STOPPED = "stopped by the worker"
    GONE = "worker gone"
    OVERDUE = "overdue"
    CALLED_OFF = "called off"
    GIVEN_UP = "given up"
    ACCEPTED = "accepted after all"


_ENDS = {
    Signal.ANSWER: State.ANSWERED,
    Signal.REFUSAL: State.REFUSED,
    Signal.FAILURE: State.FAILED,
    Signal.STOPPED: State.CANCELLED,
    Signal.GONE: State.UNCERTAIN,
    Signal.OVERDUE: State.UNCERTAIN,
    Signal.CALLED_OFF: State.CANCELLED,
    Signal.GIVEN_UP: State.UNCERTAIN,
}
_LATE = {Signal.ANSWER: State.LATE}

TRANSITIONS: dict[State, dict[Signal, State]] = {
    State.SENT: {
        **_ENDS,
        Signal.CLAIM: State.QUEUED,
        Signal.WAITS: State.QUEUED,
        Signal.READS: State.PREFILL,
        Signal.WRITES: State.DECODE,
        Signal.OVERDUE: State.REFUSED,
    },
    State.QUEUED: {**_ENDS, Signal.READS: State.PREFILL, Signal.WRITES: State.DECODE},
    State.PREFILL: {**_ENDS, Signal.WRITES: State.DECODE},
    State.DECODE: _ENDS,
    State.ANSWERED: {},
    State.REFUSED: _LATE,
    State.FAILED: _LATE,
    State.UNCERTAIN: _LATE,
    State.CANCELLED: _LATE,
    State.LATE: {Signal.ACCEPTED: State.ANSWERED},
}
"""From a state, on a signal, to a state. A signal that is not listed changes nothing."""

SAID_NO = NOT_STARTED | {ErrorCode.INVALID_REQUEST, ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.UPSTREAM_AUTH}
"""Codes with which a worker, or its provider, declines a request; nothing was computed unless usage is told."""


def signal_of(event: AttemptEvent) -> Signal:
    match event:
        case Claim():
            return Signal.CLAIM
        case Progress():
            return {"queued": Signal.WAITS, "prefill": Signal.READS, "decode": Signal.WRITES}[event.phase]
        case Streamed():
            return Signal.WRITES if event.piece.answers else Signal.READS  # thoughts are no token yet
        case FinalResponse():
            return Signal.ANSWER
        case ErrorReply():
            return _signal_of_error(event)
        case Unreadable() | Unjoined():
            return Signal.FAILURE
        case Gone():
            return Signal.GONE
        case Overdue():
            return Signal.OVERDUE
        case CalledOff():
            return Signal.CALLED_OFF
        case GivenUp():
            return Signal.GIVEN_UP
        case Accepted():
            return Signal.ACCEPTED
        case _:
            assert_never(event)


def _signal_of_error(reply: ErrorReply) -> Signal:
    if reply.error.code is ErrorCode.CANCELLED:
        return Signal.STOPPED
    began = reply.usage is not None and bool(reply.usage.completion_tokens or reply.usage.cost_usd)
    declined = reply.error.code in SAID_NO or reply.error.prompt_tokens is not None
    return Signal.REFUSAL if declined and not began else Signal.FAILURE
