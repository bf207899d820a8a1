"""A worker that keeps failing is left alone, then tried once, and trusted again when that went well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.routing.circuit_breaker import FIRST_REST, IN_A_ROW, LONGEST_REST, OF_AT_LEAST, WITHIN, CircuitBreaker

TINY = 1e-6
"""Seconds: what a sum of floats may lack."""


def broken(now: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(IN_A_ROW):
        breaker.failed(now, "no", probe=breaker.sent())
    return breaker


def test_a_new_one_admits_everybody() -> None:
    assert CircuitBreaker().admits(0.0)


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = CircuitBreaker()
    for _ in range(IN_A_ROW - 1):
        breaker.failed(100.0, "no", probe=False)
    assert breaker.admits(100.0)
    breaker.succeeded(100.0, probe=False)
    breaker.failed(100.0, "no", probe=False)
    assert breaker.admits(100.0)
    assert not broken().admits(100.0)


def test_who_answers_after_all_has_not_failed() -> None:
    breaker = CircuitBreaker()
    for _ in range(3 * OF_AT_LEAST):
        breaker.failed(100.0, "did not claim", probe=False)
        breaker.forgiven(100.2, probe=False)
    assert breaker.admits(100.2)


def test_more_than_half_of_the_last_ones_open_it() -> None:
    breaker = CircuitBreaker()
    for number in range(OF_AT_LEAST - 1):
        breaker.succeeded(100.0, probe=False) if number % 2 else breaker.failed(100.0, "no", probe=False)
    assert breaker.admits(100.0)
    breaker.failed(100.0, "no", probe=False)
    assert not breaker.admits(100.0)


def test_what_is_long_ago_does_not_count() -> None:
    breaker = CircuitBreaker()
    for number in range(OF_AT_LEAST):
        breaker.succeeded(100.0, probe=False) if number % 2 else breaker.failed(100.0, "no", probe=False)
    breaker.failed(100.0 + WITHIN + 1, "no", probe=False)
    assert breaker.admits(100.0 + WITHIN + 1)


def test_after_its_rest_one_probe_is_let_through() -> None:
    breaker = broken(100.0)
    assert breaker.rest(101.0) == pytest.approx(FIRST_REST - 1)
    assert breaker.admits(100.0 + FIRST_REST)
    assert breaker.sent()
    assert not breaker.admits(100.0 + FIRST_REST)


def test_a_probe_that_is_answered_closes_it() -> None:
    breaker = broken(100.0)
    breaker.succeeded(106.0, probe=breaker.sent())
    assert breaker.admits(106.0)
    assert not breaker.sent()


def test_a_probe_that_fails_doubles_the_rest_up_to_a_minute() -> None:
    breaker, now, rests = broken(100.0), 100.0, []
    for _ in range(6):
        now += breaker.rest(now)
        breaker.failed(now, "no", probe=breaker.sent())
        rests.append(breaker.rest(now))
    assert rests == [10.0, 20.0, 40.0, LONGEST_REST, LONGEST_REST, LONGEST_REST]


def test_a_probe_without_an_outcome_lets_the_next_request_probe() -> None:
    breaker = broken(100.0)
    breaker.withdrawn(probe=breaker.sent())
    assert breaker.admits(106.0)


def test_what_was_sent_before_it_opened_changes_nothing_any_more() -> None:
    breaker = broken(100.0)
    breaker.failed(101.0, "no", probe=False)
    assert breaker.rest(101.0) == pytest.approx(FIRST_REST - 1)
    breaker.succeeded(102.0, probe=False)
    assert not breaker.admits(102.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["ok", "failed", "withdrawn"])), max_size=80))
def test_it_never_admits_two_probes_nor_stays_closed_for_more_than_its_rest(steps: list[tuple[float, str]]) -> None:
    breaker, now = CircuitBreaker(), 0.0
    for pause, ends in steps:
        now += pause
        assert breaker.rest(now) <= LONGEST_REST
        if not breaker.admits(now):
            assert breaker.admits(now + breaker.rest(now) + TINY)
            continue
        probe = breaker.sent()
        assert not (probe and breaker.admits(now))
        if ends == "ok":
            breaker.succeeded(now, probe=probe)
        elif ends == "failed":
            breaker.failed(now, "no", probe=probe)
        else:
            breaker.withdrawn(probe=probe)
