"""Waiting until no work is under way."""

import asyncio

import pytest

from bus.tasks import Idle


async def test_waiting_returns_at_once_when_nothing_is_under_way() -> None:
    await Idle().wait()


async def test_waiting_ends_with_the_last_piece_of_work() -> None:
    idle = Idle()
    with idle.busy():
        with idle.busy():
            waiting = asyncio.create_task(idle.wait())
            await asyncio.sleep(0)
            assert len(idle) == 2
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_work_that_fails_is_over_too() -> None:
    idle = Idle()
    with pytest.raises(RuntimeError), idle.busy():
        raise RuntimeError
    await idle.wait()


async def test_new_work_makes_it_busy_again() -> None:
    idle = Idle()
    with idle.busy():
        pass
    with idle.busy(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await idle.wait()
