"""Workers and Managers that leave: what they have begun they finish, and they take nothing new."""

import asyncio

from tests.gate import Gate
from tests.mesh import Json, SmallMesh
from tests.support import eventually


async def test_draining_finishes_what_runs_and_takes_nothing_new(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.worker("w-2")
    await mesh.manager()
    asking: list[asyncio.Task[Json]] = []

    def busy() -> bool:
        asking.append(asyncio.create_task(mesh.ask(prompt=gate.prompt)))
        return mesh.beats["w-1"].inflight > 0

    await eventually(busy, every=0.05)
    stopping = asyncio.create_task(mesh.stop("w-1"))
    await mesh.state("w-1", "draining")
    later = [await mesh.ask() for _ in range(2)]
    gate.open()
    answers = [*(await asyncio.gather(*asking)), *later]
    assert all("output" in answer for answer in answers)
    outcomes = {attempt["outcome"] for answer in answers for attempt in answer["attempts"]}
    assert outcomes <= {"ok", "refused"}, "what had begun was finished; what came after, refused before it began"
    assert {answer["worker_id"] for answer in later} == {"w-2"}
    await stopping
    await mesh.state("w-1", "stopped")


async def test_drain_and_resume_by_remote_control(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    assert (await mesh.worker_says("w-1", "drain"))["heartbeat"]["state"] == "draining"
    assert (await mesh.ask())["error"]["code"] == "no_worker"
    await mesh.worker_says("w-1", "resume")
    await eventually(lambda: mesh.beats["w-1"].state == "ready")
    assert (await mesh.ask())["output"]


async def test_a_worker_that_is_leaving_does_not_resume(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    asking = asyncio.create_task(mesh.ask("infer.simulated", prompt=gate.prompt))
    await eventually(lambda: gate.waiting)
    stopping = asyncio.create_task(mesh.stop("w-1"))
    await mesh.state("w-1", "draining")
    told = await mesh.worker_says("w-1", "resume")
    assert (told["ok"], told["message"], told["heartbeat"]["state"]) == (False, "the worker is leaving", "draining")
    gate.open()
    assert (await asking)["output"]
    await stopping


async def test_a_manager_that_is_leaving_does_not_resume(mesh: SmallMesh, gate: Gate) -> None:
    """It would take questions that nobody answers any more."""
    await mesh.worker("w-1")
    await mesh.manager()
    asking = asyncio.create_task(mesh.ask(prompt=gate.prompt))
    await eventually(lambda: gate.waiting)
    stopping = asyncio.create_task(mesh.stop("m-1"))
    await eventually(mesh.drains)
    assert (await mesh.manager_says(op="resume"))["message"] == "the Manager is leaving"
    assert await mesh.drains()
    gate.open()
    assert (await asking)["output"]
    await stopping


async def test_a_stopping_manager_answers_what_it_took(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    asking = [asyncio.create_task(mesh.ask(prompt=gate.prompt)) for _ in range(5)]
    await eventually(lambda: gate.waiting == 5)
    stopping = asyncio.create_task(mesh.stop("m-1"))
    await eventually(mesh.drains)
    gate.open()
    assert all("output" in answer for answer in await asyncio.gather(*asking))
    await stopping
