"""When a worker goes quiet: who goes on, with what, and what the books say. Real NATS, real Manager, ill workers."""

import asyncio
import json
from time import time
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode
from contracts import headers as h
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import DEAR, FREE_OF_CHARGE, HANGS, IMPATIENT, Attempts
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

# Attempts that nobody waits for any more


async def test_what_a_cancelled_attempt_had_used_is_booked(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    await mesh.worker("w-1", tokens_per_second=100.0, output_tokens=2000)
    await mesh.manager()
    heard: list[Json] = []
    with mesh.bus.listen(lambda message: heard.append(from_json(message.data or b"{}"))) as inbox:
        await mesh.bus.publish("infer.auto", b'{"prompt": "hi", "stream": true, "task_id": "t-1"}', reply=inbox.subject)
        await eventually(lambda: any(told.get("tokens", 0) > 5 for told in heard))
        await mesh.bus.publish("infer.cancel", b'{"task_id": "t-1"}')
        await eventually(lambda: [told for told in heard if "error" in told])
    assert next(told["error"]["code"] for told in heard if "error" in told) == "cancelled"
    [row] = await booked.outcomes("cancelled")
    assert row.completion_tokens
    assert row.completion_tokens > 5


async def test_an_answer_that_comes_too_late_is_booked_and_not_delivered(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    wake = asyncio.Event()

    async def slow(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await wake.wait()
        await asked.answer("too late", tokens=7)

    async with FakeWorker(mesh.bus, "f-1", acting(slow), price=FREE_OF_CHARGE) as fake:
        await mesh.worker("w-1", **DEAR)
        await mesh.manager(**IMPATIENT)
        await mesh.knows("f-1")
        answer = await mesh.ask(policy="cheapest")
        assert (answer["worker_id"], answer["attempts"][0]["outcome"]) == ("w-1", "uncertain")
        await eventually(lambda: [told.op for told in fake.told] == ["cancel"])
        await booked.outcomes("uncertain", "ok")
        wake.set()
        await eventually(lambda: booked.rows[-1].outcome == "late_discarded")
    assert (booked.rows[-1].attempt, booked.rows[-1].completion_tokens) == (1, 7)


async def test_a_worker_that_fell_silent_is_told_to_stop_now_and_when_it_is_back(mesh: SmallMesh) -> None:
    """What it was told first it may not have heard."""

    async def claims(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()

    async with FakeWorker(mesh.bus, "f-1", acting(claims)) as fake:
        await mesh.manager(silent_after_beats=2.5)
        asking = asyncio.create_task(mesh.ask())
        await eventually(lambda: fake.asked)
        await mesh.worker("w-1", heartbeat_interval=1.0)
        fake.hold_breath()
        answer = await asking
        assert [a["outcome"] for a in answer["attempts"]] == ["uncertain", "ok"]
        await eventually(lambda: [told.op for told in fake.told] == ["cancel"])
        fake.breathe()
        await eventually(lambda: [(told.op, told.attempt) for told in fake.told] == [("cancel", 1)] * 2)


async def test_a_late_answer_is_taken_while_nobody_else_has_one(mesh: SmallMesh) -> None:
    async def slow(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await eventually(lambda: fake.told)  # it was given up on
        await asked.answer("after all")

    async with FakeWorker(mesh.bus, "f-1", acting(slow), price=FREE_OF_CHARGE) as fake:
        await mesh.worker("w-1", latency_ms=60_000, max_concurrency=1, **DEAR)
        await mesh.manager(**IMPATIENT)
        await mesh.knows("f-1")
        answer = await mesh.ask(policy="cheapest")
    assert (answer["output"], answer["worker_id"]) == ("after all", "f-1")


async def test_a_question_too_large_to_be_handed_on_is_booked_as_never_begun(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    async with FakeWorker(mesh.bus, "f-1"):
        await mesh.manager()
        room = mesh.bus.max_payload - len(json.dumps({"prompt": "hello there", "context": {"note": ""}}))
        answer = await mesh.ask(context={"note": "x" * (room - 10)})
    assert answer["error"]["code"] == "payload_too_large"
    [row] = await booked.outcomes("refused")
    assert row.error_code == ErrorCode.PAYLOAD_TOO_LARGE
    assert row.cost_usd == 0


# Who is asked


async def test_reading_a_long_prompt_is_progress(mesh: SmallMesh) -> None:
    async def reads(asked: Asked) -> None:
        await asked.claim()
        for moved in range(12):
            await asked.progress(moved=moved)
            await asyncio.sleep(0.5)
        await asked.answer("read it all")

    async with FakeWorker(mesh.bus, "f-1", acting(reads)):
        await mesh.manager(first_token_timeout=4)
        answer = await mesh.ask()
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["ok"]


async def test_workers_that_left_without_a_word_are_no_deaths(mesh: SmallMesh) -> None:
    """Nobody listens where they were: nothing was begun, so a third one is asked."""
    await mesh.worker("w-1", latency_ms=500, **DEAR)
    await mesh.manager()
    fakes = [FakeWorker(mesh.bus, f"f-{number}", price=FREE_OF_CHARGE) for number in range(3)]
    for fake in fakes:
        await mesh.bus.publish("worker.heartbeat", fake.heartbeat(1).to_bytes())
    await mesh.knows("f-0", "f-1", "f-2")
    answer = await mesh.ask(policy="cheapest")
    assert answer["worker_id"] == "w-1"
    assert {attempt["outcome"] for attempt in answer["attempts"][:-1]} == {"refused"}


async def test_a_worker_that_keeps_failing_is_left_alone_and_that_is_said(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manager.routing.circuit_breaker.FIRST_REST", 600.0)
    routes: list[Any] = []
    await mesh.bus.subscribe_inline("metrics.route", lambda message: routes.append(from_json(message.data)))

    async def failing(asked: Asked) -> None:
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "broken"))

    async with FakeWorker(mesh.bus, "f-1", acting(failing)) as fake:
        await mesh.manager()
        codes = [(await mesh.ask())["error"]["code"] for _ in range(8)]
    assert codes == ["upstream_error"] * 5 + ["no_worker"] * 3
    await eventually(lambda: len(routes) == 13)
    assert len(fake.asked) == 5
    assert "failing (upstream_error), tried again in" in routes[-1]["candidates"][0]["passed_over"]


async def test_who_was_only_slow_to_claim_is_asked_when_there_is_nobody_else(mesh: SmallMesh) -> None:
    """On a busy machine that may be everybody."""

    async def slow(asked: Asked) -> None:
        await asyncio.sleep(0.5)
        await asked.answer("at last")

    async with FakeWorker(mesh.bus, "f-1", acting(slow)) as fake:
        await mesh.worker("w-1", latency_ms=2)
        await mesh.manager(claim_timeout=0.25)
        await eventually(lambda: _left_alone(mesh, fake))
        await mesh.stop("w-1")
        answers = await asyncio.gather(*(mesh.ask() for _ in range(20)))
    assert [answer for answer in answers if answer.get("output") != "at last"] == []


async def _left_alone(mesh: SmallMesh, fake: FakeWorker) -> bool:
    """Asks several at once; whether none of them went to the fake one."""
    before = len(fake.asked)
    assert {answer["worker_id"] for answer in await asyncio.gather(*(mesh.ask() for _ in range(10)))} == {"w-1"}
    return before >= 5 and len(fake.asked) == before


async def test_not_more_is_tried_again_than_the_budget_allows(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", error_rate=1.0)
    await mesh.worker("w-2", error_rate=1.0)
    await mesh.manager(retries={"share": 0.0, "per_second": 0.0, "burst": 1.0})
    first, second = await mesh.ask(), await mesh.ask()
    assert (len(first["attempts"]), len(second["attempts"])) == (2, 1)
    assert "too much is being tried again" in second["error"]["message"]


async def test_a_paid_answer_is_not_paid_twice_beyond_the_budget(mesh: SmallMesh) -> None:
    price: Any = {"input_per_mtok": 1_000_000, "output_per_mtok": 0}
    await mesh.worker("w-1", local=False, price=price, **HANGS)
    await mesh.worker("w-2", local=False, price=price, **HANGS)
    await mesh.manager(retries={"duplicate_spend_floor_usd": 0.5})
    answer = await mesh.ask()
    assert len(answer["attempts"]) == 1
    assert "paid twice" in answer["error"]["message"]


async def test_an_expired_request_for_a_worker_with_another_clock_is_written_in_its_clock(mesh: SmallMesh) -> None:
    async def quick(asked: Asked) -> None:
        await asked.answer("hi")

    async with FakeWorker(mesh.bus, "f-1", acting(quick), clock=-5.0) as fake:
        await mesh.manager()
        await mesh.ask(deadline_ms=60_000)
    left = int(fake.asked[0].headers[h.DEADLINE]) / 1000 - (time() - 5.0)
    assert 20 < left <= 60.5


# A connection that breaks


async def test_what_is_under_way_when_the_server_restarts_is_answered(mesh: SmallMesh, nats: NatsServer) -> None:
    """Also what was just asked, and what was answered into the void: nobody is asked twice who has it already."""
    for number in range(3):
        await mesh.worker(f"w-{number}", latency_ms=9000, max_concurrency=20)
    await mesh.manager()
    asking = [asyncio.create_task(mesh.ask(timeout=90)) for _ in range(30)]
    await eventually(lambda: sum(beat.inflight for beat in mesh.beats.values()) == 30)
    nats.kill()
    await nats.start()
    answers = await asyncio.gather(*asking)
    assert [a for a in answers if "output" not in a] == []
    begun = [[t for t in a["attempts"] if t["outcome"] != "refused"] for a in answers]
    assert [tries for tries in begun if len(tries) > 1] == []


async def test_a_worker_says_again_what_it_said_while_the_manager_was_away(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    told: list[Any] = []
    headers = {h.EVENTS: "1", h.REQUEST: "r-1", h.ATTEMPT: "1", h.TASK: "t-1"}
    await mesh.bus.publish("infer.simulated.w.w-1", b"hi", reply="_INBOX.nobody.there", headers=headers)
    with mesh.bus.listen(lambda message: told.append(from_json(message.data))) as inbox:

        async def reported(request_id: str) -> Any:
            told.clear()
            body = {"op": "report", "request_id": request_id, "attempt": 1, "inbox": inbox.subject}
            await mesh.bus.publish("worker.control.w-1", to_json(body))
            await eventually(lambda: told)
            return told[0]

        await eventually(lambda: mesh.beats["w-1"].ewma_ms is not None)
        assert (await reported("r-1"))["type"] == "response"
        assert (await reported("r-2"))["error"]["code"] == "no_worker"


# Managers


async def test_of_two_workers_with_one_name_the_older_leaves(mesh: SmallMesh) -> None:
    await mesh.manager()
    await mesh.worker("w-1")
    older, first = mesh.running("w-1"), mesh.beats["w-1"].epoch
    await mesh.worker("w-1")
    with pytest.raises(ConfigError, match="another worker goes by the id w-1"):
        await asyncio.wait_for(older, 60)
    await eventually(lambda: mesh.beats["w-1"].epoch > first and mesh.beats["w-1"].state == "ready")
    assert (await mesh.ask())["worker_id"] == "w-1"
