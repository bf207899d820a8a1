"""A unit test starts no process and waits for no clock; what takes longer than two seconds is ended."""

import signal
from collections.abc import Generator
from time import monotonic, process_time

import pytest
from hypothesis import is_hypothesis_test, settings

UNIT_TEST_ENDS = 2.0
"""Seconds of processor time after which a unit test is ended: a busy machine makes it no longer."""
HUNG = 10.0
"""Seconds after which it is ended although it computes nothing: it waits for something."""
MANY_CASES = 10
"""A property test tries a hundred cases: so many times as long; and a fuzzer as long as it takes."""


def _item_ends(item: pytest.Item) -> float:
    many = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
    return UNIT_TEST_ENDS * (max(MANY_CASES, settings().max_examples / 10) if many else 1)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Ends a unit test that computes or waits too long."""
    ends, hung = _item_ends(item), max(HUNG, 3 * _item_ends(item))
    began, computed = monotonic(), process_time()

    def ring(*_: object) -> None:
        if process_time() - computed >= ends:
            pytest.fail(f"a unit test ends after {ends:g} s of processor time")
        if monotonic() - began >= hung:
            pytest.fail(f"a unit test that waits ends after {hung:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, UNIT_TEST_ENDS, 0.5)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
