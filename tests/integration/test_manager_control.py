"""A Manager that is asked for a task, drained and resumed."""

import asyncio
from functools import partial
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Bus, NoResponders
from tests.fake_worker import Asked, FakeWorker, acting
from tests.mesh import Json, SmallMesh
from tests.support import eventually


async def _answer_when(release: asyncio.Event, asked: Asked) -> None:
    await asked.claim()
    await asked.progress()
    await release.wait()
    await asked.answer("here")


async def test_the_manager_that_has_a_task_says_so_and_no_other(mesh: SmallMesh) -> None:
    release = asyncio.Event()
    async with FakeWorker(mesh.bus, "f-1", acting(partial(_answer_when, release))) as fake:
        await mesh.manager("m-1")
        await mesh.manager("m-2")
        asking = asyncio.create_task(mesh.ask(task_id="mine"))
        await eventually(lambda: fake.asked)
        told = from_json((await mesh.bus.request("infer.status", b'{"task_id": "mine"}', timeout=30)).data)
        assert (told["task_id"], told["state"]) == ("mine", "running")
        release.set()
        assert (await asking)["request_id"] == told["request_id"]
    answers: list[Any] = []
    with mesh.bus.listen(answers.append) as inbox:
        await mesh.bus.publish("infer.status", b'{"task_id": "mine"}', reply=inbox.subject)
        await mesh.bus.request("manager.control.m-1", b'{"op": "status"}', timeout=30)
        await mesh.bus.request("manager.control.m-2", b'{"op": "status"}', timeout=30)
    assert answers == []


async def test_a_draining_manager_takes_nothing_new_until_it_resumes(mesh: SmallMesh) -> None:
    release = asyncio.Event()
    async with FakeWorker(mesh.bus, "f-1", acting(partial(_answer_when, release))) as fake:
        await mesh.manager("m-1")
        asking = asyncio.create_task(mesh.ask())
        await eventually(lambda: fake.asked)
        drained = await control(mesh.bus, "m-1", "drain")
        assert (drained["state"], drained["inflight"]) == ("draining", 1)
        release.set()
        assert (await asking)["output"]
        with pytest.raises(NoResponders, match="no subscriber"):
            await mesh.ask()
        assert (await control(mesh.bus, "m-1", "resume"))["state"] == "ready"
        assert (await mesh.ask())["output"]
    refused = await control(mesh.bus, "m-1", "swap")
    assert not refused["ok"]
    assert "cannot swap" in refused["message"]


async def control(bus: Bus, manager_id: str, op: str) -> Json:
    answer: Json = from_json(
        (await bus.request(f"manager.control.{manager_id}", b'{"op": "%s"}' % op.encode(), timeout=30)).data
    )
    return answer
