"""The whole rule of failover: whether another worker may be asked, which ones not, or what the error is. Pure.

`decide` is asked each time no attempt runs for a request: at its start, when an attempt has ended, and when no worker
could be chosen. An attempt that was not started is free to go elsewhere. Failed and uncertain attempts are limited in
number and paid from budgets. A refusal counts against the request only when a second, different backend says the same.
A request on which two workers died is not given to a third. Paid work that is not proved to have stopped is not bought
twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Protocol, assert_never

from contracts import BullpenError, ErrorCode, FinalResponse
from manager.config import SOON_MS
from manager.request.attempt import Attempt
from manager.request.events import Overdue, Unjoined
from manager.request.lifecycle import State
from manager.routing.filters import RejectReason
from manager.routing.query import NONE_EXCLUDED, Excluded
from manager.routing.ranking import Ranking

DEATHS_ALLOWED = 2
TIMES_UNHEARD = 3
"""How often a request is sent to a worker that never got it."""
TIMES_FULL = 8
"""How often a full worker is asked; between two times it has had a heartbeat, or has done something else."""
STRANGERS_TRIED = 3
"""Unknown workers that may fail to take the request before only known workers are asked."""
FREE_REFUSALS = 40
"""Refusals for other reasons than load before the request ends: each is free, but they must have an end."""
NAMES = 8
"""Workers that an error names: the last ones."""
REFUSALS_ALLOWED = 8
"""Providers that may decline one request before that is its answer."""
PROOF_WITHIN = 2.0
"""Seconds in which a worker that was told to stop confirms that it has."""
LOOK_AGAIN = 0.1
"""Seconds between two looks whether our own connection is back."""

ABOUT_MODEL = frozenset({ErrorCode.NO_SUCH_MODEL, ErrorCode.EMPTY_ANSWER})
"""Codes that say nothing of the worker's other models, whoever is at fault."""
ITS_OWN_FAULT = frozenset({ErrorCode.INVALID_REQUEST, ErrorCode.PAYLOAD_TOO_LARGE})
"""Codes that say that the request itself is wrong."""


# What it decides


@dataclass(frozen=True, slots=True)
class Answered:
    """There is an answer, as good as it will get."""

    answer: FinalResponse


@dataclass(frozen=True, slots=True)
class Ask:
    """Choose a worker, and send the request there."""

    exclude: Excluded = NONE_EXCLUDED
    include_full: bool = False
    """No other worker is left: wait for a worker that was full before, and ask another model of a worker that
    failed.
    """
    include_unclaimed: bool = False
    """Not even such a worker is left: ask one that is left alone because it was slow to claim, or refused."""
    known_only: bool = False
    """Ask no unknown workers: enough of them have not taken the request."""
    in_time_only: bool = False
    """There is an answer already, below the wanted confidence: ask only workers that would answer before the
    deadline.
    """
    is_retry: bool = False
    """The attempt is paid from the retry budget."""


FIRST = Ask()


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a place at a worker, or for time to pass, and decide again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WaitForWord:
    """Wait for the final message of a worker that was told to stop, and decide again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    error: BullpenError


Decision = Answered | Ask | Wait | WaitForWord | Fail


# What it goes by


@dataclass(frozen=True, slots=True)
class Look:
    """How the workers stood when one was to be chosen, and none could be."""

    ask: Ask
    """The `Ask` that found none."""
    ranking: Ranking
    pause_s: float = 0.0
    """Seconds until the first of the workers that asked for a pause may be asked."""
    warm_s: float = 0.0
    """Seconds in which a worker that was not heard of yet may still send its first heartbeat."""
    cut_off: bool = False
    """Our own connection is away, or all workers lost theirs with the server: they come back."""
    unaffordable: BullpenError | None = None
    """The budget that has not enough left, where one stood in the way."""
    wanted: str | None = None
    """The model, or the backend, that the caller asked for."""
    served: Sequence[str] = ()
    """The models served now."""


class Seam(Enum):
    """What may follow the text that a streaming caller has."""

    FREE = "free"
    """Anything: the caller has no text, or can forget it."""
    JOIN = "join"
    """Only words that go on after it."""
    NONE = "none"
    """Nothing: the text is of a kind that no other worker can go on with."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the caller and the config allow for one request."""

    max_attempts_local: int
    max_attempts_paid: int
    left_s: float
    """Seconds until the deadline."""
    min_confidence: float = 0.0
    seam: Seam = Seam.FREE
    reconnected_at: float = 0.0
    """When our connection was last made anew: a request that was sent before and not claimed never arrived."""
    retries_allowed: int = 0
    """Attempts without an answer whose repetition the retry budget has allowed already."""


