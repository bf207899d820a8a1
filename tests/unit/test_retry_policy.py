"""The rule of failover, case by case: what is done next for a request of which no attempt runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, Fault, Outcome
from manager.request.attempt import Attempt
from manager.request.events import NO_RESPONDERS, AttemptEvent, CalledOff, Gone, Overdue, Unjoined
from manager.request.lifecycle import State
from manager.request.retry_policy import (
    FREE_REFUSALS,
    REFUSALS_ALLOWED,
    STRANGERS_TRIED,
    TIMES_FULL,
    TIMES_UNHEARD,
    Answered,
    Ask,
    Decision,
    Fail,
    Limits,
    Look,
    Seam,
    Wait,
    WaitForWord,
    decide,
    excluded,
)
from manager.routing.filters import RejectReason
from manager.routing.ranking import Ranking
from tests.unit.test_attempt import CLAIM, EVENTS, READS, WRITES, answer, attempt, error

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failover.md"
NOW = 101.0


def tried(
    *events: AttemptEvent, number: int = 1, backend: str = "b", local: bool = True, gone: str = "", model: str = "m"
) -> Attempt:
    """An attempt at worker w<number> to which these things happened."""
    one = attempt(number, f"w{number}", local=local, model=model)
    one.choice.worker.heartbeat = one.choice.worker.heartbeat.model_copy(update={"backend": backend})
    for event in events:
        one.on(event, NOW)
    one.choice.worker.gone = gone
    return one


def declined(number: int, backend: str = "b", code: ErrorCode = ErrorCode.INVALID_REQUEST) -> Attempt:
    return tried(error(code, fault="model"), number=number, backend=backend)


def failed(number: int, *, local: bool = True) -> Attempt:
    return tried(READS, error(ErrorCode.UPSTREAM_ERROR), number=number, local=local)


def empty(number: int, fault: Fault = "model") -> Attempt:
    return tried(READS, error(ErrorCode.EMPTY_ANSWER, fault=fault), number=number)


@dataclass
class Purse:
    """Budgets that allow everything, or nothing."""

    retry: bool = True
    spend: bool = True

    def may_retry(self, now: float) -> bool:
        return self.retry

    def may_spend_twice(self, usd: Decimal, now: float) -> bool:
        return self.spend


def limits(**changes: Any) -> Limits:
    return replace(Limits(max_attempts_local=3, max_attempts_paid=2, left_s=60.0), **changes)


def look(reason: RejectReason, *, stretched: bool = True, **changes: Any) -> Look:
    """How the workers stood when none could be chosen."""
    return replace(Look(Ask(include_full=stretched), Ranking(None, reason)), **changes)


@dataclass
class Case:
    """One row of the policy's table."""

    when: str
    then: str
    """The decision, and its point."""
    attempts: Sequence[Attempt] = ()
    look: Look | None = None
    limits: Limits = field(default_factory=limits)
    budgets: Purse = field(default_factory=Purse)
    now: float = NOW


def shown(decision: Decision) -> str:
    """A decision in a few words."""
    match decision:
        case Answered():
            return "answered"
        case Ask():
            more = [
                word.replace("_", " ")
                for word in ("include_full", "include_unclaimed", "in_time_only", "is_retry")
                if getattr(decision, word)
            ]
            apart = sorted(decision.exclude.workers) + sorted(
                f"{m} at {w}" for w, m in decision.exclude.models if w not in decision.exclude.workers
            )
            return "ask" + (f", not {', '.join(apart)}" if apart else "") + (f" ({', '.join(more)})" if more else "")
        case Wait(seconds) | WaitForWord(seconds):
            kind = "wait" if isinstance(decision, Wait) else "wait for its last word"
            return f"{kind}, {seconds:g} s"
        case Fail(err):
            return f"fail: {err.code}"


def unsure() -> Attempt:
    return tried(answer(confidence=0.4))


def unjoined(*, local: bool = True) -> Attempt:
    return tried(READS, WRITES, Unjoined(), local=local)


