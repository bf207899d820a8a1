"""Durable requests over a real JetStream: one result each, whatever happens to who works on them."""

import asyncio
import json
from typing import Any

import pytest

from bus import BusError, Message
from bus.jetstream import api
from bus.queue import ArchivedMessage, Receipt, read_after, store
from client import Bullpen, RequestFailed
from contracts import subjects as s
from tests.books_stream import rows_in
from tests.gate import Gate
from tests.mesh import SmallMesh
from tests.support import eventually

Json = dict[str, Any]
QUICK = {"first_pause": 0.05, "longest_pause": 0.1}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetStream may take its time. A job of which its Manager hears nothing for two seconds is put off."""
    for name in ("STORE_WITHIN", "CALL_WITHIN"):
        monkeypatch.setattr(f"manager.jobs.consumer.{name}", 15.0)
    monkeypatch.setattr("bus.kv.API_TIMEOUT", 15.0)


async def streams_are_there(mesh: SmallMesh) -> None:
    async def there() -> bool:
        try:
            await consumer(mesh)
        except BusError:
            return False
        return True

    await eventually(there, timeout=30)


async def consumer(mesh: SmallMesh) -> Json:
    """How the Managers' consumer stands."""
    return await api(mesh.bus, f"CONSUMER.INFO.{s.JOBS_STREAM}.{s.JOBS_CONSUMER}")


async def submit(mesh: SmallMesh, body: bytes | Json, **headers: str) -> Receipt:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await store(mesh.bus, s.JOBS_STREAM, s.JOBS_SUBMIT, data, named, within=30)


async def results(mesh: SmallMesh, task_id: str = "", count: int = 1) -> list[ArchivedMessage]:
    """Waits until there are so many and no job is left, and returns all there are."""
    subject = s.result(task_id) if task_id else s.RESULT_ANY

    async def enough() -> list[ArchivedMessage]:
        try:
            found = await read_after(mesh.bus, s.RESULTS_STREAM, subject, 0)
            return found if len(found) >= count and await open_jobs(mesh) == 0 else []
        except BusError:
            return []

    found: list[ArchivedMessage] = await eventually(enough, timeout=40)
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
    await eventually(lambda: _was_put_off(mesh))
    assert await open_jobs(mesh) == 1
    await mesh.worker("w-1")
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["output"]


async def _was_put_off(mesh: SmallMesh) -> bool:
    return bool((await consumer(mesh))["num_redelivered"])


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
        await store(mesh.bus, s.RESULTS_STREAM, s.result("t1"), body, {"Bullpen-Job": job_id}, within=30)
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
    tries: set[str] = set()
    await mesh.bus.subscribe_inline(
        s.TELEMETRY_RESPONSE, lambda told: tries.update(row["request_id"] for row in rows_in(told))
    )
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["error"]["retryable"]
    for name in ("m-1", "m-2"):
        await mesh.stop(name)  # and what it has to tell is told
    await mesh.bus.flush(30)
    assert len(tries) == 3


async def test_a_job_that_nobody_has_room_for_is_given_up_when_its_time_is_over(mesh: SmallMesh) -> None:
    """It is tried some twenty times meanwhile; the books have its end only."""
    await mesh.manager(jobs={**QUICK, "attempts": 1, "patience": 1.0})
    await streams_are_there(mesh)
    booked: dict[str, Json] = {}

    def book(message: Message) -> None:
        booked.update({row["request_id"]: row for row in rows_in(message)})

    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, book)
    await submit(mesh, {"prompt": "hello", "task_id": "t1"})
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["error"]["code"] == "no_worker"
    await mesh.stop("m-1")  # and what it has to tell is told
    await mesh.bus.flush(30)
    assert [(row["task_id"], row["error_code"]) for row in booked.values()] == [("t1", "no_worker")]


