"""Who waits for a place, and in which order they are called."""

import asyncio

import pytest

from contracts import BullpenError, Priority
from manager.request.queue import AT_ONCE, RequestQueue, Turn
from manager.routing.query import ANYTHING, Wants
from tests.support import eventually


class Waiters:
    """Requests by name, in the order in which they were called."""

    def __init__(self, limit: int = 100) -> None:
        self.room = RequestQueue(limit)
        self.called: list[str] = []
        self.turns: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(
        self,
        name: str,
        tenant: str = "",
        priority: Priority = "interactive",
        seconds: float = 600.0,
        wants: Wants = ANYTHING,
    ) -> None:
        async def wait() -> None:
            last = self.turns.get(name)
            turn = self.turns[name] = last.again() if last else Turn(tenant, wants, priority)
            await self.room.wait(turn, last=last, seconds=seconds)
            self.called.append(name)

        self.tasks[name] = asyncio.create_task(wait())
        for _ in range(5):
            await asyncio.sleep(0)

    def call(self, places: int, model: str = "m") -> None:
        """A worker that serves `model` has so many free places."""
        self.room.call(places, lambda wants: wants.model in (None, model))

    async def are_called(self, *names: str) -> None:
        await eventually(lambda: len(self.called) >= len(names))
        assert self.called == list(names)


async def test_interactive_before_batch_and_the_oldest_first() -> None:
    waiters = Waiters()
    await waiters.come("batch", priority="batch")
    await waiters.come("first")
    await waiters.come("second")
    waiters.call(3)
    await waiters.are_called("first", "second", "batch")
    assert len(waiters.room) == 0


async def test_tenants_take_turns() -> None:
    waiters = Waiters()
    for number in range(3):
        await waiters.come(f"flood-{number}", "flood")
    await waiters.come("other", "other")
    for _ in range(4):
        waiters.call(1)
    await waiters.are_called("flood-0", "other", "flood-1", "flood-2")


async def test_who_does_not_want_the_place_hands_it_on_and_keeps_its_turn() -> None:
    waiters = Waiters()
    for name in ("picky", "picky-too", "modest"):
        await waiters.come(name)
    waiters.call(1)
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
        await waiters.room.wait(Turn(""), seconds=600.0)
    waiters.call(1)
    await waiters.are_called("interactive")


async def test_who_left_in_the_same_moment_is_not_called_but_the_next_one() -> None:
    """A task that is cancelled leaves the line only when it runs again."""
    waiters = Waiters()
    await waiters.come("left")
    await waiters.come("next")
    waiters.tasks["left"].cancel()
    waiters.call(1)
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
    waiters.call(4)
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
    waiters.call(3)
    await waiters.are_called("flood-0", "other", "flood-1")


async def test_only_those_are_called_that_want_what_the_worker_serves() -> None:
    """However many wait before them for another model."""
    waiters = Waiters()
    for number in range(20):
        await waiters.come(f"other-{number}", wants=Wants(model="other"))
    await waiters.come("first", wants=Wants(model="m"))
    await waiters.come("second")
    waiters.call(64)
    await waiters.are_called("first", "second")
    waiters.call(64)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (waiters.called, len(waiters.room)) == (["first", "second"], 20)


async def test_one_call_wakes_a_few_and_whoever_takes_a_place_calls_the_next() -> None:
    waiters = Waiters()
    for number in range(3 * AT_ONCE):
        await waiters.come(f"r-{number}")
    waiters.call(1000)
    await eventually(lambda: len(waiters.called) == AT_ONCE)
    waiters.call(1)
    await waiters.are_called(*(f"r-{number}" for number in range(AT_ONCE + 1)))


async def test_a_place_that_is_taken_meanwhile_is_not_handed_on() -> None:
    waiters, free = Waiters(), [True]
    for name in ("late", "next"):
        await waiters.come(name)
    waiters.room.call(1, lambda wants: free[0])
    free[0] = False
    await waiters.are_called("late")
    await waiters.come("late")
    assert (waiters.called, len(waiters.room)) == (["late"], 2)


async def test_one_request_is_woken_alone_and_hands_on_no_place() -> None:
    waiters = Waiters()
    for name in ("declines", "takes", "last"):
        await waiters.come(name)
    waiters.call(1)
    await waiters.are_called("declines")
    await waiters.come("declines")
    await waiters.are_called("declines", "takes")
    for _ in range(2):
        waiters.room.wake(waiters.turns["declines"])
    await waiters.are_called("declines", "takes", "declines")
    await waiters.come("declines")
    assert (waiters.called, len(waiters.room)) == (["declines", "takes", "declines"], 2)


async def test_requests_ahead_are_those_that_wait_for_the_same() -> None:
    waiters = Waiters()
    for number, model in enumerate(("m", "m", "other", None)):
        await waiters.come(f"r-{number}", wants=Wants(model=model))
    ahead = {model: waiters.room.ahead_of(Wants(model=model)) for model in ("m", "other", None)}
    assert ahead == {"m": 3, "other": 2, None: 4}
