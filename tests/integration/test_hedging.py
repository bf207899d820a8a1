"""A second worker beside a slow one."""

import asyncio

from contracts import BullpenError, ErrorCode, PartialUsage
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import Attempts
from tests.mesh import SmallMesh
from tests.support import eventually


async def test_a_question_that_takes_unusually_long_is_given_to_an_idle_worker_too(mesh: SmallMesh) -> None:
    slow = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        if slow.is_set():
            await eventually(lambda: fake.told)
            await asked.fail(BullpenError(ErrorCode.CANCELLED, "stopped"), PartialUsage(completion_tokens=3))
        else:
            await asked.answer("quick")

    booked = await Attempts.of(mesh)
    await mesh.worker("w-1", latency_ms=300)
    await mesh.manager()
    assert "output" in await mesh.ask()  # from now on w-1 is known to be slow
    async with FakeWorker(mesh.bus, "f-1", acting(script)) as fake:
        await mesh.knows("f-1")
        asked = ["w-1"]
        while asked.count("f-1") < 25 or set(asked[-20:]) != {"f-1"}:
            asked.append((await mesh.ask(policy="fastest", hedge=False))["worker_id"])
        await eventually(lambda: len(booked.rows) >= len(asked))
        booked.rows.clear()
        slow.set()
        answer = await mesh.ask(policy="fastest")
        assert answer["worker_id"] == "w-1"
        assert [attempt["outcome"] for attempt in answer["attempts"]] == ["hedged_loser", "ok"]
        loser, _ = await booked.outcomes("hedged_loser", "ok")
        assert loser.completion_tokens == 3
        slow.clear()


async def test_batch_work_is_not_hedged(mesh: SmallMesh) -> None:
    slow = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await asyncio.sleep(0.8 if slow.is_set() else 0)
        await asked.answer("here")

    await mesh.worker("w-1", latency_ms=300)
    async with FakeWorker(mesh.bus, "f-1", acting(script)):
        await mesh.manager()
        await mesh.knows("f-1")
        for _ in range(25):
            await mesh.ask(policy="fastest", hedge=False)
        slow.set()
        answer = await mesh.ask(policy="fastest", priority="batch")
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]