async def test_a_manager_that_leaves_gives_its_jobs_back(
    mesh: SmallMesh, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.manager.DRAIN_WITHIN", 0.2)
    await mesh.worker("w-1")
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": gate.prompt, "task_id": "t1"})
    await eventually(lambda: gate.waiting)
    await mesh.stop("m-1")
    assert await open_jobs(mesh) == 1
    gate.open()
    await mesh.manager("m-2")
    (kept,) = await results(mesh, "t1")
    assert json.loads(kept.data)["output"]


async def test_a_manager_that_leaves_in_peace_finishes_what_it_has(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager("m-1")
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": gate.prompt, "task_id": "t1"})
    await eventually(lambda: gate.waiting)
    stopping = asyncio.create_task(mesh.stop("m-1"))
    await eventually(mesh.drains)
    gate.open()
    await stopping
    assert await open_jobs(mesh) == 0
    assert len(await results(mesh, "t1")) == 1


async def test_a_drained_manager_takes_no_jobs(mesh: SmallMesh) -> None:
    """Of two the other one does them all."""
    did: dict[str, str] = {}

    def book(message: Message) -> None:
        did.update({row["task_id"]: row["manager_id"] for row in rows_in(message)})

    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, book)
    await mesh.worker("w-1")
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={"at_once": 1})
    await streams_are_there(mesh)
    await mesh.manager_says("m-1", "drain")
    for number in range(20):
        await submit(mesh, {"prompt": "hello", "task_id": f"t{number}"})
    await results(mesh, count=20)
    await mesh.stop("m-2")  # and what it has to tell is told
    await mesh.bus.flush(30)
    assert did == {f"t{number}": "m-2" for number in range(20)}
    await submit(mesh, {"prompt": "hello", "task_id": "later"})
    await mesh.manager_says("m-1", "resume")
    assert len(await results(mesh, "later")) == 1


async def test_a_manager_has_no_more_jobs_in_hand_than_it_may(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager(jobs={"at_once": 2})
    await streams_are_there(mesh)
    for number in range(8):
        await submit(mesh, {"prompt": gate.prompt, "task_id": f"t{number}"})
    await eventually(lambda: gate.waiting == 2)
    await mesh.ask()  # which goes the same way
    gate.open()
    assert len(await results(mesh, count=8)) == 8
    assert gate.most == 2


async def test_a_job_that_takes_longer_than_a_manager_may_be_silent_runs_once(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={"at_once": 1, "silent_after": 5.0})
    await streams_are_there(mesh)
    ran: set[str] = set()
    await mesh.bus.subscribe_inline("infer.*.w.*", lambda message: ran.add(message.headers["Bullpen-Request"]))
    at_it: list[bytes] = []
    await mesh.bus.subscribe_inline(f"$JS.ACK.{s.JOBS_STREAM}.>", lambda message: at_it.append(message.data))
    await submit(mesh, {"prompt": gate.prompt, "task_id": "t1"})
    await eventually(lambda: at_it.count(b"+WPI") > 3, timeout=30)  # three of them in each time of silence
    gate.open()
    assert len(await results(mesh, "t1")) == 1
    assert len(ran) == 1


async def test_the_client_submits_and_waits(mesh: SmallMesh, nats_server: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager(jobs={"attempts": 1})
    async with Bullpen.connect(nats_server) as bullpen:
        ticket = await bullpen.submit("hello there", task_id="t1")
        answer = await bullpen.result(ticket, timeout=30)
        assert answer == await bullpen.result("t1", timeout=30)
        assert answer.task_id == "t1"
        refused = await bullpen.submit("hello", model="nobody-has-it", task_id="t2")
        with pytest.raises(RequestFailed):
            await bullpen.result(refused, timeout=30)


async def test_a_job_is_batch_work_whose_time_begins_when_it_runs(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    asked: list[Json] = []
    await mesh.bus.subscribe_inline("infer.*.w.*", lambda message: asked.append(json.loads(message.data)))
    await submit(mesh, {"prompt": "hello", "task_id": "t1", "stream": True}, Bullpen_Deadline="1000")
    await submit(mesh, {"prompt": "hello", "task_id": "t2", "priority": "interactive"})
    assert all("output" in json.loads(kept.data) for kept in await results(mesh, count=2))
    await eventually(lambda: len(asked) > 1)
    assert {body["task_id"]: body["priority"] for body in asked} == {"t1": "batch", "t2": "interactive"}


async def test_a_job_that_two_managers_do_at_once_has_one_result(
    mesh: SmallMesh, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the first was frozen: it is given to the second, and then both have an answer."""
    monkeypatch.setattr("manager.jobs.consumer.STILL_AT_IT", 100)
    await mesh.worker("w-1")
    for name in ("m-1", "m-2"):
        await mesh.manager(name, jobs={"at_once": 1, "silent_after": 0.5})
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": gate.prompt, "task_id": "t1"})
    await eventually(lambda: gate.waiting == 2)
    gate.open()
    await mesh.stop("m-1")
    await mesh.stop("m-2")
    assert len(await results(mesh, "t1")) == 1


async def test_a_job_is_not_done_before_its_result_is_kept(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await streams_are_there(mesh)
    await submit(mesh, {"prompt": gate.prompt, "task_id": "t1"})
    await eventually(lambda: gate.waiting)
    await api(mesh.bus, f"STREAM.DELETE.{s.RESULTS_STREAM}")
    gate.open()
    assert len(await results(mesh, "t1")) == 1
