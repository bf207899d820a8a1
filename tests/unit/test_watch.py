"""Whether a Manager is lost, minute by minute, without a minute passing."""

from math import inf

import pytest

from client import watch as w
from client.watch import ManagerWatch, Step


def step(watch: ManagerWatch) -> Step:
    """Read anew: a type checker believes that it stays as it was."""
    return watch.step


def sent(at: float = 0.0) -> ManagerWatch:
    watch = ManagerWatch(at)
    assert (watch.step, watch.due) == (Step.SEND, at)
    watch.sent(at)
    return watch


def unanswered(watch: ManagerWatch) -> ManagerWatch:
    for _ in range(w.SILENCES):
        assert watch.step is Step.ASK
        watch.asked(watch.due)
    return watch


def test_a_second_of_silence_is_nothing_then_we_ask_less_often() -> None:
    watch = sent()
    asked = []
    for _ in range(4):
        assert watch.step is Step.ASK
        asked.append(watch.due)
        watch.asked(watch.due)
        watch.held(asked[-1] + 0.01)
    assert asked == pytest.approx([1.0, 3.01, 5.02, 7.03])


def test_a_piece_of_the_answer_is_as_good_as_an_answer() -> None:
    watch = sent()
    watch.asked(1.0)
    watch.heard(1.1)
    assert step(watch) is Step.ASK
    assert watch.due == pytest.approx(2.1)
    watch.asked(2.1)
    assert watch.step is Step.ASK, "the silence before was forgotten"


def test_two_silences_in_a_row_and_the_question_goes_out_again() -> None:
    watch = unanswered(sent())
    assert step(watch) is Step.SEND
    assert 1.6 <= watch.due <= 1.6 + w.SEND_AGAIN.first
    watch.sent(watch.due)
    assert step(watch) is Step.ASK
    assert watch.due <= 1.6 + w.SEND_AGAIN.first + w.QUIET_AGAIN


def test_a_word_at_the_last_moment_counts() -> None:
    watch = unanswered(sent())
    watch.held(1.55)
    assert step(watch) is Step.ASK
    assert watch.due == pytest.approx(3.55)


def test_not_for_ever() -> None:
    watch = sent()
    tries = 1
    while unanswered(watch).step is Step.SEND:
        watch.sent(watch.due)
        tries += 1
    assert (watch.step, tries) == (Step.GIVE_UP, w.MOST_SENDS)
    assert not watch.no_manager


def test_nobody_listening_is_waited_out_for_seconds() -> None:
    watch = ManagerWatch(0.0)
    while watch.step is Step.SEND:
        watch.sent(watch.due)
        watch.unsent(watch.due - 0.9)
    assert watch.no_manager
    assert watch.sends == 0
    assert watch.due >= w.WITHOUT_MANAGER


def test_a_manager_that_is_back_has_to_be_asked_twice_before_it_is_sent_again() -> None:
    watch = sent()
    watch.asked(1.0)
    watch.status_unheard(1.01)
    assert watch.no_manager
    assert unanswered(watch).step is Step.SEND
    assert not watch.no_manager


def test_who_takes_it_but_does_not_know_the_question_is_trusted_after_one_more_try() -> None:
    watch = sent()
    while watch.step is Step.ASK:
        watch.asked(watch.due)
        watch.status_unheard(watch.due)
    assert watch.step is Step.SEND
    watch.sent(watch.due)
    watch.asked(watch.due)
    watch.status_unheard(watch.due)
    assert watch.due == inf
    assert watch.sends == 2


def test_while_we_are_cut_off_silence_says_nothing() -> None:
    watch = unanswered(sent())
    watch.cut_off(2.0)
    assert unanswered(watch).step is Step.SEND, "who has it is asked first, twice"
    waiting = ManagerWatch(0.0)
    waiting.cut_off(0.0)
    assert (waiting.step, waiting.due) == (Step.SEND, w.OFFLINE_LOOK)
