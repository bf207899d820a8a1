"""The soak's checker finds what it is there to find: each test breaks a clean history in one way."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest

from benchmarks.soak.check import SECOND, Verdict, check, leaks
from benchmarks.soak.history import (
    Asked,
    AttemptRow,
    Ended,
    Final,
    History,
    Inflicted,
    Piece,
    ResponseRow,
    Vitals,
)
from benchmarks.soak.plan import BAG, Deed, Role, Topology, faults

CALM = Vitals(fds=20, sockets=4, threads=3, rss=60 << 20)


def clean() -> History:
    """Two answered requests, the second a stream that went over to another worker."""
    history = History(warm={"manager-1": CALM}, rested={"manager-1": CALM}, managers={"r-1": "manager-1"})
    for number, tries in ((1, (("w-1", "ok"),)), (2, (("w-1", "uncertain"), ("w-2", "ok")))):
        text, request = f"one two three {number}", f"r-{number}"
        asked = Asked(number, f"t-{number}", text, deadline_ms=5000, at=number * SECOND, stream=number == 2)
        pieces = (Piece(0, "one two"), Piece(1, mode="continued"), Piece(2, " three 2")) if number == 2 else ()
        history.asked.append(asked)
        history.ended.append(Ended(number, asked.at + SECOND, "answered", request, text, tries, pieces=pieces))
        history.finals.append(Final(f"_INBOX.{number}", asked.task_id, request))
        history.responses.append(ResponseRow(request, asked.task_id, "ok", None, text, len(tries), "manager-1", False))
        history.attempts += [AttemptRow(request, at, *told) for at, told in enumerate(tries, 1)]
    return history


def found(history: History) -> list[str]:
    return [violation.kind for violation in check(history).violations]


def inflict(history: History, role: Role, deed: Deed, victim: str) -> None:
    """At the time of both requests."""
    begin, healed = history.asked[0].at + SECOND // 2, history.asked[0].at + 3 * SECOND
    history.faults.append(Inflicted(role, deed, victim, begin, healed))


def fail(history: History, code: str, *, told: bool = True) -> None:
    """Turns the first request's answer into an error, of the mesh or of the client alone."""
    history.ended[0] = Ended(1, history.ended[0].at, "failed", "r-1" if told else None, code=code, message="why")
    history.responses[0] = replace(history.responses[0], status="error", error_code=code, output=None)


def test_a_clean_history_has_no_violation() -> None:
    assert check(clean()) == Verdict()


def no_outcome(history: History) -> None:
    del history.ended[0]


def two_outcomes(history: History) -> None:
    history.ended.append(history.ended[0])


def two_finals(history: History) -> None:
    history.finals.append(history.finals[0])


def answered_again(history: History) -> None:
    history.responses.append(replace(history.responses[0], request_id="r-9"))


def after_the_deadline(history: History) -> None:
    history.ended[0] = replace(history.ended[0], at=history.asked[0].at + 8 * SECOND)


def answer_of_another(history: History) -> None:
    history.asked[0] = replace(history.asked[0], expected="one two three 4")
    history.asked.append(replace(history.asked[0], number=4, task_id="t-4", expected="one two three 1"))
    history.ended.append(Ended(4, history.asked[0].at, "left"))


def other_words(history: History) -> None:
    history.asked[0] = replace(history.asked[0], expected="something else")


def gap(history: History) -> None:
    first, _, last = history.ended[1].pieces
    history.ended[1] = replace(history.ended[1], pieces=(first, replace(last, seq=3)))


def repeat(history: History) -> None:
    first, resumed, last = history.ended[1].pieces
    history.ended[1] = replace(history.ended[1], pieces=(first, resumed, replace(last, seq=1)))


def piece_without_its_seq(history: History) -> None:
    """The numbers are right, the text is not."""
    history.ended[1] = replace(history.ended[1], pieces=(Piece(0, "one two"), Piece(1, " 2")))


def restarted_but_not_from_the_start(history: History) -> None:
    first, _, last = history.ended[1].pieces
    history.ended[1] = replace(history.ended[1], pieces=(first, Piece(1, mode="restarted"), last))


def not_booked(history: History) -> None:
    del history.responses[0]


def attempt_not_booked(history: History) -> None:
    del history.attempts[0]


def booked_twice(history: History) -> None:
    history.responses.append(history.responses[0])


def attempt_booked_twice(history: History) -> None:
    history.attempts.append(history.attempts[0])


def booked_with_another_text(history: History) -> None:
    history.responses[0] = replace(history.responses[0], output="something else")


def booked_on_another_worker(history: History) -> None:
    history.attempts[0] = replace(history.attempts[0], worker_id="w-7")


