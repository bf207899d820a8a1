"""Whether to ask somebody else, and what to say when not. Pure.

Not started: going elsewhere is free. Failed or uncertain: so many attempts, one per worker. A request
on which two workers died is not given to a third.
"""

from collections.abc import Sequence

from contracts import ANOTHER_WORKER_MAY_HELP, BullpenError, ErrorCode, Outcome
from manager.config import ManagerConfig
from manager.request.attempt import Attempt, Ending
from manager.request.queue import SOON_MS
from manager.routing.filters import RejectReason
from manager.routing.ranking import Ranking

DEATHS_ALLOWED = 2


def verdict(attempts: Sequence[Attempt], config: ManagerConfig) -> BullpenError | None:
    """The error to end with after the last attempt failed, or None: ask the next worker."""
    ending = last(attempts).ended
    assert isinstance(ending, Ending)
    if sum(attempt.killed for attempt in attempts) >= DEATHS_ALLOWED:
        return BullpenError(ErrorCode.POISON_REQUEST, f"{DEATHS_ALLOWED} workers died on this request")
    if ending.error.prompt_tokens is not None:
        return None  # too long for that model: one with a larger context window may do
    if ending.error.code not in ANOTHER_WORKER_MAY_HELP:
        return ending.error
    tried = started(attempts)
    paid = any(attempt.paid for attempt in tried)
    if len(tried) >= (config.max_attempts_paid if paid else config.max_attempts_local):
        return exhausted(attempts)
    return None


def last(attempts: Sequence[Attempt]) -> Attempt:
    """The one that ended last."""
    return max(attempts, key=lambda attempt: attempt.ended_at)


def started(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that may have cost something and brought no answer."""
    return [attempt for attempt in attempts if attempt.outcome not in (Outcome.OK, Outcome.REFUSED)]


def exhausted(attempts: Sequence[Attempt], because: str = "") -> BullpenError:
    """Everybody we may ask was asked: the last word of the last one, said so, and why nobody else is asked."""
    error = next((a.error for a in reversed(attempts) if a.error is not None), None)
    if error is None:
        return BullpenError(ErrorCode.NO_WORKER, "no other worker can take this request")
    names = ", ".join(a.worker_id for a in attempts)
    soon = SOON_MS if error.code is ErrorCode.OVERLOADED else None
    return BullpenError(
        error.code,
        f"tried {names}: {error.message}" + (f" ({because})" if because else ""),
        field=error.field,
        retry_after_ms=soon if error.retry_after_ms is None else error.retry_after_ms,
        retryable=error.retryable,
    )


def nobody(ranking: Ranking, asked: str | None, served: Sequence[str]) -> BullpenError:
    """Why no worker could be chosen, and what to do about it."""
    because = "; ".join(ranking.reasons[:5])
    match ranking.obstacle:
        case RejectReason.BUDGET:
            return BullpenError(
                ErrorCode.BUDGET_EXCEEDED, f"nobody answers within max_cost_usd: {because}", field="max_cost_usd"
            )
        case RejectReason.TOO_LONG:
            return BullpenError(
                ErrorCode.INVALID_REQUEST, f"the prompt fits into nobody's context window: {because}", field="prompt"
            )
        case RejectReason.NO_SUCH_MODEL:
            listed = ", ".join(served) or "nothing"
            return BullpenError(ErrorCode.NO_SUCH_MODEL, f"nobody serves {asked}; served are: {listed}", field="model")
    code, what = _LATER.get(ranking.obstacle, _NOBODY)
    retry_after_ms = max(1000, round(ranking.wait_s * 1000))
    return BullpenError(code, f"{what}: {because}" if because else what, retry_after_ms=retry_after_ms)


_NOBODY = (ErrorCode.NO_WORKER, "no worker is in the bullpen: start one with `bullpen worker NAME`")
_LATER = {
    RejectReason.PAUSED: (ErrorCode.RATE_LIMITED, "every fitting worker is rate limited"),
    RejectReason.FULL: (ErrorCode.OVERLOADED, "every fitting worker is full"),
    RejectReason.LATE: (ErrorCode.OVERLOADED, "so many wait already that nobody would answer before the deadline"),
    RejectReason.UNABLE: (ErrorCode.NO_WORKER, "nobody can answer this now"),
    RejectReason.FAILING: (ErrorCode.NO_WORKER, "nobody can answer this now"),
}
"""What the same request may not meet a little later."""