def overdue_paid(*, gone: str = "") -> Attempt:
    return tried(READS, Overdue(), local=False, gone=gone)


def cases() -> list[Case]:
    """Made anew each time: an attempt remembers."""
    full, paused, failing = RejectReason.FULL, RejectReason.PAUSED, RejectReason.FAILING
    exhausted, unable = RejectReason.EXHAUSTED, RejectReason.UNABLE
    too_long = error(ErrorCode.CONTEXT_LENGTH_EXCEEDED, fault="model")
    spent = BullpenError(ErrorCode.BUDGET_EXCEEDED, "the budget is spent")
    return [
        Case("the request has just come", "ask"),
        Case("an answer", "answered", [tried(answer())]),
        Case(
            "an answer that is not sure enough",
            "ask, not m at w1 (in time only)",
            [unsure()],
            limits=limits(min_confidence=0.9),
        ),
        Case(
            "the same, and no surer model in time",
            "answered",
            [unsure()],
            look(RejectReason.LATE),
            limits(min_confidence=0.9),
        ),
        Case(
            "the same, and the deadline has passed",
            "answered",
            [unsure()],
            None,
            limits(min_confidence=0.9, left_s=0.0),
        ),
        Case("the deadline has passed", "fail: deadline_exceeded", limits=limits(left_s=0.0)),
        # Not started
        Case("the worker was full", "ask, not w1", [tried(error(ErrorCode.OVERLOADED))]),
        Case(
            "the worker was full, and no other is left",
            "ask (include full, include unclaimed)",
            [tried(error(ErrorCode.OVERLOADED))],
            look(exhausted, stretched=False),
        ),
        Case("the worker did not claim it", "ask, not w1", [tried(Overdue())]),
        Case(
            "the same, another one failed, and no third is left",
            "ask, not w2 (include full)",
            [tried(Overdue()), failed(2)],
            look(exhausted, stretched=False),
            limits(retries_allowed=1),
        ),
        Case("the worker is draining", "ask", [tried(error(ErrorCode.DRAINING))]),
        Case("the worker's rate limit is used up", "ask, not w1", [tried(error(ErrorCode.RATE_LIMITED))]),
        Case("the model's context window is too small", "ask, not m at w1", [tried(too_long)]),
        Case("the same, and no larger model is left", "fail: context_length_exceeded", [tried(too_long)], look(unable)),
        Case(
            "the model is not there any more",
            "ask, not m at w1",
            [tried(error(ErrorCode.NO_SUCH_MODEL, fault="model"))],
        ),
        # Declined by the provider
        Case("the provider declined it (400)", "ask, not m at w1", [declined(1)]),
        Case("two workers of one backend declined it", "ask, not m at w1, m at w2", [declined(1), declined(2)]),
        Case("two different backends declined it", "fail: invalid_request", [declined(1), declined(2, "other")]),
        Case(
            "the provider declined it, and no other worker is left",
            "fail: invalid_request",
            [declined(1)],
            look(exhausted),
        ),
        Case(
            "two different backends refused the key",
            "ask, not m at w1, m at w2",
            [declined(1, code=ErrorCode.UPSTREAM_AUTH), declined(2, "other", ErrorCode.UPSTREAM_AUTH)],
        ),
        Case(
            f"{REFUSALS_ALLOWED} providers declined it",
            "fail: upstream_auth",
            [declined(n, f"b{n}", ErrorCode.UPSTREAM_AUTH) for n in range(REFUSALS_ALLOWED)],
        ),
        # Failed or uncertain
        Case("an attempt failed", "ask, not w1 (is retry)", [failed(1)]),
        Case(
            "the same, and it is paid from the retry budget already",
            "ask, not w1",
            [failed(1)],
            limits=limits(retries_allowed=1),
        ),
        Case(
            "the worker went away", "ask, not w1 (is retry)", [tried(READS, Gone("disconnected"), gone="disconnected")]
        ),
        Case(
            "a worker lost its line and is back, and no other worker is left",
            "ask (include full)",
            [tried(READS, Gone("disconnected"))],
            look(exhausted, stretched=False),
            limits(retries_allowed=1),
        ),
        Case(
            "a worker died, and no other worker is left",
            "ask, not w1 (include full)",
            [tried(READS, Gone("disconnected"), gone="disconnected")],
            look(exhausted, stretched=False),
            limits(retries_allowed=1),
        ),
        Case(
            "one model failed, and no other worker is left",
            "ask, not m at w1 (include full)",
            [tried(READS, error(ErrorCode.UPSTREAM_ERROR, fault="model"))],
            look(exhausted, stretched=False),
            limits(retries_allowed=1),
        ),
        Case("a provider said nothing", "ask, not w1 (is retry)", [empty(1)]),
        Case(
            "a provider said nothing, and no other worker is left",
            "ask, not m at w1 (include full)",
            [empty(1)],
            look(RejectReason.EXHAUSTED, stretched=False),
        ),
        Case(
            "a filter held the answer back, and no other worker is left",
            "ask, not m at w1 (include full)",
            [empty(1, fault="request")],
            look(RejectReason.EXHAUSTED, stretched=False),
        ),
        Case("three providers said nothing", "fail: empty_answer", [empty(1), empty(2), empty(3)]),
        Case("three attempts failed", "fail: upstream_error", [failed(1), failed(2), failed(3)]),
        Case("two paid attempts failed", "fail: upstream_error", [failed(1, local=False), failed(2, local=False)]),
        Case(
            "an attempt failed, and the retry budget is empty",
            "fail: upstream_error",
            [failed(1)],
            budgets=Purse(retry=False),
        ),
        Case(
            "a paid attempt failed, and too much was paid twice",
            "fail: no_worker",
            [tried(READS, WRITES, Gone("disconnected"), local=False, gone="disconnected")],
            budgets=Purse(spend=False),
        ),
        Case(
            "two workers died on it",
            "fail: poison_request",
            [tried(READS, Gone("disconnected"), number=n, gone="disconnected") for n in (1, 2)],
        ),
        Case("a paid worker is silent for too long, and lives", "wait for its last word, 2 s", [overdue_paid()]),
        Case("the same, and it says no last word", "fail: upstream_error", [overdue_paid()], now=NOW + 2.0),
        Case("the same, and its process ended", "ask, not w1 (is retry)", [overdue_paid(gone="disconnected")]),
        # Seamless streams
        Case(
            "a seamless stream's answer is not sure enough",
            "answered",
            [unsure()],
            limits=limits(min_confidence=0.9, seam=Seam.JOIN),
        ),
        Case("a seamless stream lost its worker", "ask, not w1 (is retry)", [failed(1)], limits=limits(seam=Seam.JOIN)),
        Case(
            "the same, and no other worker can go on with its text",
            "fail: upstream_error",
            [failed(1)],
            limits=limits(seam=Seam.NONE),
        ),
        Case("a worker's words do not join the text", "ask, not w1 (is retry)", [unjoined()]),
        Case("the same, and it is paid, and lives", "wait for its last word, 2 s", [unjoined(local=False)]),
        # No worker can be chosen
        Case("every worker is full", "wait, 60 s", look=look(full)),
        Case(
            "no worker, at the first look", "ask (include full, include unclaimed)", look=look(failing, stretched=False)
        ),
        Case("a pause ends before the deadline", "wait, 45 s", look=look(paused, pause_s=45.0)),
        Case("a pause ends after the deadline", "fail: rate_limited", look=look(paused, pause_s=90.0)),
        Case("a budget is spent", "fail: budget_exceeded", look=look(RejectReason.BUDGET, unaffordable=spent)),
        Case("every model is too dear", "fail: budget_exceeded", look=look(RejectReason.BUDGET)),
        Case("the Manager has just started", "wait, 1 s", look=look(RejectReason.NOBODY, warm_s=1.0)),
        Case("our connection is away", "wait, 0.1 s", look=look(RejectReason.NOBODY, cut_off=True)),
        Case("no worker is there", "fail: no_worker", look=look(RejectReason.NOBODY)),
        Case("no worker serves the model", "fail: no_such_model", look=look(RejectReason.NO_SUCH_MODEL, wanted="x")),
        Case("the prompt fits into no model", "fail: context_length_exceeded", look=look(RejectReason.TOO_LONG)),
        Case(
            "the model cannot do what is asked", "fail: invalid_request", look=look(RejectReason.INCAPABLE, wanted="x")
        ),
        Case("all that fit are failing", "fail: no_worker", look=look(failing)),
        Case("no worker is able", "fail: no_worker", look=look(unable)),
        Case("so many wait that it would be late", "fail: overloaded", look=look(RejectReason.LATE)),
        Case(
            "every fitting worker was asked",
            "fail: upstream_error",
            [failed(1)],
            look(exhausted),
            limits(retries_allowed=1),
        ),
    ]