class Budgets(Protocol):
    """The budgets that all requests of this Manager share."""

    def may_retry(self, now: float) -> bool:
        """Whether one more attempt may follow one that failed."""

    def may_spend_twice(self, usd: Decimal, now: float) -> bool:
        """Whether `usd` more may have been spent in vain."""


def decide(attempts: Sequence[Attempt], look: Look | None, limits: Limits, budgets: Budgets, now: float) -> Decision:
    """What is done next for a request of which no attempt runs.

    `look`: None when no worker was looked for since the last attempt ended. `now`: the loop's clock, seconds.
    """
    if not attempts and look is None and limits.left_s > 0 and limits.seam is not Seam.NONE:
        return FIRST
    best = best_of(attempts)
    if best is not None and (best.confidence >= limits.min_confidence or limits.seam is not Seam.FREE):
        return Answered(best)
    if limits.left_s <= 0:
        return _end(best, out_of_time())
    verdict = _after_failure(attempts, limits, budgets, now)
    if isinstance(verdict, BullpenError):
        return _end(best, verdict)
    if verdict is not None:
        return verdict
    if limits.seam is Seam.NONE:
        return Fail(exhausted(attempts, "no other answer can be joined to the half that was delivered"))
    if look is None:
        return Ask(
            exclude=excluded(attempts, limits.reconnected_at),
            known_only=_strangers(attempts) >= STRANGERS_TRIED,
            in_time_only=best is not None,
            is_retry=len(started(attempts)) > limits.retries_allowed,
        )
    return _when_none_fits(attempts, look, limits, best)


def best_of(attempts: Sequence[Attempt]) -> FinalResponse | None:
    """The answer with the highest confidence; of equals the first."""
    answers = [a.answer for a in attempts if a.state is State.ANSWERED and a.answer is not None]
    return max(answers, key=lambda answer: answer.confidence, default=None)


def excluded(attempts: Sequence[Attempt], reconnected_at: float, *, include_full: bool = False) -> Excluded:
    """The workers, and the models at a worker, that are not asked (again).

    A model that declined or answered the request has had its chance; the worker's other models have not. A worker at
    which an attempt failed is left alone, unless no other worker is left (`include_full`). A worker that never got the
    request, or was full, may be sent it again a few times.
    """
    if not attempts:
        return NONE_EXCLUDED
    full = Counter(a.worker_id for a in attempts if a.found_no_place)
    often = {worker_id for worker_id, times in full.items() if times >= TIMES_FULL or not include_full}
    unheard = Counter(a.worker_id for a in attempts if not a.found_no_place)
    often |= {worker_id for worker_id, times in unheard.items() if times >= TIMES_UNHEARD}
    had_it = [a for a in attempts if not _may_be_sent_again(a, reconnected_at, unclaimed=include_full)]
    models = frozenset((a.worker_id, a.model_id) for a in had_it)
    whole = {a.worker_id for a in had_it if not _concerns_model(a) or not (include_full or _cost_nothing(a))}
    return Excluded(workers=frozenset(whole | often), models=models)


def _may_be_sent_again(attempt: Attempt, reconnected_at: float, *, unclaimed: bool) -> bool:
    """Whether the worker never got the request, was full, or (`unclaimed`) was only slow to claim it.

    With `unclaimed`, also whether the worker lost its connection, is back, and another attempt costs nothing.
    """
    if attempt.found_no_place or (unclaimed and attempt.state is State.REFUSED and not attempt.claimed):
        return True
    if unclaimed and attempt.lost_its_line and not attempt.paid:
        return True
    if attempt.state is not State.REFUSED:
        return False
    lost_with_our_connection = attempt.sent_at < reconnected_at and not attempt.claimed
    never_begun = attempt.final is not None and attempt.error_code in (ErrorCode.NO_WORKER, ErrorCode.DRAINING)
    return lost_with_our_connection or never_begun


