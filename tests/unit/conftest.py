"""A unit test starts no process and waits for no clock; what takes longer than some seconds is ended."""

import signal
from collections.abc import Generator
from time import process_time

import pytest
from hypothesis import is_hypothesis_test, settings

UNIT_TEST_ENDS = 5.0
"""Seconds of processor time after which a unit test is ended: a busy machine makes it little longer."""
LOOK_EVERY = 0.5
IDLE, IDLE_LOOKS = 0.01, 60
"""It waits for something when it computes for less than so many seconds between two looks, so many times in all. A
process that gets no processor is not looked at either."""
MANY_CASES = 10
"""A property test tries a hundred cases: so many times as long; and a fuzzer as long as it takes."""


def _item_ends(item: pytest.Item) -> float:
    many = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
    return UNIT_TEST_ENDS * (max(MANY_CASES, settings().max_examples / 10) if many else 1)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Ends a unit test that computes or waits too long."""
    ends, began = _item_ends(item), process_time()
    idle_looks = IDLE_LOOKS * ends / UNIT_TEST_ENDS
    looked, idle = began, 0

    def look(*_: object) -> None:
        nonlocal looked, idle
        now = process_time()
        looked, idle = now, idle + (now - looked < IDLE)
        if now - began >= ends:
            pytest.fail(f"a unit test ends after {ends:g} s of processor time")
        if idle >= idle_looks:
            pytest.fail(f"a unit test that waits ends after {idle_looks * LOOK_EVERY:g} s")

    previous = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_EVERY, LOOK_EVERY)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