def made(case: Case) -> Decision:
    return decide(case.attempts, case.look, case.limits, case.budgets, case.now)


@pytest.mark.parametrize("number", range(len(cases())), ids=[case.when for case in cases()])
def test_what_is_done_next(number: int) -> None:
    case = cases()[number]
    assert shown(made(case)) == case.then


def test_the_policys_table_stands_in_the_docs() -> None:
    rows = "\n".join(f"| {case.when} | {case.then} |" for case in cases())
    table = f"| when | then |\n|---|---|\n{rows}"
    print(table)
    assert table in PAGE.read_text(encoding="utf-8")


def test_every_reason_for_which_no_worker_is_chosen_ends_in_a_decision() -> None:
    for reason in RejectReason:
        assert isinstance(decide([], look(reason), limits(), Purse(), NOW), Wait | Fail)


# What is told


def test_the_error_names_every_worker_that_was_tried() -> None:
    decision = decide([failed(1), failed(2), failed(3)], None, limits(), Purse(), NOW)
    assert isinstance(decision, Fail)
    assert "tried w1, w2, w3: no" in decision.error.message


def test_a_rate_limit_tells_how_long_it_lasts() -> None:
    decision = decide([], look(RejectReason.PAUSED, pause_s=90.0), limits(), Purse(), NOW)
    assert isinstance(decision, Fail)
    assert decision.error.retry_after_ms == 90_000


