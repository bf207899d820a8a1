"""Managers die, freeze, leave under load, or are missing: over real processes, to bare callers who ask once."""

import asyncio
import json
import signal

import pytest
from pydantic_core import from_json

from bus import BusError
from tests.books_stream import make_stream
from tests.roles import PROMPT, Question, Roles, unwell
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

SOME = 3
"""Of thirty questions that either of two Managers may get; each gets fewer once in two million times."""


async def who_has(roles: Roles, task_id: str) -> str:
    """The Manager that has a task; empty when none says so (yet)."""
    body = json.dumps({"task_id": task_id}).encode()
    try:
        return str(from_json((await roles.bus.request("infer.status", body, timeout=1)).data)["manager_id"])
    except BusError:
        return ""


async def test_a_manager_killed_takes_only_its_own_questions_along(roles: Roles) -> None:
    """A bare caller of the dead one hears nothing more; everybody else is answered, then and after."""
    for name in ("m-1", "m-2"):
        roles.manager(name)
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="8000", BULLPEN_SIMULATED__MAX_CONCURRENCY="150")
    await roles.ready()
    asked = {f"task-{number}": await roles.ask(task_id=f"task-{number}") for number in range(60)}
    has: dict[str, str] = {}

    async def all_are_held() -> bool:
        asking = [task_id for task_id in asked if not has.get(task_id)]
        has.update(zip(asking, await asyncio.gather(*(who_has(roles, task_id) for task_id in asking)), strict=True))
        return all(has.values())

    await eventually(all_are_held)
    lost = [asked[task_id] for task_id, manager in has.items() if manager == "m-1"]
    others = [question for question in asked.values() if question not in lost]
    assert lost
    assert others
    roles.send("m-1", signal.SIGKILL)
    after = await roles.ask_many(30)
    await roles.answered(others)
    # What the server had for the dead one in that instant goes nowhere; nobody else's does.
    await eventually(lambda: sum(bool(question.finals) for question in after) >= SOME)
    assert unwell(question for question in [*others, *after] if question.finals) == []
    assert unwell(await roles.answered(await roles.ask_many(30))) == []
    assert [question for question in lost if question.finals] == []


@pytest.mark.parametrize("nats", [6.0], indirect=True, ids=["cut off after 6 s"])
async def test_a_manager_that_slept_declares_no_worker_dead_and_answers_once(roles: Roles) -> None:
    """For longer than its own patience, and than the server's, which cuts it off."""
    roles.manager("m-1", **PROMPT)
    for name in ("w-1", "w-2"):
        roles.worker(name, BULLPEN_SIMULATED__LATENCY_MS="4000")
    await roles.ready()
    asked = [*await roles.ask_many(20), *await roles.ask_many(5, stream=True)]
    await roles.have(25, "w-1", "w-2")
    roles.send("m-1", signal.SIGSTOP)
    await asyncio.sleep(8)
    roles.send("m-1", signal.SIGCONT)
    assert unwell(await roles.answered(asked)) == []
    assert {question.attempts for question in asked} == {1}
    for said in ("worker_silent", "worker_left"):
        assert said not in roles.log("m-1")


async def test_a_manager_told_to_leave_under_load_answers_what_it_took(roles: Roles) -> None:
    """Its callers are bare ones: nobody who would ask again."""
    for name in ("m-1", "m-2"):
        roles.manager(name)
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="400")
    await roles.ready()
    await make_stream(roles.bus, max_bytes=1 << 20)
    asked: list[Question] = []

    async def keep_asking() -> None:
        while True:
            asked.append(await roles.ask(stream=len(asked) % 4 == 0))
            await asyncio.sleep(0.03)

    asking = asyncio.create_task(keep_asking())
    await eventually(lambda: len(asked) >= 20)
    roles.send("m-1", signal.SIGTERM)
    await eventually(lambda: roles.ended("m-1") is not None, timeout=40)
    without = len(asked)
    await eventually(lambda: len(asked) >= without + 10)
    asking.cancel()
    assert roles.ended("m-1") == 0
    assert unwell(await roles.answered(asked)) == []


async def test_without_managers_workers_answer_and_the_next_manager_routes_at_once(roles: Roles) -> None:
    """And it sends nobody to a worker that died while there was no Manager."""
    roles.manager("m-1")
    for name in ("w-1", "w-2"):
        roles.worker(name)
    await roles.ready()
    roles.kill("m-1")
    assert unwell(await roles.answered(await roles.ask_many(20, "infer.simulated"))) == []

    async def told_that_none_is_here() -> bool:
        """The server may not have noticed yet that it is dead."""
        question = await roles.ask()
        await eventually(lambda: question.finals, timeout=2)
        assert question.code == "no_responders"
        return True

    await eventually(told_that_none_is_here)
    roles.kill("w-1")

    async def taken() -> Question | None:
        question = await roles.answer()
        return question if question.code != "no_responders" else None

    for name in ("m-2", "m-3", "m-4"):  # a busy machine may keep a worker from saying at once that it is here
        roles.manager(name)
        first: Question = await eventually(taken, timeout=40)
        if not first.code:
            break
        roles.kill(name)
    assert unwell([first]) == []
    answers = await roles.answered(await roles.ask_many(20))
    asked = {attempt["worker_id"] for question in answers for attempt in question.finals[0]["attempts"]}
    assert asked == {"w-2"}, "somebody was sent to a ghost"
