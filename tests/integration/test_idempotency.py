"""One key, one execution: over several Managers, while it runs, after it, and when its Manager died."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bus import Bus, BusSettings
from contracts import BullpenError, ErrorCode, InferenceRequest, InferenceResponse, new_id, parse_request, utc_now
from manager.idempotency import LARGEST, Answers, Mine, Replay, key_of
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        yield mesh


class Ledger:
    """What one Manager would know."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.answers = Answers(bus)
        self.mine: set[str] = set()

    async def begin(self, request: InferenceRequest, *, seconds: float = 5.0) -> Mine | Replay:
        deadline = asyncio.get_running_loop().time() + seconds
        request_id = new_id()
        entry = await self.answers.begin("key", request, request_id, deadline)
        if isinstance(entry, Mine):
            self.mine.add(request_id)
        return entry

    async def first(self, request: InferenceRequest) -> Mine:
        entry = await self.begin(request)
        assert isinstance(entry, Mine)
        return entry


@pytest.fixture
async def ledgers(nats: NatsServer) -> AsyncIterator[list[Ledger]]:
    """Those of three Managers; each says of a request that it has it, while it does."""
    settings = BusSettings(servers=(nats.url,))
    made = [Ledger(await Bus.connect(f"m-{number}", settings)) for number in range(3)]
    for ledger in made:
        await ledger.answers.keep_open()
        await ledger.bus.subscribe("infer.status", _says(ledger))
    yield made
    for ledger in made:
        await ledger.bus.close()


def _says(ledger: Ledger) -> Any:
    async def say(message: Any) -> None:
        if json.loads(message.data)["request_id"] in ledger.mine:
            await ledger.bus.publish(message.reply, b"{}")

    return say


def asked(**changes: Any) -> InferenceRequest:
    return parse_request(json.dumps({"prompt": "hi", **changes}).encode())


def answer(output: str = "hello") -> InferenceResponse:
    return InferenceResponse(
        task_id="t",
        model_id="m",
        output=output,
        tokens_used=3,
        duration_ms=1.0,
        confidence=0.5,
        request_id=new_id(),
        backend="b",
        worker_id="w",
        prompt_tokens=1,
        completion_tokens=2,
        finish_reason="stop",
        confidence_source="prior",
        created_at=utc_now(),
    )


async def test_fifty_at_once_over_three_managers_run_once(mesh: SmallMesh) -> None:
    ran: list[bytes] = []
    await mesh.bus.subscribe_inline("telemetry.attempt", lambda message: ran.append(message.data))
    await mesh.worker("w-1", latency_ms=300)
    for number in range(3):
        await mesh.manager(f"m-{number}")
    answers = await asyncio.gather(*(mesh.ask(idempotency_key="k", task_id=f"t-{n}") for n in range(50)))
    assert len({a["output"] for a in answers}) == 1
    assert sorted(a["replayed"] for a in answers) == [False] + [True] * 49
    assert {a["task_id"] for a in answers} == {f"t-{n}" for n in range(50)}
    assert {a["cost_usd"] for a in answers if a["replayed"]} == {0.0}
    await eventually(lambda: ran)
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


async def test_an_error_is_no_answer_so_the_next_one_runs(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1", error_rate=1.0)
    assert (await mesh.ask(idempotency_key="k"))["error"]["code"] == "upstream_error"
    await mesh.worker("w-2")
    assert (await mesh.ask(idempotency_key="k"))["replayed"] is False


async def test_without_jetstream_it_is_answered_all_the_same(mesh: SmallMesh, nats: NatsServer) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    await mesh.bus.nats.jetstream().delete_stream("KV_bullpen_answers")
    answers = [await mesh.ask(idempotency_key="k") for _ in range(3)]
    assert [a["replayed"] for a in answers] == [False] * 3


async def test_who_waits_takes_over_when_the_manager_is_gone(ledgers: list[Ledger]) -> None:
    one, other, third = ledgers
    first = await one.first(asked())
    waiting = asyncio.create_task(other.begin(asked()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    one.mine.clear()  # it is dead, or frozen: it says nothing any more
    taken = await waiting
    assert isinstance(taken, Mine)
    await one.answers.finish(first, answer("from the frozen one"))  # it wakes up: too late
    await other.answers.finish(taken, answer("from the second"))
    replay = await third.begin(asked())
    assert isinstance(replay, Replay)
    assert replay.answer.output == "from the second"


async def test_after_a_failure_exactly_one_of_those_who_wait_runs(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked())
    waiting = [asyncio.create_task(ledger.begin(asked())) for ledger in ledgers for _ in range(5)]
    await asyncio.sleep(0.1)
    await ledgers[0].answers.release(first)
    done, _ = await asyncio.wait(waiting, timeout=3, return_when=asyncio.FIRST_COMPLETED)
    assert [isinstance(task.result(), Mine) for task in done] == [True]
    mine = done.pop().result()
    assert isinstance(mine, Mine)
    await ledgers[0].answers.finish(mine, answer())
    rest = await asyncio.gather(*waiting)
    assert sum(isinstance(entry, Replay) for entry in rest) == 14


async def test_who_waits_is_told_at_its_own_deadline(ledgers: list[Ledger]) -> None:
    await ledgers[0].begin(asked())
    with pytest.raises(BullpenError) as told:
        await ledgers[1].begin(asked(), seconds=0.5)
    assert (told.value.code, told.value.retryable) == (ErrorCode.CONFLICT, True)


async def test_an_answer_that_is_too_large_is_not_kept(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked())
    await ledgers[0].answers.finish(first, answer("x" * LARGEST))
    assert isinstance(await ledgers[1].begin(asked()), Mine)


async def test_keys_survive_the_server(ledgers: list[Ledger], nats: NatsServer) -> None:
    first = await ledgers[0].first(asked())
    await ledgers[0].answers.finish(first, answer())
    nats.kill()
    await nats.start()
    await eventually(lambda: all(ledger.bus.is_connected and ledger.bus.reconnects for ledger in ledgers), timeout=10)
    assert isinstance(await ledgers[1].begin(asked()), Replay)


async def test_how_it_is_called_and_how_long_it_may_take_are_not_the_question(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked(task_id="a", context={"x": 1, "y": 2}))
    await ledgers[0].answers.finish(first, answer())
    same = asked(deadline_ms=5, stream=True, task_id="b", context={"y": 2, "x": 1})
    assert isinstance(await ledgers[1].begin(same), Replay)


def test_a_key_in_the_body_and_another_in_the_header_are_refused() -> None:
    request = asked(idempotency_key="k")
    assert key_of(request, {"Idempotency-Key": "k"}) == key_of(request, {}) == "k"
    assert key_of(asked(), {}) is None
    with pytest.raises(BullpenError) as told:
        key_of(request, {"Idempotency-Key": "other"})
    assert told.value.field == "idempotency_key"