def test_a_full_worker_is_asked_a_few_times_and_never_without_need() -> None:
    full = [tried(error(ErrorCode.OVERLOADED)) for _ in range(TIMES_FULL)]
    assert excluded(full[:1], 0.0).has("w1", "m")
    assert not excluded(full[:-1], 0.0, include_full=True).has("w1", "m")
    assert excluded(full, 0.0, include_full=True).has("w1", "m")


def test_a_worker_that_never_got_the_request_is_sent_it_again_a_few_times() -> None:
    unheard = [tried(error(ErrorCode.NO_WORKER)) for _ in range(TIMES_UNHEARD)]
    assert not excluded(unheard[:-1], 0.0).has("w1", "m")
    assert excluded(unheard, 0.0).has("w1", "m")


def test_a_request_that_was_lost_with_our_own_connection_is_sent_again() -> None:
    unclaimed = tried(Overdue())
    assert excluded([unclaimed], 99.0).has("w1", "m")
    assert not excluded([unclaimed], 100.5).has("w1", "m")


def test_one_models_refusal_leaves_the_workers_other_models() -> None:
    apart = excluded([declined(1)], 0.0)
    assert (apart.has("w1", "m"), apart.has("w1", "other")) == (True, False)


def test_a_lost_connection_is_no_death() -> None:
    lost = [tried(READS, Gone("disconnected"), number=n, gone="") for n in (1, 2)]
    assert isinstance(decide(lost, None, limits(), Purse(), NOW), Ask)


