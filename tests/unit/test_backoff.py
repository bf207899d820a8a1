"""How long to wait before another try."""

import pytest

from bus.backoff import Backoff

BACKOFF = Backoff(0.1, 2.0)


def test_nothing_failed_means_no_wait() -> None:
    assert BACKOFF.wait(0) == 0.0


def test_the_ceiling_doubles_with_each_failure_up_to_the_cap() -> None:
    assert [BACKOFF.ceiling(failures) for failures in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


def test_any_number_of_failures_is_within_the_cap() -> None:
    assert BACKOFF.ceiling(10**6) == 2.0


@pytest.mark.parametrize("failures", [1, 3, 50])
def test_waits_are_spread_from_zero_to_the_ceiling(failures: int) -> None:
    ceiling = BACKOFF.ceiling(failures)
    waits = [BACKOFF.wait(failures) for _ in range(500)]
    assert 0.0 <= min(waits) < 0.2 * ceiling
    assert 0.8 * ceiling < max(waits) <= ceiling
