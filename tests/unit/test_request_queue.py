"""Who waits for a place, and in which order they are called."""

import asyncio

import pytest

from contracts import BullpenError, Priority
from manager.request.queue import RequestQueue, Turn
from tests.support import eventually


class Waiters:
    """Requests by name, in the order in which they were called."""

    def __init__(self, limit: int = 100) -> None:
        self.room = RequestQueue(limit)
        self.called: list[str] = []
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(
        self, name: str, tenant: str = "", priority: Priority = "interactive", seconds: float = 600.0
    ) -> None:
        async def wait() -> None:
            self.turns[name] = await self.room.wait(priority, tenant, last=self.turns.get(name), seconds=seconds)
            self.called.append(name)

        self.tasks[name] = asyncio.create_task(wait())
        for _ in range(5):
            await asyncio.sleep(0)

    async def are_called(self, *names: str) -> None:
        await eventually(lambda: len(self.called) >= len(names))
        assert self.called == list(names)


async def test_interactive_before_batch_and_the_oldest_first() -> None:
    waiters = Waiters()
    await waiters.come("batch", priority="batch")
    await waiters.come("first")
    await waiters.come("second")
    waiters.room.call(3)
    await waiters.are_called("first", "second", "batch")
    assert len(waiters.room) == 0


async def test_tenants_take_turns() -> None:
    waiters = Waiters()
    for number in range(3):
        await waiters.come(f"flood-{number}", "flood")
    await waiters.come("other", "other")
    for _ in range(4):
        waiters.room.call(1)
    await waiters.are_called("flood-0", "other", "flood-1", "flood-2")


async def test_who_does_not_want_the_place_hands_it_on_and_keeps_its_turn() -> None:
    waiters = Waiters()
    for name in ("picky", "picky-too", "modest"):
        await waiters.come(name)
    waiters.room.call(1)
    await waiters.are_called("picky")
    await waiters.come("picky")  # declined: comes again
    await waiters.are_called("picky", "picky-too")
    await waiters.come("picky-too")
    await waiters.are_called("picky", "picky-too", "modest")
    assert len(waiters.room) == 2


async def test_who_waited_in_vain_is_forgotten() -> None:
    waiters = Waiters()
    await waiters.come("late", seconds=0.01)
    await waiters.tasks["late"]
    assert (len(waiters.room), waiters.turns["late"].called.cancelled()) == (0, True)


async def test_a_full_room_sends_batch_work_away_and_then_says_so() -> None:
    waiters = Waiters(limit=1)
    await waiters.come("batch", priority="batch")
    await waiters.come("interactive")
    with pytest.raises(BullpenError, match="every worker is full"):
        await waiters.tasks["batch"]
    with pytest.raises(BullpenError, match="1 requests wait already"):
        await waiters.room.wait("interactive", "", last=None, seconds=600.0)
    waiters.room.call(1)
    await waiters.are_called("interactive")


async def test_who_left_in_the_same_moment_is_not_called_but_the_next_one() -> None:
    """A task that is cancelled leaves the line only when it runs again."""
    waiters = Waiters()
    await waiters.come("left")
    await waiters.come("next")
    waiters.tasks["left"].cancel()
    waiters.room.call(1)
    await waiters.are_called("next")


async def test_a_tenant_s_burst_takes_no_place_in_the_queue_from_others() -> None:
    waiters = Waiters(limit=4)
    for number in range(4):
        await waiters.come(f"flood-{number}", "flood")
    await waiters.come("other", "other")
    with pytest.raises(BullpenError, match="overloaded"):
        await waiters.tasks["flood-3"]
    await waiters.come("flood-4", "flood")
    with pytest.raises(BullpenError, match="overloaded"):
        await waiters.tasks["flood-4"]
    waiters.room.call(4)
    await waiters.are_called("flood-0", "other", "flood-1", "flood-2")


async def test_a_burst_of_batch_work_takes_no_place_from_another_tenant_s() -> None:
    waiters = Waiters(limit=3)
    for number in range(3):
        await waiters.come(f"flood-{number}", "flood", priority="batch")
    await waiters.come("other", "other", priority="batch")
    with pytest.raises(BullpenError, match="overloaded"):
        await waiters.tasks["flood-2"]
    await waiters.come("more", "other", priority="batch")
    with pytest.raises(BullpenError, match="overloaded"):
        await waiters.tasks["more"]
    waiters.room.call(3)
    await waiters.are_called("flood-0", "other", "flood-1")
