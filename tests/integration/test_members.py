"""Members of the mesh that do not mean well: what they say of others, and too much of themselves, changes nothing."""

import asyncio
import gc
import json
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Bus, BusSettings, Message
from client import Bullpen, RequestFailed
from contracts import Claim, ErrorReply, Heartbeat, new_id
from contracts import headers as h
from contracts import subjects as s
from tests.books_stream import rows_in
from tests.fake_worker import Asked, FakeWorker, acting
from tests.gate import Gate
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

QUICK: dict[str, Any] = {"latency_ms": {"fixed": 1}}
LIE = {"code": "invalid_request", "status": 400, "message": "a lie", "retryable": False}


async def made_up(mesh: SmallMesh, count: int, **changes: Any) -> None:
    """Heartbeats of so many workers that do not exist."""
    like = json.loads(next(iter(mesh.beats.values())).to_bytes())
    for number in range(count):
        own = {"worker_id": f"fake-{number}", "epoch": "zzz", "capacity": 64, "connection": None, "ewma_ms": 0.1}
        await mesh.bus.publish(s.WORKER_HEARTBEAT, json.dumps({**like, **own, **changes}).encode())
        if number % 500 == 0:
            await mesh.bus.flush(30)
    await mesh.bus.flush(30)


async def test_ten_thousand_workers_that_do_not_exist_keep_no_request_waiting(mesh: SmallMesh) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    await made_up(mesh, 10_000)
    answers = await asyncio.gather(*(mesh.ask(deadline_ms=50_000) for _ in range(20)))
    assert {answer["worker_id"] for answer in answers} == {"real"}
    assert max(len(answer["attempts"]) for answer in answers) < 10


async def test_a_heartbeat_of_20_000_models_or_with_a_name_of_4_kb_is_nothing(mesh: SmallMesh) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    card = {"context_window": 100_000, "local": True, "model_id": "m"}
    await made_up(mesh, 1, models=[{**card, "model_id": f"m-{n}"} for n in range(20_000)])
    await made_up(mesh, 3, models=[{**card, "model_id": "m" * 4096}])
    await made_up(mesh, 3, models=[{**card, "aliases": ["m" * 4096]}])
    assert (await mesh.ask())["worker_id"] == "real"
    figures: list[Json] = []
    await mesh.bus.subscribe_inline(s.METRICS_MESH, lambda message: figures.append(from_json(message.data)))
    await eventually(lambda: figures)
    assert figures[0]["workers"] == 1


async def test_a_worker_s_own_word_stands_whatever_others_say_in_its_name(mesh: SmallMesh) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    real = json.loads(mesh.beats["real"].to_bytes())
    lies: tuple[Json, ...] = ({"state": "stopped"}, {"backend": "other"}, {"capacity": 0}, {"models": []})
    for changes in lies:
        lie = {**real, "epoch": "zzzz", "seq": 10**12, **changes}
        await mesh.bus.publish(s.WORKER_HEARTBEAT, json.dumps(lie).encode())
        if lie["backend"] != real["backend"]:
            await mesh.bus.publish(s.worker_heartbeat("other", "real"), json.dumps(lie).encode())
        await mesh.bus.publish(s.worker_heartbeat("simulated", "rival"), json.dumps(lie).encode())
    assert (await mesh.ask(deadline_ms=30_000))["worker_id"] == "real"


async def test_an_answer_of_another_attempt_is_none(mesh: SmallMesh) -> None:
    async def play(asked: Asked) -> None:
        for wrong in ({"attempt": 7}, {"epoch": "another"}):
            await asked.say(Claim(**{"attempt": 1, "epoch": asked._epoch, **wrong}))
            await asked.say(ErrorReply.model_validate({"error": LIE, **wrong}))
        await asked.answer("the truth")

    await mesh.manager()
    async with FakeWorker(mesh.bus, "fake-1", acting(play)):
        assert (await mesh.ask())["output"] == "the truth"


