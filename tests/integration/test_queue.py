"""Requests that find every worker full: they wait at the Manager, in order, and are told when too many do."""

import asyncio
from functools import partial

from tests.fake_worker import Asked, FakeWorker, acting
from tests.gate import Gate
from tests.mesh import Json, SmallMesh
from tests.support import eventually


async def test_more_requests_than_places_wait_their_turn(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", max_concurrency=2, latency_ms={"fixed": 20})
    await mesh.manager()
    answers = await asyncio.gather(*(mesh.ask() for _ in range(40)))
    assert all("output" in answer for answer in answers)


async def test_managers_that_fill_a_worker_together_wait_until_it_has_room(mesh: SmallMesh) -> None:
    """Each knows of the others' questions only from the last heartbeat; `overloaded` from a worker is no answer."""
    await mesh.worker("w-1", max_concurrency=2, max_queue=0, latency_ms={"fixed": 50})
    for name in ("m-1", "m-2", "m-3"):
        await mesh.manager(name)
    answers = await asyncio.gather(*(mesh.ask() for _ in range(12)))
    assert [answer["error"] for answer in answers if "error" in answer] == []
    assert any(len(answer["attempts"]) > 1 for answer in answers), "nobody sent too much"


async def test_who_finds_the_waiting_room_full_is_told_when_there_may_be_room(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1", max_concurrency=1, latency_ms=600)
    await mesh.manager(max_waiting=5)
    await mesh.ask()  # it is known now how long one takes
    asking = [asyncio.create_task(mesh.ask(prompt=gate.prompt)) for _ in range(8)]
    refused = await the_first(2, asking)
    gate.open()
    await asyncio.gather(*asking)
    assert {error["code"] for error in refused} == {"overloaded"}
    assert all(2000 < error["retry_after_ms"] < 200_000 for error in refused), refused


async def the_first(count: int, asking: list[asyncio.Task[Json]]) -> list[Json]:
    """The errors of so many that were told at once; the others wait."""
    await eventually(lambda: sum(task.done() for task in asking) >= count)
    return [task.result()["error"] for task in asking if task.done()]


async def test_a_full_waiting_room_says_overloaded_at_once(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1", max_concurrency=1)
    await mesh.manager(max_waiting=1)
    asking = [asyncio.create_task(mesh.ask(prompt=gate.prompt)) for _ in range(5)]
    refused = await the_first(3, asking)
    gate.open()
    answers = await asyncio.gather(*asking)
    assert [e["code"] for e in refused] == ["overloaded"] * 3
    assert all(e["retry_after_ms"] for e in refused)
    assert sum("output" in answer for answer in answers) == 2


async def test_interactive_goes_before_batch(mesh: SmallMesh) -> None:
    """The worker has one place, and answers when told to; the others wait at the Manager, which says how many."""
    go_on = asyncio.Semaphore(0)
    order: list[str] = []

    async def answer(asked: Asked) -> None:
        await asked.claim()
        order.append(asked.body["prompt"])
        await go_on.acquire()
        await asked.answer("done")

    async with FakeWorker(mesh.bus, "f-1", acting(answer), capacity=1):
        await mesh.manager()
        asking = []
        for number, (prompt, priority) in enumerate(
            (("first", "batch"), ("second", "batch"), ("third", "batch"), ("urgent", "interactive"))
        ):
            asking.append(asyncio.create_task(mesh.ask(prompt=prompt, priority=priority)))
            await eventually(partial(_holds, mesh, number + 1))
        for _ in asking:
            go_on.release()
        await asyncio.gather(*asking)
    assert order == ["first", "urgent", "second", "third"]


async def _holds(mesh: SmallMesh, count: int) -> bool:
    """Whether the Manager has so many requests, all but one of which wait."""
    return await _runs(mesh, count, count - 1)


async def test_requests_for_a_full_worker_keep_none_for_another_model_waiting(mesh: SmallMesh, gate: Gate) -> None:
    """However many there are: a free place is offered to those that want what its worker serves."""
    opened = asyncio.Event()

    async def hold(asked: Asked) -> None:
        await asked.claim()
        await opened.wait()
        await asked.answer("at last")

    await mesh.worker("quick", max_concurrency=1, heartbeat_interval=60)
    async with FakeWorker(mesh.bus, "full", acting(hold), capacity=1, model="slow"):
        await mesh.manager()
        slow = [asyncio.create_task(mesh.ask(model="slow")) for _ in range(30)]
        await eventually(partial(_holds, mesh, 30))
        first = asyncio.create_task(mesh.ask(model="simulated", prompt=gate.prompt))
        await eventually(partial(_runs, mesh, 31, waiting=29))
        second = asyncio.create_task(mesh.ask(model="simulated"))
        await eventually(partial(_runs, mesh, 32, waiting=30))
        gate.open()
        assert [answer["worker_id"] for answer in await asyncio.gather(first, second)] == ["quick", "quick"]
        opened.set()
        assert all("output" in answer for answer in await asyncio.gather(*slow))


async def test_a_request_whose_only_worker_leaves_does_not_wait_for_it(mesh: SmallMesh) -> None:
    async def hold(asked: Asked) -> None:
        await asked.claim()

    await mesh.worker("other")
    async with FakeWorker(mesh.bus, "leaves", acting(hold), capacity=1, model="rare"):
        await mesh.manager()
        asking = [asyncio.create_task(mesh.ask(model="rare", deadline_ms=600_000)) for _ in range(3)]
        await eventually(partial(_holds, mesh, 3))
    errors = [answer["error"] for answer in await asyncio.gather(*asking)]
    assert {error["code"] for error in errors} <= {"no_worker", "no_such_model"}, errors


async def _runs(mesh: SmallMesh, count: int, waiting: int) -> bool:
    told = await mesh.manager_says()
    return (told["inflight"], told["waiting"]) == (count, waiting)
