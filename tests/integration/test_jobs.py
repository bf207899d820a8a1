"""Durable requests over a real JetStream: one result each, whatever happens to who works on them."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bus import BusError, NoResponders
from bus.jetstream import api
from bus.queue import ArchivedMessage, Receipt, read_after, store
from client import Bullpen, RequestFailed
from contracts import subjects as s
from tests.mesh import SmallMesh
from tests.support import eventually

Json = dict[str, Any]
QUICK = {"first_pause": 0.05, "longest_pause": 0.1}


@pytest.fixture
async def mesh(nats_server: str) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats_server) as small:
        yield small


async def streams_are_there(mesh: SmallMesh) -> None:
    async def there() -> bool:
        try:
            await api(mesh.bus, f"CONSUMER.INFO.{s.JOBS_STREAM}.{s.JOBS_CONSUMER}")
        except BusError:
            return False
        return True

    await eventually(there)


async def submit(mesh: SmallMesh, body: bytes | Json, **headers: str) -> Receipt:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await store(mesh.bus, s.JOBS_STREAM, s.JOBS_SUBMIT, data, named, within=5)


async def results(mesh: SmallMesh, task_id: str = "", count: int = 1) -> list[ArchivedMessage]:
    """Waits until there are so many and no job is left, and returns all there are."""
    subject = s.result(task_id) if task_id else s.RESULT_ANY

    async def enough() -> list[ArchivedMessage]:
        try:
            found = await read_after(mesh.bus, s.RESULTS_STREAM, subject, 0)
        except NoResponders:
            return []
        return found if len(found) >= count and await open_jobs(mesh) == 0 else []

    found: list[ArchivedMessage] = await eventually(enough, timeout=12)
    return found


async def open_jobs(mesh: SmallMesh) -> int:
    return int((await api(mesh.bus, f"STREAM.INFO.{s.JOBS_STREAM}"))["state"]["messages"])


async def test_a_job_is_answered_and_its_result_is_kept(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": "hello there", "task_id": "t1"})
    (kept,) = await results(mesh, "t1")
    answer = json.loads(kept.data)
    assert (answer["task_id"], answer["worker_id"]) == ("t1", "w-1")
    assert kept.headers["Bullpen-Task"] == "t1"


async def test_a_bare_prompt_is_a_job_whose_task_is_called_by_its_number(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    receipt = await submit(mesh, b"hello there")
    (kept,) = await results(mesh, f"job-{receipt.seq}")
    assert json.loads(kept.data)["output"]


async def test_a_job_waits_for_a_worker_and_a_manager(mesh: SmallMesh) -> None:
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await mesh.stop("m-1")
    await submit(mesh, {"prompt": "hello there", "task_id": "t1"})
    await mesh.manager("m-2", jobs=QUICK)
    await asyncio.sleep(0.3)  # it is tried, and put off
    assert await open_jobs(mesh) == 1
    await mesh.worker("w-1")
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["output"]


async def test_two_jobs_with_one_task_id_get_a_result_each(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    for number in range(2):
        await submit(mesh, {"prompt": f"hello {number}", "task_id": "same"})
    found = await results(mesh, "same", count=2)
    assert len({kept.headers["Bullpen-Job"] for kept in found}) == len(found) == 2


async def test_the_same_message_id_runs_once(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    first = await submit(mesh, {"prompt": "hello", "task_id": "t1"}, Nats_Msg_Id="mine")
    again = await submit(mesh, {"prompt": "hello", "task_id": "t1"}, Nats_Msg_Id="mine")
    assert (first.duplicate, again.duplicate) == (False, True)
    (kept,) = await results(mesh, "t1")
    assert kept.headers["Bullpen-Job"] == "mine"


async def test_a_job_that_has_a_result_already_is_only_acknowledged(mesh: SmallMesh) -> None:
    """As after a crash between the two: the result is there, the job comes again."""
    await mesh.worker("w-1")
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await mesh.stop("m-1")
    body = b'{"output": "the first answer"}'
    for job_id in ("another", "mine", "a third"):
        await store(mesh.bus, s.RESULTS_STREAM, s.result("t1"), body, {"Bullpen-Job": job_id}, within=2)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"}, Nats_Msg_Id="mine")
    await mesh.manager("m-2")
    await eventually(lambda: _none_open(mesh))
    assert [kept.data for kept in await results(mesh, "t1", count=3)] == [body] * 3


async def _none_open(mesh: SmallMesh) -> bool:
    return await open_jobs(mesh) == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"prompt": "hello", "task_id": "t1", "promt": 1}', "promt"),
        (b'{"prompt": "hello", "task_id": "t1", "temperature": "warm"}', "temperature"),
    ],
)
async def test_an_invalid_job_gets_an_error_as_its_result_and_is_gone(mesh: SmallMesh, body: bytes, field: str) -> None:
    await mesh.manager()
    await streams_are_there(mesh)
    await submit(mesh, body)
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["error"]["code"] == "invalid_request"
    assert json.loads(kept.data)["error"]["field"] == field
    assert kept.headers["Nats-Service-Error-Code"] == "400"


async def test_rubbish_is_told_under_the_jobs_number(mesh: SmallMesh) -> None:
    await mesh.manager()
    await streams_are_there(mesh)
    receipt = await submit(mesh, b"{\xff")
    (kept,) = await results(mesh, f"job-{receipt.seq}")
    assert json.loads(kept.data)["error"]["code"] == "invalid_request"


async def test_a_job_that_fails_again_and_again_is_tried_so_often_by_all_managers_together(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", error_rate=1.0)
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={**QUICK, "attempts": 3})
    await streams_are_there(mesh)
    tries: list[str] = []
    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, lambda message: tries.append(message.subject))
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["error"]["retryable"]
    await eventually(lambda: len(tries) >= 3)
    assert len(tries) == 3


async def test_a_job_that_nobody_has_room_for_is_given_up_when_its_time_is_over(mesh: SmallMesh) -> None:
    """It is tried some twenty times meanwhile; the books have its end only."""
    await mesh.manager(jobs={**QUICK, "attempts": 1, "patience": 1.0})
    await streams_are_there(mesh)
    booked: list[Json] = []
    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, lambda message: booked.append(json.loads(message.data)))
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["error"]["code"] == "no_worker"
    await eventually(lambda: booked)
    assert [(row["task_id"], row["error_code"]) for row in booked] == [("t1", "no_worker")]


async def test_a_manager_that_leaves_gives_its_jobs_back(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.manager.DRAIN_WITHIN", 0.2)
    await mesh.worker("w-1", latency_ms={"fixed": 3000})
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await mesh.stop("m-1")
    assert await open_jobs(mesh) == 1
    await mesh.manager("m-2")
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["output"]


async def test_a_manager_that_leaves_in_peace_finishes_what_it_has(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 700})
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await mesh.stop("m-1")
    assert await open_jobs(mesh) == 0
    assert len(await results(mesh, "t1")) == 1


async def test_a_drained_manager_takes_no_jobs(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await mesh.bus.request(s.manager_control("m-1"), b'{"op": "drain"}', timeout=2)
    await asyncio.sleep(0.1)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    await asyncio.sleep(0.5)
    assert await open_jobs(mesh) == 1
    await mesh.bus.request(s.manager_control("m-1"), b'{"op": "resume"}', timeout=2)
    assert len(await results(mesh, "t1")) == 1


async def test_a_manager_has_no_more_jobs_in_hand_than_it_may(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 100})
    await mesh.manager(jobs={"at_once": 2})
    await streams_are_there(mesh)
    busiest = [0]

    async def watch() -> None:
        while True:
            busiest[0] = max(busiest[0], mesh.beats["w-1"].inflight)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    for number in range(8):
        await submit(mesh, {"prompt": "hello", "task_id": f"t{number}"})
    assert len(await results(mesh, count=8)) == 8
    watching.cancel()
    assert busiest[0] == 2


async def test_a_job_that_takes_longer_than_a_manager_may_be_silent_runs_once(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 2000})
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={"at_once": 1, "silent_after": 0.6})
    await streams_are_there(mesh)
    ran: list[str] = []
    await mesh.bus.subscribe_inline("infer.*.w.*", lambda message: ran.append(message.headers["Bullpen-Request"]))
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    assert len(await results(mesh, "t1")) == 1
    assert len(ran) == 1


async def test_the_client_submits_and_waits(mesh: SmallMesh, nats_server: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager(jobs={"attempts": 1})
    async with Bullpen.connect(nats_server) as bullpen:
        ticket = await bullpen.submit("hello there", task_id="t1")
        answer = await bullpen.result(ticket, timeout=10)
        assert answer == await bullpen.result("t1", timeout=1)
        assert answer.task_id == "t1"
        refused = await bullpen.submit("hello", model="nobody-has-it", task_id="t2")
        with pytest.raises(RequestFailed):
            await bullpen.result(refused, timeout=15)


async def test_a_job_is_batch_work_whose_time_begins_when_it_runs(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    asked: list[Json] = []
    await mesh.bus.subscribe_inline("infer.*.w.*", lambda message: asked.append(json.loads(message.data)))
    await submit(mesh, {"prompt": "hello", "task_id": "t1", "stream": True}, Bullpen_Deadline="1000")
    await submit(mesh, {"prompt": "hello", "task_id": "t2", "priority": "interactive"})
    assert all("output" in json.loads(kept.data) for kept in await results(mesh, count=2))
    assert {body["task_id"]: body["priority"] for body in asked} == {"t1": "batch", "t2": "interactive"}


async def test_a_job_that_two_managers_do_at_once_has_one_result(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the first was frozen: it is given to the second, and then both have an answer."""
    monkeypatch.setattr("manager.jobs.consumer.STILL_AT_IT", 100)
    await mesh.worker("w-1", latency_ms={"fixed": 1500})
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={"at_once": 1, "silent_after": 0.5})
    await streams_are_there(mesh)
    ran: set[str] = set()
    await mesh.bus.subscribe_inline("infer.*.w.*", lambda message: ran.add(message.headers["Bullpen-Request"]))
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    await eventually(lambda: len(ran) == 2)
    await eventually(lambda: mesh.beats["w-1"].inflight == 2)
    await eventually(lambda: mesh.beats["w-1"].inflight == 0)
    await mesh.stop("m-1")
    await mesh.stop("m-2")
    assert len(await results(mesh, "t1")) == 1


async def test_a_job_is_not_done_before_its_result_is_kept(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 300})
    await mesh.manager()
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await api(mesh.bus, f"STREAM.DELETE.{s.RESULTS_STREAM}")
    assert len(await results(mesh, "t1")) == 1