def _concerns_model(attempt: Attempt) -> bool:
    """Whether the attempt's end says nothing of the worker's other models."""
    if attempt.state is State.ANSWERED or attempt.declined or attempt.prompt_is:
        return True
    if isinstance(attempt.ending, Unjoined):
        return True
    error = attempt.error
    return error is not None and (error.fault == "model" or error.code in ABOUT_MODEL)


def _strangers(attempts: Sequence[Attempt]) -> int:
    """How many unknown workers were asked in vain."""
    return sum(a.choice.worker.stranger for a in attempts)


def _cost_nothing(attempt: Attempt) -> bool:
    return attempt.state in (State.REFUSED, State.ANSWERED)


def started(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Attempts that may have cost something and brought no answer."""
    return [a for a in attempts if a.state not in (State.ANSWERED, State.REFUSED)]


def _after_failure(
    attempts: Sequence[Attempt], limits: Limits, budgets: Budgets, now: float
) -> BullpenError | WaitForWord | None:
    """What the attempts so far forbid; None: another worker may be asked."""
    if sum(a.worker_died for a in attempts) >= DEATHS_ALLOWED:
        return BullpenError(ErrorCode.POISON_REQUEST, f"{DEATHS_ALLOWED} workers died on this request")
    if (wrong := _proved_wrong(attempts)) is not None:
        return wrong
    if sum(a.state is State.REFUSED and not a.found_no_place for a in attempts) >= FREE_REFUSALS:
        return exhausted(attempts, "so many refusals are enough")
    begun = started(attempts)
    paid = any(a.paid for a in begun)
    if len(begun) >= (limits.max_attempts_paid if paid else limits.max_attempts_local):
        return exhausted(attempts)
    if len(begun) <= limits.retries_allowed:
        return None
    if (running := _may_still_run(begun)) is not None:
        left = running.ended_at + PROOF_WITHIN - now
        if left > 0:
            return WaitForWord(left)
        return exhausted(attempts, f"the paid call at {running.worker_id} may still be running")
    if not budgets.may_retry(now):
        return exhausted(attempts, "too much is being tried again already")
    wasted = sum((a.likely_cost or Decimal(0) for a in begun if a.paid), Decimal(0))
    if wasted and not budgets.may_spend_twice(wasted, now):
        return exhausted(attempts, "too much has been paid twice in the last ten minutes")
    return None


def _proved_wrong(attempts: Sequence[Attempt]) -> BullpenError | None:
    """The error of a request that is wrong itself: two different backends say so, or very many providers."""
    declined = [a for a in attempts if a.declined]
    wrong = [a for a in declined if a.error_code in ITS_OWN_FAULT]
    by_backend = {a.backend: a for a in wrong}
    if len(by_backend) > 1:
        return exhausted(list(by_backend.values()))
    return exhausted(declined) if len(declined) >= REFUSALS_ALLOWED else None


def _may_still_run(begun: Sequence[Attempt]) -> Attempt | None:
    """A paid call whose worker lives, was told to stop, and has not confirmed it."""
    return next(
        (
            a
            for a in begun
            if a.paid and isinstance(a.ending, Overdue | Unjoined) and a.awaits_last_word and not a.choice.worker.gone
        ),
        None,
    )


def _end(best: FinalResponse | None, error: BullpenError) -> Answered | Fail:
    """Ends the request: an answer below the wanted confidence is better than none."""
    return Fail(error) if best is None else Answered(best)


def _when_none_fits(attempts: Sequence[Attempt], look: Look, limits: Limits, best: FinalResponse | None) -> Decision:
    """No worker could be chosen: wait, look further, or end."""
    reason = look.ranking.reason
    if reason is RejectReason.FULL:
        return Wait(limits.left_s)
    if best is not None:
        return Answered(best)
    if not look.ask.include_full:
        return Ask(
            exclude=excluded(attempts, limits.reconnected_at, include_full=True),
            include_full=True,
            include_unclaimed=reason is RejectReason.FAILING or not started(attempts),
        )
    if reason is RejectReason.PAUSED and look.pause_s < limits.left_s:
        return Wait(look.pause_s)
    if reason is RejectReason.BUDGET:
        return Fail(look.unaffordable or no_worker(look))
    if look.warm_s > 0:
        return Wait(look.warm_s)
    if look.cut_off:
        return Wait(min(limits.left_s, LOOK_AGAIN))
    return Fail(_why_none(attempts, look))


def _why_none(attempts: Sequence[Attempt], look: Look) -> BullpenError:
    reason = look.ranking.reason
    too_long = next((a.error for a in reversed(attempts) if a.prompt_is), None)
    hopeless = reason in (RejectReason.EXHAUSTED, RejectReason.UNABLE, RejectReason.TOO_LONG, RejectReason.INCAPABLE)
    if too_long is not None and hopeless:
        return too_long
    return exhausted(attempts) if reason is RejectReason.EXHAUSTED else no_worker(look)


# The words for it


def out_of_time() -> BullpenError:
    return BullpenError(ErrorCode.DEADLINE_EXCEEDED, "no answer was complete before the deadline")


def exhausted(attempts: Sequence[Attempt], because: str = "") -> BullpenError:
    """Every worker that may be asked was asked: the last one's error, and why no other one is asked."""
    error = next((a.error for a in reversed(attempts) if a.error is not None), None)
    if error is None:
        return BullpenError(ErrorCode.NO_WORKER, "no other worker can take this request")
    names = ", ".join(dict.fromkeys(a.worker_id for a in attempts[-NAMES:]))
    soon = SOON_MS if error.code is ErrorCode.OVERLOADED else None
    return BullpenError(
        error.code,
        f"tried {names}: {error.message}" + (f" ({because})" if because else ""),
        field=error.field,
        retry_after_ms=soon if error.retry_after_ms is None else error.retry_after_ms,
        retryable=error.retryable,
    )


def no_worker(look: Look) -> BullpenError:
    """Why no worker could be chosen, and what to do about it."""
    ranking = look.ranking
    because = "; ".join(ranking.reasons[:5])
    wait_ms = max(SOON_MS, round(1000 * ranking.wait_s))

    def later(code: ErrorCode, what: str, after_ms: int = wait_ms) -> BullpenError:
        return BullpenError(code, f"{what}: {because}" if because else what, retry_after_ms=after_ms)

    match ranking.reason:
        case RejectReason.BUDGET:
            what = f"no worker answers within max_cost_usd: {because}"
            return BullpenError(ErrorCode.BUDGET_EXCEEDED, what, field="max_cost_usd")
        case RejectReason.TOO_LONG:
            what = f"the prompt fits into no model's context window: {because}"
            return BullpenError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, what, field="prompt")
        case RejectReason.INCAPABLE:
            what = f"{look.wanted} cannot do what is asked: {because}"
            return BullpenError(ErrorCode.INVALID_REQUEST, what, field="model")
        case RejectReason.NO_SUCH_MODEL:
            what = f"no worker serves {look.wanted}; served are: {', '.join(look.served) or 'nothing'}"
            return BullpenError(ErrorCode.NO_SUCH_MODEL, what, field="model")
        case RejectReason.PAUSED:
            after_ms = max(SOON_MS, round(1000 * look.pause_s))
            return later(ErrorCode.RATE_LIMITED, "every fitting worker is rate limited", after_ms)
        case RejectReason.FULL:
            return later(ErrorCode.OVERLOADED, "every fitting worker is full")
        case RejectReason.LATE:
            what = "so many requests wait already that none would be answered before the deadline"
            return later(ErrorCode.OVERLOADED, what)
        case (
            RejectReason.UNABLE
            | RejectReason.FAILING
            | RejectReason.RESERVE
            | RejectReason.STAND_IN
            | RejectReason.EXHAUSTED
        ):
            return later(ErrorCode.NO_WORKER, "no worker can answer this now")
        case RejectReason.NOBODY | RejectReason.NONE:
            what = "no worker is in the bullpen: start one with `bullpen worker NAME`"
            return later(ErrorCode.NO_WORKER, what)
        case _:
            assert_never(ranking.reason)
