"""The mesh over real NATS: what a caller gets, from the Manager and from workers asked directly."""

import asyncio
import json
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Message
from bus.jetstream import PullConsumer
from contracts import InferenceResponse, Terms
from contracts import subjects as s
from manager import liveness
from tests.books_stream import rows_in
from tests.gate import Gate
from tests.mesh import Json, SmallMesh
from tests.support import eventually

SLOW: Json = {"latency_ms": {"fixed": 400}}
PACED: Json = {"tokens_per_second": 100, "output_tokens": 30}
CHEAP: Json = {"price": {"input_per_mtok": 0.01, "output_per_mtok": 0.01}}
DEAR: Json = {"price": {"input_per_mtok": 100, "output_per_mtok": 100}}


async def test_a_question_gets_a_whole_answer(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(task_id="mine", metadata={"tenant": "t"})
    response = InferenceResponse.model_validate(answer)
    assert (response.task_id, response.model_id, response.worker_id) == ("mine", "simulated", "w-1")
    assert response.simulated
    assert len(response.output.split()) == response.completion_tokens == 32
    assert response.prompt_tokens is not None
    assert response.tokens_used == response.prompt_tokens + response.completion_tokens
    assert response.cost_usd is None  # nobody told the price, and unknown is not zero
    assert [(a.worker_id, a.outcome) for a in response.attempts] == [("w-1", "ok")]


async def test_a_bare_prompt_is_a_question(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask_raw(b"What is the capital of France?")
    assert answer["output"]


async def test_a_worker_answers_without_any_manager(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    assert (await mesh.ask("infer.simulated"))["worker_id"] == "w-1"
    assert (await mesh.ask("infer.simulated.w.w-1"))["worker_id"] == "w-1"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_a_stream_is_gapless_and_ends_with_the_whole_answer(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", **PACED)
    await mesh.manager()
    heard = await mesh.stream(subject)
    *chunks, final, sentinel = heard
    assert sentinel is None
    assert final is not None
    assert final["type"] == "response"
    assert [c["seq"] for c in chunks if c] == list(range(len(chunks)))
    assert len(chunks) > 3
    assert "".join(c["delta"] for c in chunks if c) == final["output"]


async def test_without_a_reply_subject_the_answer_is_published(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    results: list[Message] = []
    await mesh.bus.subscribe_inline("result.>", results.append)
    await mesh.bus.publish(s.INFER_AUTO, b'{"prompt":"hi","task_id":"a b"}')
    await eventually(lambda: results)
    assert results[0].subject == "result.a%20b"
    assert from_json(results[0].data)["task_id"] == "a b"


async def test_a_request_without_workers_is_an_error(mesh: SmallMesh) -> None:
    await mesh.manager()
    answer = await mesh.ask()
    assert (answer["error"]["code"], answer["error"]["status"]) == ("no_worker", 503)
    assert answer["error"]["retryable"]


async def test_an_unknown_model_names_what_is_served(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(model="gpt-99")
    assert answer["error"]["code"] == "no_such_model"
    assert "simulated" in answer["error"]["message"]


async def test_a_request_chooses_its_worker(mesh: SmallMesh) -> None:
    dear: Json = {"models": [{"name": "dear", "price": {"input_per_mtok": 10, "output_per_mtok": 30}}], "local": False}
    cheap: Json = {
        "models": [{"name": "cheap", "aliases": ["small"], "price": {"input_per_mtok": 0, "output_per_mtok": 0.1}}]
    }
    await mesh.worker("dear-1", **dear)
    await mesh.worker("cheap-1", **cheap)
    await mesh.manager()
    assert (await mesh.ask(model="dear"))["model_id"] == "dear"
    assert (await mesh.ask(model="small"))["model_id"] == "cheap"
    for _ in range(5):
        assert (await mesh.ask(policy="cheapest"))["model_id"] == "cheap"
        assert (await mesh.ask(policy="local_only"))["model_id"] == "cheap"
    answer = await mesh.ask(model="dear", max_cost_usd=0.000001)
    assert (answer["error"]["code"], answer["error"]["field"]) == ("budget_exceeded", "max_cost_usd")


async def test_the_cost_is_tokens_times_price(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", price={"input_per_mtok": 1, "output_per_mtok": 2})
    await mesh.manager()
    answer = await mesh.ask(prompt="one two three")
    assert answer["cost_usd"] == pytest.approx((3 * 1 + 32 * 2) / 1e6)


async def test_a_failure_goes_to_the_next_worker(mesh: SmallMesh) -> None:
    await mesh.worker("bad", error_rate=1.0, latency_ms=1, **CHEAP)
    await mesh.worker("good", latency_ms=100, **DEAR)
    await mesh.manager()
    answers = await asyncio.gather(*(mesh.ask(policy="cheapest") for _ in range(10)))
    assert {answer["worker_id"] for answer in answers} == {"good"}
    tried = [a for answer in answers for a in answer["attempts"] if a["worker_id"] == "bad"]
    assert tried
    assert {a["outcome"] for a in tried} == {"failed"}


async def test_an_error_names_every_worker_that_failed(mesh: SmallMesh) -> None:
    for name in ("a", "b"):
        await mesh.worker(name, error_rate=1.0)
    await mesh.manager()
    answer = await mesh.ask()
    assert answer["error"]["code"] == "upstream_error"
    assert {a["worker_id"] for a in answer["attempts"]} == {"a", "b"}


async def test_a_worker_that_never_claims_loses_the_request(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    asked: list[Message] = []
    await mesh.mute_worker("mute", asked.append)
    await mesh.manager(claim_timeout=1.0)
    answers = await asyncio.gather(*(mesh.ask() for _ in range(20)))  # equals are picked by lot
    assert {answer["worker_id"] for answer in answers} == {"w-1"}
    assert asked
    assert {"refused"} == {a["outcome"] for x in answers for a in x["attempts"] if a["worker_id"] == "mute"}


async def test_a_worker_that_leaves_the_server_loses_its_requests_at_once(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **SLOW)
    await mesh.ask("infer.simulated")
    await eventually(lambda: mesh.beats["w-1"].ewma_ms)  # known to be slower than the other one claims to be
    asked: list[Message] = []
    await mesh.mute_worker("mute", asked.append)
    await mesh.manager(claim_timeout=30)
    asking = asyncio.create_task(mesh.ask(policy="fastest"))
    await eventually(lambda: asked)
    gone = {"client": {"name": s.worker_connection_name("simulated", "mute")}}
    await mesh.bus.publish(s.SYS_DISCONNECT, json.dumps(gone).encode())
    answer = await asking
    assert [(a["worker_id"], a["outcome"]) for a in answer["attempts"]] == [("mute", "uncertain"), ("w-1", "ok")]


async def test_a_connection_that_a_worker_no_longer_has_may_end(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    connection = mesh.beats["w-1"].connection
    assert connection
    server, number = connection.split(":")
    asking = asyncio.create_task(mesh.ask(prompt=gate.prompt))
    await eventually(lambda: gate.waiting)
    name = s.worker_connection_name("simulated", "w-1")
    for older in ({"id": int(number) - 1, "name": name}, {"id": None, "name": name}):
        gone = {"server": {"id": server}, "client": older}
        await mesh.bus.publish(s.SYS_DISCONNECT, json.dumps(gone).encode())
    await mesh.manager_says()  # which has heard of it by now
    gate.open()
    assert [a["outcome"] for a in (await asking)["attempts"]] == ["ok"]


async def test_a_deadline_is_kept_with_an_error(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 60_000})
    await mesh.manager()
    answer = await mesh.ask(deadline_ms=150)
    assert (answer["error"]["code"], answer["error"]["status"]) == ("deadline_exceeded", 504)
    direct = await mesh.ask("infer.simulated", deadline_ms=150)
    assert direct["error"]["code"] == "deadline_exceeded"


async def test_expired_work_is_dropped_before_it_is_computed(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    answer = await mesh.ask("infer.simulated", headers={"Bullpen-Deadline": "1000000000000"})
    assert answer["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_cancel_ends_the_work_and_tells_the_caller(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1", latency_ms={"fixed": 60_000})
    await mesh.manager()
    asking = asyncio.create_task(mesh.ask(subject, task_id="stop-me"))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    await mesh.bus.publish(s.INFER_CANCEL, b'{"task_id":"stop-me","reason":"changed my mind"}')
    assert (await asking)["error"]["code"] == "cancelled"
    await eventually(lambda: mesh.beats["w-1"].inflight == 0)


async def test_rubbish_on_the_side_subjects_is_survived(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for subject in (s.INFER_CANCEL, s.WORKER_HEARTBEAT, s.SYS_DISCONNECT, s.worker_control("w-1")):
        for rubbish in (b"", b"null", b"[]", b"\xff", b'{"client":5}', b'{"op":"dance"}'):
            await mesh.bus.publish(subject, rubbish)
    assert (await mesh.ask())["output"]


async def test_replies_go_to_inboxes_only(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    heard: list[Message] = []
    await mesh.bus.subscribe_inline("somebody.else", heard.append)
    await mesh.bus.publish(s.INFER_AUTO, b"hi", reply="somebody.else")
    await mesh.bus.publish("infer.simulated", b"hi", reply="somebody.else")
    assert (await mesh.ask())["output"]
    assert not heard


async def test_a_message_that_went_round_is_refused(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    answer = await mesh.ask(headers={"Bullpen-Hops": "2"})
    assert answer["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_a_stream_that_cannot_be_answered_ends_as_every_stream(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    wrong: list[Json] = [{"typo": 1}, {"prompt": ""}, {"model": "nobody's"}, {"deadline_ms": 0}]
    for field in wrong:
        told, end = await mesh.stream(subject, **field)
        assert told is not None
        assert told["error"]["code"] in ("invalid_request", "no_such_model")
        assert end is None


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_no_header_makes_a_question_vanish(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for text in ("\u00b2", "\u0663", "9" * 25, "9" * 400, "9" * 5000, "-1", ""):
        for name in ("Bullpen-Deadline", "Bullpen-Hops", "Bullpen-Attempt", "Bullpen-Continue-Tokens"):
            answer = await mesh.ask(subject, headers={name: text})
            assert answer.get("output") or answer["error"]["code"] == "invalid_request"


async def test_a_manager_that_just_started_listens_before_it_says_no_worker(
    mesh: SmallMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "WARM_UP", 60.0)
    mesh.managers_listen_first = True
    await mesh.manager()
    asking = asyncio.create_task(mesh.ask())

    async def is_taken() -> bool:
        return bool((await mesh.manager_says())["inflight"])

    await eventually(is_taken)
    await mesh.worker("w-1")
    assert (await asking)["output"]


async def test_a_prompt_larger_than_every_context_window_is_not_tried_again(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    error = (await mesh.ask(prompt="word " * 20_000))["error"]
    assert (error["code"], error["field"], error["retryable"]) == ("context_length_exceeded", "prompt", False)


async def test_the_route_is_explained(mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.worker("w-2")
    await mesh.manager()
    routes: list[Message] = []
    await mesh.bus.subscribe_inline(s.METRICS_ROUTE, routes.append)
    answer = await mesh.ask()
    await eventually(lambda: routes)
    decision = from_json(routes[0].data)
    assert decision["winner"] == answer["worker_id"]
    assert {c["worker_id"] for c in decision["candidates"]} == {"w-1", "w-2"}
    assert all(c["terms"].keys() == Terms.model_fields.keys() for c in decision["candidates"])


async def test_every_request_and_every_attempt_is_booked_once(mesh: SmallMesh) -> None:
    await mesh.worker("bad", error_rate=1.0, latency_ms={"fixed": 1})
    await mesh.worker("good", latency_ms={"fixed": 50})
    await mesh.manager()
    answers = [await mesh.ask(prompt="hi", policy="fastest") for _ in range(3)]
    answers += [
        await mesh.ask(model="none"),
        await mesh.ask("infer.simulated.w.good"),
        await mesh.ask("infer.simulated.w.bad"),
    ]
    for role in ("m-1", "bad", "good"):
        await mesh.stop(role)  # and what it has to tell is told
    books = await PullConsumer.open(mesh.bus, stream=s.TELEMETRY_STREAM, durable="test")
    rows: dict[str, list[Any]] = {s.TELEMETRY_RESPONSE: [], s.TELEMETRY_ATTEMPT: [], s.TELEMETRY_WORKER: []}
    while await books.pending():
        for stored in await books.fetch(100, timeout=0.2):
            rows[stored.subject] += rows_in(stored)
            await stored.ack()
    tried = sum(len(a["attempts"]) for a in answers) + 2  # and one for each asked directly
    assert sorted(r["request_id"] for r in rows[s.TELEMETRY_RESPONSE]) == sorted(a["request_id"] for a in answers)
    assert len(rows[s.TELEMETRY_ATTEMPT]) == tried
    keys = [(r["request_id"], r["attempt"]) for r in rows[s.TELEMETRY_ATTEMPT]]
    assert len(set(keys)) == len(keys)
    by_id = {r["request_id"]: r for r in rows[s.TELEMETRY_RESPONSE]}
    for answer in answers:
        row = by_id[answer["request_id"]]
        assert row["status"] == ("ok" if "output" in answer else "error")
        assert row.get("output") == answer.get("output")


BAD = [
    b"",
    b"   ",
    b"[]",
    b"null",
    b"{",
    b'{"prompt":',
    b'{"prompt":""}',
    b'{"prompt":1}',
    b'{"promt":"x"}',
    b'{"prompt":"x","temperature":3}',
    b'{"prompt":"x","temperature":NaN}',
    b'{"prompt":"x","context":' + b"[" * 50 + b"]" * 50 + b"}",
    b"\xff\xfe\x00",
    b'{"messages":[{"role":"king","content":"x"}]}',
    b'{"prompt":"x","' + b"k" * 5_000_000 + b'":1}',
    b'{"prompt":"x","task_id":"' + b"k" * 5_000_000 + b'"}',
]


@pytest.mark.parametrize("subject", ["infer.auto", "infer.simulated"])
async def test_bad_input_gets_its_error_and_the_mesh_goes_on(mesh: SmallMesh, subject: str) -> None:
    await mesh.worker("w-1")
    await mesh.manager()
    for body in BAD:
        answer = await mesh.ask_raw(body, subject)
        assert (answer["error"]["code"], answer["error"]["status"]) == ("invalid_request", 400), body
        assert answer["error"]["message"]
    assert (await mesh.ask(subject))["output"]