async def test_each_request_s_inbox_is_of_its_backend_and_cannot_be_guessed(mesh: SmallMesh) -> None:
    inboxes: list[str] = []

    async def play(asked: Asked) -> None:
        inboxes.append(asked._inbox)
        await asked.answer("yes")

    await mesh.manager()
    async with FakeWorker(mesh.bus, "fake-1", acting(play)):
        for _ in range(3):
            await mesh.ask()
    parts = [inbox.split(".") for inbox in inboxes]
    assert {tuple(part[:-1]) for part in parts} == {(*parts[0][:2], "fake")}
    assert len({part[-1] for part in parts}) == 3
    assert all(len(bytes.fromhex(part[-1])) == 16 for part in parts)


async def test_figures_that_cannot_be_true_reach_no_caller(mesh: SmallMesh) -> None:
    async def play(asked: Asked) -> None:
        told = {"task_id": "x", "model_id": "best-model-there-is", "output": "yes", "tokens_used": 10**11}
        told |= {"duration_ms": 1, "confidence": 1, "prompt_tokens": 10**11, "completion_tokens": 1, "cost_usd": 10**9}
        told |= {"worker_id": "rival", "backend": "rival", "queue_ms": 10**9}
        await asked._bus.publish(asked._inbox, json.dumps(told).encode())

    await mesh.manager()
    async with FakeWorker(mesh.bus, "fake-1", acting(play)):
        answer = await mesh.ask()
    assert (answer["output"], answer["worker_id"], answer["model_id"]) == ("yes", "fake-1", "fake")
    assert (answer["prompt_tokens"], answer["cost_usd"], answer["tokens_used"]) == (None, None, 1)
    assert answer["queue_ms"] < 10_000


# Callers and each other


async def cancelled_by_a_stranger(mesh: SmallMesh, **known: str) -> None:
    """Whoever looks on, and knows a request's name, tries to stop it."""
    for task_id in known.values():
        for token in (None, "", "guess", task_id):
            await mesh.bus.publish(s.INFER_CANCEL, json.dumps({"task_id": task_id, "token": token}).encode())
    await mesh.bus.flush(30)


async def test_only_the_asker_s_cancel_stops_a_request(mesh: SmallMesh, nats: NatsServer, gate: Gate) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    routes: list[Json] = []
    await mesh.bus.subscribe_inline(s.METRICS_ROUTE, lambda message: routes.append(from_json(message.data)))
    async with Bullpen.connect(nats.url) as bp:
        asking = asyncio.create_task(bp.ask(gate.prompt, task_id="order-66"))
        await eventually(lambda: routes)
        await cancelled_by_a_stranger(mesh, name="order-66", seen=routes[0]["task_id"])
        gate.open()
        assert (await asking).task_id == "order-66"
        gate.close()
        asking = asyncio.create_task(bp.ask(gate.prompt, task_id="order-67"))
        await eventually(lambda: len(routes) > 1)
        await bp.cancel("order-67")
        with pytest.raises(RequestFailed, match="cancelled"):
            await asking
        asking = asyncio.create_task(bp.ask(gate.prompt, task_id="order-68", cancel_token="told to a friend"))
        await eventually(lambda: len(routes) > 2)
        async with Bullpen.connect(nats.url) as friend:
            await friend.cancel("order-68", "told to a friend")
        with pytest.raises(RequestFailed, match="cancelled"):
            await asking


async def test_what_is_seen_on_metrics_route_stops_no_request(mesh: SmallMesh, gate: Gate) -> None:
    """Also of a caller that knows nothing of tokens."""
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    routes: list[Json] = []
    await mesh.bus.subscribe_inline(s.METRICS_ROUTE, lambda message: routes.append(from_json(message.data)))
    asking = asyncio.create_task(mesh.ask(prompt=gate.prompt))
    await eventually(lambda: routes and gate.waiting)
    await cancelled_by_a_stranger(mesh, name=routes[0]["task_id"], request=routes[0]["request_id"])
    gate.open()
    assert "output" in await asking