def an_attempt_nobody_told(history: History) -> None:
    history.attempts.append(AttemptRow("r-1", 2, "w-2", "ok"))


def error_by_no_fault(history: History) -> None:
    fail(history, "no_worker")


def cancelled_by_nobody(history: History) -> None:
    fail(history, "cancelled")


def silent(history: History) -> None:
    fail(history, "deadline_exceeded", told=False)


def never_well_again(history: History) -> None:
    history.faults.append(Inflicted("worker", "kill", "w-1", 1, None))


def descriptors_leak(history: History) -> None:
    history.rested["manager-1"] = replace(CALM, fds=40)


def still_busy(history: History) -> None:
    history.busy = ("w-1 has 1 request",)


def pending_events(history: History) -> None:
    history.unbooked_events = 3


def dead_letters(history: History) -> None:
    history.dead_letters = 1


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (no_outcome, ["lost"]),
        (two_outcomes, ["double"]),
        (two_finals, ["double"]),
        (answered_again, ["double"]),
        (after_the_deadline, ["late"]),
        (answer_of_another, ["cross-talk"]),
        (other_words, ["wrong text"]),
        (gap, ["gap"]),
        (repeat, ["gap"]),
        (piece_without_its_seq, ["stream differs"]),
        (restarted_but_not_from_the_start, ["stream differs"]),
        (not_booked, ["not booked"]),
        (attempt_not_booked, ["not booked"]),
        (booked_twice, ["booked twice"]),
        (attempt_booked_twice, ["booked twice", "attempts differ"]),
        (booked_with_another_text, ["booked wrong"]),
        (booked_on_another_worker, ["attempts differ"]),
        (an_attempt_nobody_told, ["attempts differ"]),
        (error_by_no_fault, ["error"]),
        (cancelled_by_nobody, ["error"]),
        (silent, ["silence"]),
        (never_well_again, ["not healed"]),
        (descriptors_leak, ["leak"]),
        (still_busy, ["leak"]),
        (pending_events, ["backlog"]),
        (dead_letters, ["dead letters"]),
    ],
)
def test_every_damage_is_found_and_called_by_its_name(damage: Callable[[History], None], kinds: list[str]) -> None:
    history = clean()
    damage(history)
    assert sorted(found(history)) == sorted(kinds)


@pytest.mark.parametrize("held", ["fds", "sockets", "threads", "rss"])
def test_whatever_grows_beyond_its_bound_is_a_leak(held: str) -> None:
    grown = replace(CALM, **{held: getattr(CALM, held) * 5})
    assert len(list(leaks(CALM, grown))) == 1
    assert not list(leaks(grown, CALM))


def test_a_row_that_its_killed_booker_took_along_is_counted_apart() -> None:
    history = clean()
    inflict(history, "manager", "kill", "manager-1")
    del history.responses[0]
    verdict = check(history)
    assert not verdict.violations
    assert verdict.explained == {"not booked because its booker was killed": 1}


def test_the_death_of_another_manager_excuses_no_missing_row() -> None:
    history = clean()
    inflict(history, "manager", "kill", "manager-2")
    del history.responses[0]
    assert found(history) == ["not booked"]


def test_nats_may_be_away_and_still_no_request_with_time_enough_fails() -> None:
    history = clean()
    inflict(history, "nats", "kill", "nats")
    fail(history, "no_worker")
    assert found(history) == ["error"]


def test_a_short_deadline_may_pass_but_the_mesh_must_say_so() -> None:
    history = clean()
    history.asked[0] = replace(history.asked[0], hurried=True)
    fail(history, "deadline_exceeded")
    assert not found(history)
    history.ended[0] = replace(history.ended[0], request_id=None)
    assert found(history) == ["silence"]
    inflict(history, "nats", "kill", "nats")
    verdict = check(history)
    assert not verdict.violations
    assert verdict.explained == {"silence during nats kill, with no time to ask again": 1}


def test_what_was_cancelled_may_be_answered_or_end_as_cancelled() -> None:
    history = clean()
    history.asked[0] = replace(history.asked[0], cancelled=True)
    assert not found(history)
    fail(history, "cancelled")
    assert not found(history)


def test_the_books_may_know_later_what_became_of_a_silent_worker() -> None:
    history = clean()
    history.attempts[1] = replace(history.attempts[1], outcome="late_discarded")
    assert not found(history)


def test_a_seed_always_means_the_same_faults_and_every_kind_has_its_turn() -> None:
    topology = Topology()
    once, again, other = (list(islice(faults(seed, topology), 2 * len(BAG))) for seed in (7, 7, 8))
    assert once == again != other
    assert sorted((fault.role, fault.deed) for fault in once[: len(BAG)]) == sorted(BAG)
