"""Waiting for something that is away."""

import asyncio

import pytest
from structlog.testing import capture_logs

from telemetry.recording.retry_forever import RetryForever


class Gone(Exception):
    pass


class Thing:
    """Comes back after so many tries."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tries = 0

    async def use(self) -> str:
        self.tries += 1
        if self.tries <= self.failures:
            raise Gone(f"not there {self.tries}")
        return "done"


@pytest.fixture
def retry() -> RetryForever:
    return RetryForever("thing", Gone, 0.001, "put it back")


async def test_it_tries_until_done_and_minds_what_it_holds(retry: RetryForever) -> None:
    thing, held = Thing(10), []

    async def hold() -> None:
        held.append(retry.away)

    assert await retry.until_done(thing.use, hold) == "done"
    assert held == [f"not there {n}" for n in range(1, 11)]
    assert retry.away == ""


async def test_it_says_so_ever_less_often_and_what_to_do(retry: RetryForever) -> None:
    with capture_logs() as logs:
        await retry.until_done(Thing(20).use)
    away = [entry["failures"] for entry in logs if entry["event"] == "thing_away"]
    assert away == [1, 2, 4, 8, 16]
    assert logs[0]["cure"] == "put it back"
    assert logs[-1]["event"] == "thing_back"


async def test_pauses_grow_to_the_longest_and_have_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def uniform(low: float, high: float) -> float:
        limits.append(high)
        return low

    monkeypatch.setattr("random.uniform", uniform)
    await RetryForever("thing", Gone, 1.0, "").until_done(Thing(6).use)
    assert limits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


async def test_other_errors_pass(retry: RetryForever) -> None:
    async def work() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await retry.until_done(work)


async def test_it_can_be_told_to_stop(retry: RetryForever) -> None:
    waiting = asyncio.create_task(retry.until_done(Thing(10**9).use))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