async def test_a_worker_asked_directly_is_stopped_by_its_asker_only(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("real", **QUICK)
    told = {h.CANCEL_TOKEN: "secret"}
    asking = asyncio.create_task(mesh.ask("infer.simulated", prompt=gate.prompt, task_id="mine", headers=told))
    await eventually(lambda: gate.waiting)
    await cancelled_by_a_stranger(mesh, name="mine")
    gate.open()
    assert "output" in await asking


async def test_headers_of_a_manager_count_for_nothing_from_a_caller(mesh: SmallMesh) -> None:
    """Else an answer would be free, or take another request's row in the books."""
    await mesh.worker("real", **QUICK)
    forged = {h.EVENTS: "1", h.REQUEST: new_id(), h.ATTEMPT: "7", h.TASK: "theirs", h.MODEL: "none", h.CONTINUE: "!"}
    booked: list[Json] = []
    await mesh.bus.subscribe_inline(s.TELEMETRY_RESPONSE, lambda message: booked.extend(rows_in(message)))
    answer = await mesh.ask("infer.simulated", task_id="mine", headers=forged)
    assert "output" in answer
    assert answer["task_id"] == "mine"
    await eventually(lambda: booked)
    assert booked[0]["request_id"] == answer["request_id"] != forged[h.REQUEST]
    refused = await mesh.ask_raw(b'{"promt": 1}', "infer.simulated", headers=forged)
    assert refused["request_id"] != forged[h.REQUEST]


async def test_a_caller_s_task_is_no_manager_s_aside(mesh: SmallMesh) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    for kind in ("mirror", "verify"):
        error = (await mesh.ask(task_id=f"{kind}:{new_id()}"))["error"]
        assert (error["code"], error["field"]) == ("invalid_request", "task_id")


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_the_statistics_repeat_no_caller_s_words(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()
    name = "planted" * 100_000
    assert "error" in await mesh.ask_raw(json.dumps({"prompt": "hi", name: 1}).encode(), subject)
    told: list[Message] = []
    with mesh.bus.listen(told.append) as inbox:
        await mesh.bus.publish("$SRV.STATS", b"", reply=inbox.subject)
        await eventually(lambda: len(told) == 2)
    assert not any(b"planted" in message.data for message in told)
    assert max(len(message.data) for message in told) < 2000
    assert any(b'"last_error":"invalid_request"' in message.data for message in told)


async def test_a_worker_speaks_on_a_subject_of_its_own_and_to_whoever_looks_on(mesh: SmallMesh) -> None:
    heard: list[Message] = []
    await mesh.bus.subscribe_inline("worker.heartbeat.>", heard.append)
    await mesh.worker("real", **QUICK)
    await eventually(lambda: heard)
    assert heard[0].subject == "worker.heartbeat.simulated.real"
    assert Heartbeat.model_validate_json(heard[0].data).worker_id == "real"
    assert "real" in mesh.beats


async def test_a_worker_that_knows_only_the_open_subject_is_asked_as_ever(mesh: SmallMesh, nats: NatsServer) -> None:
    await mesh.manager()
    stranger = await Bus.connect("NATS CLI", BusSettings(servers=(nats.url,)), patience=20, watchdog=False)
    async with FakeWorker(stranger, "old-1", acting(lambda asked: asked.answer("here"))):
        assert (await mesh.ask())["worker_id"] == "old-1"
    await stranger.close()


# What requests leave behind


async def test_requests_leave_no_task_inbox_or_subscription_behind(mesh: SmallMesh) -> None:
    await mesh.worker("real", **QUICK)
    await mesh.manager()

    buses = [one for one in gc.get_objects() if type(one) is Bus]

    def holds() -> tuple[int, int, int]:
        listeners = sum(len(bus._inbox) for bus in buses)
        return len(asyncio.all_tasks()), listeners, sum(len(bus.nats._subs) for bus in buses)

    async def asked(count: int) -> tuple[int, int, int]:
        """Tasks, listeners and subscriptions in this process, once all is quiet after so many requests."""
        for _ in range(count):
            await asyncio.gather(*(mesh.ask(metadata={"tenant": new_id()}) for _ in range(10)), mesh.stream())
        held = (0, 0, 0)

        async def is_quiet() -> bool:
            nonlocal held
            before, held = held, holds()
            return held == before

        await eventually(is_quiet)
        return held

    warm = await asked(3)
    await asked(8)
    await eventually(lambda: all(after <= before + 2 for before, after in zip(warm, holds(), strict=True)))
