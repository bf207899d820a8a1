"""Whether to ask somebody else, and what to say when not. Pure.

Not started: going elsewhere is free. Failed or uncertain: so many attempts, one per worker. A request
on which two workers died is not given to a third.
"""

from collections.abc import Sequence

from contracts import ANOTHER_WORKER_MAY_HELP, BullpenError, ErrorCode, Outcome
from manager.attempt import Attempt, Ending
from manager.config import ManagerConfig
from manager.ranking import Obstacle, Ranking

DEATHS_ALLOWED = 2


def verdict(attempts: Sequence[Attempt], config: ManagerConfig) -> BullpenError | None:
    """The error to end with after the last attempt failed, or None: ask the next worker."""
    last = attempts[-1].ended
    assert isinstance(last, Ending)
    if sum(1 for a in attempts if isinstance(a.ended, Ending) and a.ended.died) >= DEATHS_ALLOWED:
        return BullpenError(ErrorCode.POISON_REQUEST, f"{DEATHS_ALLOWED} workers died on this request")
    if last.error.code not in ANOTHER_WORKER_MAY_HELP:
        return last.error
    started = [a for a in attempts if a.outcome not in (Outcome.OK, Outcome.REFUSED)]
    paid = any(not a.choice.card.local for a in started)
    if len(started) >= (config.max_attempts_paid if paid else config.max_attempts_local):
        return exhausted(attempts)
    return None


def exhausted(attempts: Sequence[Attempt]) -> BullpenError:
    """Everybody we may ask was asked: the last word of the last one, said so."""
    last = next((a for a in reversed(attempts) if a.error is not None), None)
    if last is None or last.error is None:
        return BullpenError(ErrorCode.NO_WORKER, "no other worker can take this request")
    names = ", ".join(a.worker_id for a in attempts)
    return BullpenError(
        last.error.code,
        f"tried {names}: {last.error.message}",
        field=last.error.field,
        retry_after_ms=last.error.retry_after_ms,
        retryable=last.error.retryable,
    )


def nobody(ranking: Ranking, asked: str | None, served: Sequence[str]) -> BullpenError:
    """Why no worker could be chosen, and what to do about it."""
    because = "; ".join(ranking.reasons[:5])
    match ranking.obstacle:
        case Obstacle.BUDGET:
            return BullpenError(
                ErrorCode.BUDGET_EXCEEDED, f"nobody answers within max_cost_usd: {because}", field="max_cost_usd"
            )
        case Obstacle.NO_SUCH_MODEL:
            listed = ", ".join(served) or "nothing"
            return BullpenError(ErrorCode.NO_SUCH_MODEL, f"nobody serves {asked}; served are: {listed}", field="model")
        case Obstacle.PAUSED:
            return BullpenError(
                ErrorCode.RATE_LIMITED, f"every fitting worker is rate limited: {because}", retry_after_ms=1000
            )
        case Obstacle.FULL:
            return BullpenError(ErrorCode.OVERLOADED, f"every fitting worker is full: {because}", retry_after_ms=1000)
        case Obstacle.UNABLE:
            return BullpenError(ErrorCode.NO_WORKER, f"nobody can answer this now: {because}", retry_after_ms=1000)
        case _:
            return BullpenError(
                ErrorCode.NO_WORKER,
                "no worker is in the bullpen: start one with `bullpen worker NAME`",
                retry_after_ms=1000,
            )