def test_refusals_alone_use_up_no_attempts_and_no_budget() -> None:
    full = [tried(error(ErrorCode.OVERLOADED), number=n) for n in range(1, 8)]
    assert isinstance(decide(full, None, limits(), Purse(retry=False, spend=False), NOW), Ask)


HAPPENED = st.lists(
    st.tuples(
        st.lists(st.sampled_from([CLAIM, READS, WRITES]), max_size=2),
        st.sampled_from([event for event in EVENTS.values() if event not in (CLAIM, READS, WRITES)]),
        st.sampled_from(["b", "c"]),
        st.booleans(),
        st.sampled_from(["", "disconnected"]),
    ),
    max_size=6,
)


@given(HAPPENED, st.none() | st.sampled_from(RejectReason), st.booleans(), st.booleans(), st.floats(-1, 100))
def test_whatever_happened_no_rule_is_broken(
    happened: list[tuple[list[AttemptEvent], AttemptEvent, str, bool, str]],
    reason: RejectReason | None,
    retry: bool,
    spend: bool,
    left_s: float,
) -> None:
    attempts = [
        tried(*way, end, number=n, backend=backend, local=local, gone=gone)
        for n, (way, end, backend, local, gone) in enumerate(happened, 1)
    ]
    attempts = [one for one in attempts if one.is_over]
    seen = None if reason is None else look(reason)
    decision = decide(attempts, seen, limits(left_s=left_s), Purse(retry, spend), NOW + 10)
    begun = [one for one in attempts if one.state not in (State.REFUSED, State.ANSWERED)]
    paid = any(one.paid for one in begun)
    if isinstance(decision, Answered):
        assert any(one.outcome is Outcome.OK for one in attempts)
    if isinstance(decision, Ask):
        assert left_s > 0
        assert len(begun) < (2 if paid else 3)
        assert sum(one.worker_died for one in attempts) < 2
        assert retry or not begun
    if isinstance(decision, Wait | WaitForWord):
        assert 0 <= decision.seconds <= max(left_s, 2.0)


def test_fault_is_a_word_of_the_wire() -> None:
    """A worker of a version that says nothing of faults is not trusted less: its whole worker is left alone."""
    said: list[tuple[Fault | None, bool]] = [("model", False), (None, True)]
    for fault, whole in said:
        one = tried(READS, error(ErrorCode.UPSTREAM_ERROR, fault=fault))
        assert excluded([one], 0.0, include_full=True).has("w1", "other") is whole


def test_a_beaten_attempt_is_not_asked_again() -> None:
    beaten = tried(READS, CalledOff(BullpenError(ErrorCode.CANCELLED, "another was quicker"), beaten=True))
    assert excluded([beaten], 0.0).has("w1", "m")


def test_refusals_are_free_only_so_often() -> None:
    """Ten thousand made-up workers are not asked one after the other."""
    not_there = [tried(NO_RESPONDERS, number=number) for number in range(1, FREE_REFUSALS)]
    assert isinstance(decide(not_there, None, limits(), Purse(), NOW), Ask)
    ended = decide([*not_there, tried(NO_RESPONDERS, number=FREE_REFUSALS)], None, limits(), Purse(), NOW)
    assert isinstance(ended, Fail)
    assert ended.error.code is ErrorCode.NO_WORKER
    assert ended.error.message.count("w") < 40


def test_workers_that_no_one_knows_are_asked_only_so_often_as_long_as_others_are_known() -> None:
    in_vain = [tried(NO_RESPONDERS, number=number) for number in range(1, STRANGERS_TRIED + 1)]
    for one in in_vain:
        one.choice.worker.stranger = True
    first = decide(in_vain[:-1], None, limits(), Purse(), NOW)
    then = decide(in_vain, None, limits(), Purse(), NOW)
    assert isinstance(first, Ask)
    assert isinstance(then, Ask)
    assert (first.known_only, then.known_only) == (False, True)
    in_vain[0].choice.worker.stranger = False
    again = decide(in_vain, None, limits(), Purse(), NOW)
    assert isinstance(again, Ask)
    assert not again.known_only
