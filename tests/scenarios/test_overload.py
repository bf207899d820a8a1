"""More questions than the workers can answer, over real processes: who is refused, who waits, and who goes first."""

import asyncio
import time
from typing import Any

import psutil
import pytest

from tests.roles import Question, Roles, unwell
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

SMALL = {"BULLPEN_SIMULATED__MAX_CONCURRENCY": "4", "BULLPEN_SIMULATED__LATENCY_MS": "200"}
CAPACITY = 20.0
"""Answers per second of a small worker."""
SOON = 15.0
"""Seconds: a small part of the time that a question has."""


async def rush(roles: Roles, seconds: float, per_second: float, **request: Any) -> list[Question]:
    """An open loop: questions come whether or not the ones before were answered, or later all at once."""
    began = time.monotonic()
    asked: list[Question] = []
    while len(asked) < (total := round(seconds * per_second)):
        due = min(total, round((time.monotonic() - began) * per_second))
        asked += await roles.ask_many(due - len(asked), **request)
        await asyncio.sleep(0.01)
    return asked


async def test_three_times_too_much_is_refused_at_once_and_the_rest_is_answered(roles: Roles) -> None:
    roles.manager(BULLPEN_MANAGER__MAX_WAITING="20")
    roles.worker("w-1", **SMALL)
    await roles.ready()
    memory = psutil.Process(roles.pid("m-1")).memory_info
    await roles.answered(await rush(roles, 0.7, 3 * CAPACITY))
    before = memory().rss
    asked = await roles.answered(await rush(roles, 2, 3 * CAPACITY))
    refused = [question for question in asked if question.code]
    assert {question.code for question in refused} == {"overloaded"}
    assert all(question.finals[0]["error"]["retry_after_ms"] > 0 for question in refused)
    assert max(question.took for question in refused) < SOON, "told late"
    answered = [question for question in asked if not question.code]
    assert len(answered) > 0.2 * 2 * CAPACITY  # of a worker that has a processor when it needs one, 0.8
    assert memory().rss - before < 32 << 20


async def test_under_too_much_batch_work_interactive_questions_are_served(roles: Roles) -> None:
    """Half of what fits is interactive, and more than fits is batch work: that is what has to wait."""
    roles.manager(BULLPEN_MANAGER__MAX_WAITING="20")
    roles.worker("w-1", **SMALL)
    await roles.ready()
    batch: list[Question] = []

    async def ask_too_much() -> None:
        while True:
            batch.extend(await rush(roles, 0.1, 3 * CAPACITY, priority="batch"))

    asking = asyncio.create_task(ask_too_much())
    await eventually(lambda: any(question.finals and question.code for question in batch))
    interactive = await rush(roles, 1, CAPACITY / 2)
    asking.cancel()
    assert unwell(await roles.answered(interactive)) == []
    everything = await roles.answered(batch)
    assert {question.code for question in everything} == {"", "overloaded"}
