"""A unit test starts no process and waits for no clock; what takes longer than two seconds is ended."""

import signal
from collections.abc import Generator
from pathlib import Path
from time import monotonic

import pytest

UNIT_TEST_ENDS = 2.0
"""Seconds after which a unit test is ended, not counting those in which a busy machine did not let it run."""
RUN_QUEUE = Path("/proc/self/schedstat")
"""Where Linux says how long this process waited for a processor: the second number, in nanoseconds."""
SHORT = 0.05
"""Seconds that are not worth waiting for."""


def _kept_waiting() -> float:
    """Seconds that this process wanted to run and could not; 0 where the system does not say."""
    try:
        return int(RUN_QUEUE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Ends a unit test that takes too long, however busy the machine is with something else."""
    began, waited = monotonic(), _kept_waiting()

    def ring(*_: object) -> None:
        left = UNIT_TEST_ENDS - (monotonic() - began) + (_kept_waiting() - waited)
        if left <= SHORT:
            pytest.fail(f"a unit test ends after {UNIT_TEST_ENDS:g} s")
        signal.setitimer(signal.ITIMER_REAL, left)

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, UNIT_TEST_ENDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
