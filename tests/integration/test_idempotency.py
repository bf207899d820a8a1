"""One key, one execution: what a caller gets who asks the mesh again under the same key."""

import asyncio
import json

import pytest

from bus import RequestTimeout
from tests.books_stream import rows_in
from tests.gate import Gate
from tests.mesh import SmallMesh
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("patient_keys")


async def test_fifty_at_once_over_three_managers_run_once(mesh: SmallMesh) -> None:
    ran: set[str] = set()
    await mesh.bus.subscribe_inline(
        "telemetry.attempt", lambda told: ran.update(row["request_id"] for row in rows_in(told))
    )
    await mesh.worker("w-1", latency_ms=300)
    managers = [f"m-{number}" for number in range(3)]
    for name in managers:
        await mesh.manager(name)
    answers = await asyncio.gather(*(mesh.ask(idempotency_key="k", task_id=f"t-{n}") for n in range(50)))
    assert len({a["output"] for a in answers}) == 1
    assert sorted(a["replayed"] for a in answers) == [False] + [True] * 49
    assert {a["task_id"] for a in answers} == {f"t-{n}" for n in range(50)}
    assert {a["cost_usd"] for a in answers if a["replayed"]} == {0.0}
    for name in managers:
        await mesh.stop(name)  # and what it has to tell is told
    await mesh.bus.flush(30)
    assert len(ran) == 1


async def test_an_answer_is_had_again_also_as_a_stream_and_by_header(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    first = await mesh.ask(idempotency_key="k")
    again = await mesh.ask(headers={"Idempotency-Key": "k"})
    assert (again["output"], again["replayed"]) == (first["output"], True)
    *pieces, final, end = await mesh.stream(idempotency_key="k")
    assert end is None
    assert final is not None
    assert "".join(piece["delta"] for piece in pieces if piece) == final["output"] == first["output"]


async def test_the_same_key_with_another_body_is_a_conflict(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await mesh.ask(idempotency_key="k")
    refused = (await mesh.ask(idempotency_key="k", temperature=1.0))["error"]
    assert (refused["code"], refused["status"], refused["field"]) == ("conflict", 409, "idempotency_key")
    assert "replayed" in await mesh.ask(idempotency_key="k", temperature=1.0, metadata={"tenant": "another"})


async def test_who_waits_for_the_first_answer_may_be_cancelled(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    first = asyncio.create_task(mesh.ask(idempotency_key="k", task_id="first", prompt=gate.prompt))
    await eventually(lambda: gate.waiting)
    second = asyncio.create_task(mesh.ask(idempotency_key="k", task_id="second", prompt=gate.prompt))
    await eventually(lambda: _has(mesh, "second"))
    await mesh.bus.publish("infer.cancel", b'{"task_id": "second"}')
    assert (await second)["error"]["code"] == "cancelled"
    assert not first.done()
    gate.open()
    assert (await first)["replayed"] is False


async def _has(mesh: SmallMesh, task_id: str) -> bool:
    try:
        await mesh.bus.request("infer.status", json.dumps({"task_id": task_id}).encode(), timeout=2)
    except RequestTimeout:
        return False
    return True


async def test_an_error_is_no_answer_so_the_next_one_runs(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1", error_rate=1.0)
    assert (await mesh.ask(idempotency_key="k"))["error"]["code"] == "upstream_error"
    await mesh.worker("w-2")
    assert (await mesh.ask(idempotency_key="k"))["replayed"] is False


async def test_without_jetstream_it_is_answered_all_the_same(mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manager.idempotency.AWAY", 60.0)  # else the bucket is there again, where the machine is busy
    await mesh.worker("w-1")
    await mesh.manager()
    await mesh.bus.nats.jetstream().delete_stream("KV_bullpen_answers")
    answers = [await mesh.ask(idempotency_key="k") for _ in range(3)]
    assert [a["replayed"] for a in answers] == [False] * 3


async def test_a_reply_says_when_its_key_may_have_run_twice(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    body = b'{"prompt": "hello", "idempotency_key": "k"}'
    plain = b'{"prompt": "hello"}'
    kept, again = [await mesh.bus.request("infer.auto", body, timeout=30) for _ in range(2)]
    assert "Idempotency" not in kept.headers | again.headers
    await mesh.bus.nats.jetstream().delete_stream("KV_bullpen_answers")
    unkept, unasked = [await mesh.bus.request("infer.auto", sent, timeout=30) for sent in (body, plain)]
    assert unkept.headers["Idempotency"] == "best-effort"
    assert "Idempotency" not in unasked.headers
