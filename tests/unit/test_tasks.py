"""Tasks with an owner: what becomes of them when the owner leaves."""

import asyncio

import pytest

from bus import Tasks, tasks


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCELLED_AGAIN", 0.01)
    lost = 0

    async def loses_some() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    group = Tasks("test")
    group.start(loses_some(), "loses some")
    await asyncio.sleep(0)
    await group.cancel()
    assert len(group) == 0
    assert lost == 2


async def test_the_task_that_cancels_the_others_goes_on() -> None:
    group = Tasks("test")
    group.start(asyncio.sleep(60), "another")

    async def leaves() -> str:
        await group.cancel()
        return "left"

    assert await group.start(leaves(), "leaves") == "left"
