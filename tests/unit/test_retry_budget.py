"""What may be tried twice is bounded, whatever fails; and clocks that differ do no harm."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import deadline
from bus.deadline import CLOCKS_MAY_DIFFER, header, seconds_left
from contracts import parse_request
from contracts.headers import DEADLINE
from manager.request.retry_budget import DUPLICATES_WITHIN, DuplicateSpendCap, RetryBudget
from manager.routing.clock_offset import BEATS, ClockOffset


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.05, 0.1, 0.5]))
def test_no_more_than_its_share_is_ever_taken(steps: list[bool], share: float) -> None:
    allowance = RetryBudget(share, burst=10.0, filled=False)
    asked = taken = 0
    for take in steps:
        if take:
            taken += allowance.take(0.0)
        else:
            allowance.asked()
            asked += 1
        assert taken <= share * asked + 1e-6


def test_a_burst_is_there_at_once_and_comes_back_with_time() -> None:
    allowance = RetryBudget(0.0, per_second=10.0, burst=3.0, filled=True)
    assert [allowance.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(0.1), allowance.take(0.1)] == [True, False]
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_duplicates_may_be_a_share_of_what_is_spent_or_the_floor() -> None:
    spending = DuplicateSpendCap(0.05, floor_usd=0.10)
    assert spending.allows(0.0, Decimal("0.10"))
    assert not spending.allows(0.0, Decimal("0.11"))
    spending.record(0.0, spent=Decimal("10.0"), duplicate=Decimal("0.3"))
    assert spending.allows(1.0, Decimal("0.19"))
    assert not spending.allows(1.0, Decimal("0.21"))


def test_what_was_spent_long_ago_allows_nothing() -> None:
    spending = DuplicateSpendCap(0.05, floor_usd=0.0)
    spending.record(0.0, spent=Decimal("10.0"), duplicate=Decimal("0.0"))
    assert spending.allows(DUPLICATES_WITHIN - 1, Decimal("0.4"))
    assert not spending.allows(DUPLICATES_WITHIN + 1, Decimal("0.4"))


def offsets(*seen: float) -> Iterator[ClockOffset]:
    clock = ClockOffset()
    for seconds in seen:
        clock.hear(round((1000.0 + seconds) * 1000), 1000.0)
        yield clock


def test_the_fastest_heartbeat_sets_the_clock_offset() -> None:
    assert [round(clock.seconds, 3) for clock in offsets(4.9, 4.999, 3.0)] == [4.9, 4.999, 4.999]


def test_a_clock_that_was_set_right_is_followed() -> None:
    *_, clock = offsets(5.0, *[-0.001] * BEATS)
    assert clock.seconds == pytest.approx(-0.001)


def test_a_worker_that_never_said_has_our_clock() -> None:
    clock = ClockOffset()
    clock.hear(None, 1000.0)
    assert clock.seconds == 0.0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time of day, which stands still."""
    monkeypatch.setattr(deadline, "time", lambda: 1000.0)
    return 1000.0


def test_a_deadline_is_written_in_the_clock_of_who_reads_it(now: float) -> None:
    assert int(header(2.0, offset=5.0)) / 1000 == now + 7.0


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize("skew", [-4.5, 0.0, 4.5])
def test_a_callers_clock_that_is_wrong_by_seconds_shortens_nothing(skew: float) -> None:
    request = parse_request(b'{"prompt": "hi", "deadline_ms": 3000}')
    assert seconds_left({DEADLINE: header(3.0, skew)}, request) == 3.0


@pytest.mark.usefixtures("now")
def test_a_message_that_waited_too_long_has_no_time_left() -> None:
    request = parse_request(b'{"prompt": "hi", "deadline_ms": 3000}')
    assert seconds_left({DEADLINE: header(3.0 - CLOCKS_MAY_DIFFER - 4.0)}, request) < 0
    assert seconds_left({DEADLINE: header(-0.5)}, parse_request(b"hi")) < 0


@pytest.mark.usefixtures("now")
def test_a_deadline_in_the_headers_alone_is_the_deadline() -> None:
    assert seconds_left({DEADLINE: header(300.0)}, parse_request(b"hi")) == 300.0
    assert seconds_left({}, parse_request(b"hi")) == 120.0
