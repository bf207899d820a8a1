"""What befalls a whole mesh, over real processes: hostile input, a NATS server that dies, freezes or forgets, Managers
that die or freeze, and more work than anybody can do.

Callers here are bare ones: one message, one inbox, no library that asks again. `tests/roles.py` counts what each is
told. The number in a docstring is the row of our fault matrix.
"""

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic_core import from_json

from bus import BusError
from client import Bullpen
from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, Resumed
from contracts import headers as h
from tests.proxy import Proxy
from tests.roles import Question, Roles, roles_on_a_server, unwell
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(60)]

UNHURRIED = {
    "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20",
    "BULLPEN_SIMULATED__OUTPUT_TOKENS": "40",
}
"""An answer takes two seconds, and comes word by word."""
LONG = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "100"}
"""Five seconds: longer than anybody needs to come back."""
SPACIOUS = '[{"name": "simulated", "context_window": 1000000}]'
ENDLESS = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "2000"}
AWAY = 5.0
SOME = 3
"""Of thirty questions that either of two Managers may get; each gets fewer once in two million times."""
SECOND = {"BULLPEN_SIMULATED__LATENCY_MS": "1000"}
DIARY = '''
import asyncio, os
from pathlib import Path
from contracts import ModelCard
from workers.base import Availability, Backend, Delta, Done

class Diary(Backend):
    """Writes down what it computes; some questions are too much for it."""

    name = "diary"

    @classmethod
    async def available(cls, config):
        return Availability.yes("always")

    async def start(self, report):
        pass

    def models(self):
        return (ModelCard(model_id="diary", context_window=8192, local=True),)

    async def stream(self, job):
        with Path(os.environ["DIARY"]).open("a") as diary:
            diary.write(job.request.question + "\\n")
        await asyncio.sleep(0.2)
        if "die" in job.request.question:
            os.abort()
        yield Delta("noted")
        yield Done("stop", prompt_tokens=1, completion_tokens=1)

    async def health(self):
        pass
'''


@pytest.fixture
async def roles(tmp_path: Path, nats: NatsServer) -> AsyncIterator[Roles]:
    """Nobody yet."""
    async with Roles(tmp_path, nats.url) as roles:
        yield roles


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    """Where the backend in the folder `diary` beside it writes down what it computes."""
    folder = tmp_path / "diary"
    folder.mkdir()
    (folder / "backend.py").write_text(DIARY)
    (folder / "config.yaml").write_text("max_concurrency: 100\n")
    (tmp_path / "diary.txt").touch()
    return tmp_path / "diary.txt"


def written(diary: Path) -> list[str]:
    """The questions that were computed."""
    return diary.read_text().splitlines()


def write_diaries(roles: Roles, diary: Path, *names: str) -> None:
    for name in names:
        roles.worker(name, str(diary.with_suffix("")), DIARY=str(diary))


async def stream(roles: Roles, op: str, body: dict[str, Any]) -> dict[str, Any]:
    """What JetStream says to an order about the books' stream."""
    reply = await roles.bus.request(f"$JS.API.STREAM.{op}.TELEMETRY", json.dumps(body).encode(), timeout=5)
    told: dict[str, Any] = from_json(reply.data)
    assert "error" not in told, told
    return told


async def make_stream(roles: Roles, op: str = "CREATE", *, max_bytes: int) -> None:
    spec = {"name": "TELEMETRY", "subjects": ["telemetry.>"], "max_bytes": max_bytes, "discard": "new"}
    await stream(roles, op, spec)


async def booked(roles: Roles, count: int) -> bool:
    """Whether so many requests are in the books' stream."""
    state = (await stream(roles, "INFO", {"subjects_filter": "telemetry.response"}))["state"]
    return bool(state.get("subjects", {}).get("telemetry.response", 0) >= count)


# C: hostile input


async def test_what_is_larger_than_the_server_takes_is_told_both_ways(tmp_path: Path) -> None:
    """Row 30."""
    async with roles_on_a_server(tmp_path, "max_payload: 64KB\n") as roles:
        roles.manager()
        roles.worker("w-1", BULLPEN_SIMULATED__OUTPUT_TOKENS="20000")
        await roles.ready()
        for subject, stream in (("infer.auto", False), ("infer.auto", True), ("infer.simulated", False)):
            told = await roles.answer(subject, stream=stream)
            assert told.code == "payload_too_large"
            assert told.took < 10, "silence until somebody's patience ended"
        assert not (await roles.answer(max_tokens=5)).code


async def test_a_question_that_fits_only_without_the_managers_headers_takes_no_place_for_good(tmp_path: Path) -> None:
    """Row 30."""
    async with roles_on_a_server(tmp_path, "max_payload: 64KB\n") as roles:
        roles.manager(BULLPEN_MANAGER__MAX_WAITING="0")
        roles.worker("w-1", BULLPEN_SIMULATED__MAX_CONCURRENCY="2", BULLPEN_SIMULATED__MODELS=SPACIOUS)
        await roles.ready()
        room = roles.bus.max_payload - len(json.dumps({"prompt": ""}))
        told = await roles.answered(await roles.ask_many(5, prompt="x" * (room - 10)))
        assert {question.code for question in told} == {"payload_too_large"}
        assert unwell(await roles.answered(await roles.ask_many(2))) == []


async def test_a_question_of_nearly_the_largest_size_is_booked(tmp_path: Path) -> None:
    """Row 30. Its record holds the question and more."""
    async with roles_on_a_server(tmp_path, f'max_payload: 64KB\njetstream {{store_dir: "{tmp_path}"}}\n') as roles:
        roles.manager()
        roles.worker("w-1", BULLPEN_SIMULATED__MODELS=SPACIOUS)
        await roles.ready()
        await make_stream(roles, max_bytes=1 << 20)
        assert not (await roles.answer(prompt="x" * (roles.bus.max_payload - 600))).code
        await eventually(lambda: booked(roles, 1), timeout=2)


HOSTILE = [
    b"PUB infer.auto \xff\xfe\xfd 2\r\nhi\r\n",
    b"PUB infer.\xff 2\r\nhi\r\n",
    b"PUB infer.auto infer.auto 2\r\nhi\r\n",
    b"PUB infer.auto infer.simulated 2\r\nhi\r\n",
    b"PUB infer.simulated infer.auto 2\r\nhi\r\n",
    b"PUB infer.auto $JS.API.STREAM.PURGE.TELEMETRY 2\r\nhi\r\n",
    b"PUB infer.simulated $JS.API.STREAM.DELETE.TELEMETRY 2\r\nhi\r\n",
    b"PUB infer.auto worker.control.w-1 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.> 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.*.x 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX. 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX..x 2\r\nhi\r\n",
    b"PUB infer.auto _INBOX.\x00 2\r\nhi\r\n",
    b"PUB worker.heartbeat \xff 2\r\nhi\r\n",
    b"PUB worker.heartbeat 4\r\nnull\r\n",
    b"PUB worker.control.w-1 \xff 2\r\nhi\r\n",
    b"PUB manager.control.m-1 $JS.API.INFO 2\r\n{}\r\n",
    b"PUB mesh.sys.disconnect \xff 2\r\n[]\r\n",
    b"PUB infer.cancel \xff 2\r\nhi\r\n",
    b'PUB infer.status $JS.API.INFO 16\r\n{"task_id": null}\r\n',
    b"PUB $SRV.PING \xff 0\r\n\r\n",
    b"HPUB infer.auto 19 21\r\nNATS/1.0 \xff\xff\xff\r\n\r\n\r\nhi\r\n",
    b"HPUB infer.auto 22 24\r\nNATS/1.0\r\nA: \xff\xff\xff\xff\xff\r\n\r\nhi\r\n",
    b"HPUB worker.heartbeat 16 18\r\nNATS/1.0 abc\r\n\r\nhi\r\n",
    b"HPUB infer.auto 38 40\r\nNATS/1.0\r\nBullpen-Deadline: -9999999\r\n\r\nhi\r\n",
]
"""Each as bytes on a socket, because no client would send it."""


def shout(port: int, messages: list[bytes]) -> None:
    """Says all that, each over a connection of its own; the server may end one that goes too far."""
    for message in messages:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n' + message + b"PING\r\n")
            raw.recv(4096)


async def test_hostile_messages_deafen_no_role_and_reach_nothing(roles: Roles, nats: NatsServer) -> None:
    """Row 31."""
    roles.manager()
    roles.worker("w-1")
    roles.worker("w-2")
    await roles.ready()
    await make_stream(roles, max_bytes=1 << 20)
    replies: list[bytes] = []
    for subject in ("infer.>", "worker.>", "manager.>", "$JS.>"):
        await roles.bus.subscribe_inline(subject, lambda message: replies.append(message.data))
    for _ in range(3):
        await asyncio.to_thread(shout, nats.port, [*HOSTILE, b"PUB infer.auto 99999999\r\n"])
    assert unwell(await roles.answered(await roles.ask_many(50))) == []
    for subject in ("infer.simulated", "infer.simulated.w.w-1", "infer.simulated.w.w-2"):
        assert not (await roles.answer(subject)).code
    assert roles.running == {"m-1", "w-1", "w-2"}
    assert await booked(roles, 50)
    assert [data for data in replies if b"bullpen.response" in data or b"bullpen.error" in data] == []
    assert all(roles.log(name).count("bus_reconnected") == 0 for name in roles.running), "somebody had become deaf"


async def test_a_question_that_kills_its_workers_kills_two_at_most(roles: Roles, diary: Path) -> None:
    """Row 32."""
    roles.manager()
    write_diaries(roles, diary, "w-1", "w-2", "w-3")
    await roles.ready()
    told = await roles.answer(prompt="die")
    assert told.code == "poison_request"
    assert written(diary) == ["die", "die"]
    workers = {"w-1", "w-2", "w-3"}
    assert len(workers & roles.running) == 1
    (survivor,) = workers & roles.running
    assert (await roles.answer()).finals[0]["worker_id"] == survivor


async def test_a_worker_that_comes_and_dies_all_the_time_costs_no_answer(roles: Roles) -> None:
    """Row 11. It lives just long enough to get questions."""
    roles.manager()
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="100")
    await roles.ready()
    asked: list[Question] = []

    async def ask() -> None:
        while True:
            asked.append(await roles.ask())
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    for _ in range(4):
        roles.beats.pop("w-2", None)
        roles.worker("w-2", BULLPEN_SIMULATED__LATENCY_MS="20000")
        await eventually(lambda: "w-2" in roles.beats and roles.beats["w-2"].inflight, timeout=20)
        roles.kill("w-2")
    asking.cancel()
    assert unwell(await roles.answered(asked)) == []
    tried = [attempt["worker_id"] for question in asked for attempt in question.finals[0]["attempts"]]
    assert "w-2" in tried
    assert tried.count("w-1") == len(asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_whose_connection_breaks_stops_what_others_do_now(
    roles: Roles, nats: NatsServer, stream: bool
) -> None:
    """Row 12. It is back at once and well, but its question is somebody else's; what it had used is booked."""
    booked: list[Any] = []
    await roles.bus.subscribe_inline("telemetry.attempt", lambda message: booked.append(from_json(message.data)))
    async with Proxy(nats.port) as proxy:
        roles.manager()
        roles.worker("w-1", **ENDLESS, NATS_URL=f"nats://127.0.0.1:{proxy.port}")
        await roles.ready()
        asked = await roles.ask(stream=stream)
        await eventually(lambda: roles.beats["w-1"].inflight, timeout=5)
        roles.worker("w-2", BULLPEN_SIMULATED__OUTPUT_TOKENS="100")
        await roles.ready()
        proxy.reset()
        await roles.answered([asked])
        await eventually(lambda: roles.beats["w-1"].inflight == 0, timeout=5)
    assert [attempt["outcome"] for attempt in asked.finals[0]["attempts"]] == ["uncertain", "ok"]

    def first() -> list[Any]:
        return [row for row in booked if row["attempt"] == 1 and row["task_id"] == asked.finals[0]["task_id"]]

    await eventually(lambda: any(row["completion_tokens"] for row in first()))
    assert {row["outcome"] for row in first()} == {"uncertain"}


# E: the server


async def freeze(nats: NatsServer) -> None:
    """Returns when it really stands still: it may have been busy."""
    assert nats.process is not None
    nats.send(signal.SIGSTOP)
    threads = [psutil.Process(thread.id) for thread in psutil.Process(nats.process.pid).threads()]
    await eventually(lambda: all(thread.status() == psutil.STATUS_STOPPED for thread in threads))


async def whole_text(bullpen: Bullpen) -> bool:
    """Reads a stream to its end."""
    text = ""
    async for event in bullpen.stream("a story"):
        match event:
            case Chunk(delta=delta):
                text += delta
            case Resumed(mode="restarted"):
                text = ""
            case FinalResponse(output=output):
                return text == output
    return False


async def test_nats_killed_under_load_costs_no_answer(roles: Roles, nats: NatsServer) -> None:
    """Row 41. What was under way is answered once over the next connection; our streams are whole."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name, **LONG)
    await roles.ready()
    async with Bullpen.connect(nats.url) as bullpen:
        asked = await roles.ask_many(40)
        reading = [asyncio.create_task(whole_text(bullpen)) for _ in range(10)]
        await asyncio.sleep(0.5)
        nats.kill()
        await asyncio.sleep(0.5)
        await nats.start()
        await roles.serves_again(within=6)  # three seconds, generously
        assert unwell(await roles.answered(asked)) == []
        assert {question.attempts for question in asked} == {1}
        assert all(await asyncio.gather(*reading))


async def test_a_bare_caller_that_is_back_later_than_the_manager_is_answered(tmp_path: Path, nats: NatsServer) -> None:
    """Row 41. Its connection breaks for two seconds, as long as it may take after a restart of the server."""
    async with Proxy(nats.port) as line, Roles(tmp_path, nats.url, f"nats://127.0.0.1:{line.port}") as roles:
        roles.manager()
        roles.worker("w-1", **UNHURRIED)
        await roles.ready()
        question = await roles.ask()
        await asyncio.sleep(0.7)
        line.refuse()
        line.reset()
        await asyncio.sleep(2)
        await line.heal()
        assert unwell(await roles.answered([question], within=6)) == []


async def test_what_expired_while_nats_was_frozen_is_not_computed(roles: Roles, nats: NatsServer, diary: Path) -> None:
    """Row 43. A pause that nobody takes for deafness: all is delivered afterwards, too late or not."""
    roles.manager()
    write_diaries(roles, diary, "w-1", "w-2")
    await roles.ready()
    await roles.bus.flush()
    await freeze(nats)
    try:
        soon = {h.DEADLINE: str(round(time.time() * 1000) + 300)}
        expired = [await roles.ask(subject, soon, prompt="late") for subject in ("infer.auto", "infer.diary") * 5]
        patient = await roles.ask_many(10, prompt="in time")
        await asyncio.sleep(0.7)
    finally:
        nats.send(signal.SIGCONT)
    assert unwell(await roles.answered(patient)) == []
    assert {question.code for question in await roles.answered(expired)} == {"deadline_exceeded"}
    assert set(written(diary)) == {"in time"}


async def test_nats_frozen_for_long_costs_no_answer(roles: Roles, nats: NatsServer) -> None:
    """Row 43. Everybody took the server for dead: what was under way is answered, as is what our client asked."""
    roles.manager()
    roles.worker("w-1", **SECOND)
    roles.worker("w-2", **SECOND)
    await roles.ready()
    async with Bullpen.connect(nats.url) as bullpen:
        under_way = await roles.ask_many(20)
        await roles.bus.flush()
        await freeze(nats)
        try:
            patient = [asyncio.create_task(bullpen.ask("in time")) for _ in range(5)]
            with pytest.raises(BullpenError) as caught:
                await bullpen.ask("too late", deadline_ms=1000)
            assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
            await asyncio.sleep(2)
        finally:
            nats.send(signal.SIGCONT)
        assert unwell(await roles.answered(under_way)) == []
        assert all(answer.output for answer in await asyncio.gather(*patient))


async def test_nats_away_for_long_is_waited_for_and_callers_are_told(roles: Roles, nats: NatsServer) -> None:
    """Row 42. How long makes no difference once the pauses between tries have stopped growing."""
    roles.manager()
    roles.worker("w-1")
    await roles.ready()
    pids = {name: roles.pid(name) for name in roles.running}
    async with Bullpen.connect(nats.url) as bullpen:
        nats.kill()
        began = time.monotonic()
        with pytest.raises(BullpenError) as caught:
            await bullpen.ask("anybody?", deadline_ms=1000)
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert "NATS" in str(caught.value)
        assert time.monotonic() - began < 5
        with pytest.raises(BusError, match="NATS"):
            async with Bullpen.connect(nats.url):
                pass
        patient = asyncio.create_task(bullpen.ask("are you back?", deadline_ms=60_000))
        await asyncio.sleep(AWAY - (time.monotonic() - began))
        await nats.start()
        assert (await patient).output
    await roles.serves_again(within=8)
    assert {name: roles.pid(name) for name in roles.running} == pids


async def test_without_jetstream_everything_is_answered(tmp_path: Path) -> None:
    """Row 49. A bare server as a stranger starts it: no JetStream, no system events."""
    async with roles_on_a_server(tmp_path) as roles:
        roles.manager()
        roles.worker("w-1")
        await roles.ready()
        everybody = [
            *await roles.ask_many(50),
            *await roles.ask_many(10, stream=True),
            *await roles.ask_many(10, "infer.simulated"),
            *[await roles.ask(idempotency_key=f"key-{number % 5}") for number in range(10)],
        ]
        assert unwell(await roles.answered(everybody)) == []
        assert max(question.took for question in everybody) < 10, "somebody waited for JetStream"
        assert roles.log("m-1").count("telemetry_waits") == 1


async def test_a_full_stream_costs_no_answer_and_no_booking(roles: Roles) -> None:
    """Row 49. Also while there is no stream at all."""
    roles.manager()
    roles.worker("w-1")
    await roles.ready()
    assert unwell(await roles.answered(await roles.ask_many(20))) == []
    await make_stream(roles, max_bytes=4096)
    everybody = [*await roles.ask_many(30), *await roles.ask_many(10, stream=True)]
    assert unwell(await roles.answered(everybody)) == []
    await eventually(lambda: "telemetry_waits" in roles.log("m-1"))
    assert not await booked(roles, 60)
    await make_stream(roles, "UPDATE", max_bytes=1 << 20)
    await eventually(lambda: booked(roles, 60), timeout=20)


# F: Managers


async def test_a_manager_killed_takes_only_its_own_questions_along(roles: Roles) -> None:
    """Row 51. A bare caller of the dead one hears nothing more; everybody else is answered, then and after."""
    roles.manager("m-1")
    roles.manager("m-2")
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="3000", BULLPEN_SIMULATED__MAX_CONCURRENCY="150")
    await roles.ready()
    asked = await roles.ask_many(60)

    async def held_by(name: str) -> int:
        status = await roles.bus.request(f"manager.control.{name}", b'{"op": "status"}', timeout=2)
        return int(from_json(status.data)["inflight"])

    async def all_are_held() -> bool:
        return await held_by("m-1") + await held_by("m-2") == 60

    await eventually(all_are_held)
    held = await held_by("m-1")
    assert 0 < held < 60
    roles.send("m-1", signal.SIGKILL)
    after = await roles.ask_many(30)
    await eventually(lambda: sum(bool(question.finals) for question in asked) == 60 - held, timeout=10)
    # What the server had for the dead one in that instant goes nowhere; nobody else's does.
    await eventually(lambda: sum(bool(question.finals) for question in after) >= SOME, timeout=10)
    assert unwell(question for question in [*asked, *after] if question.finals) == []
    assert unwell(await roles.answered(await roles.ask_many(30))) == []


async def test_a_manager_that_slept_declares_no_worker_dead_and_answers_once(roles: Roles) -> None:
    """Between rows 5 and 51. For longer than the server's own patience of three seconds."""
    roles.manager("m-1", BULLPEN_MANAGER__CLAIM_TIMEOUT="3")
    roles.worker("w-1", **SECOND)
    roles.worker("w-2", **SECOND)
    await roles.ready()
    asked = [*await roles.ask_many(20), *await roles.ask_many(5, stream=True)]
    await asyncio.sleep(0.4)
    roles.send("m-1", signal.SIGSTOP)
    await asyncio.sleep(4)
    roles.send("m-1", signal.SIGCONT)
    assert unwell(await roles.answered(asked)) == []
    assert {question.attempts for question in asked} == {1}
    for said in ("worker_silent", "worker_left"):
        assert said not in roles.log("m-1")


async def test_a_manager_told_to_leave_under_load_answers_what_it_took(roles: Roles) -> None:
    """Row 52. Bare callers: nobody who would ask again."""
    roles.manager("m-1")
    roles.manager("m-2")
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="400")
    await roles.ready()
    await make_stream(roles, max_bytes=1 << 20)
    asked: list[Question] = []

    async def keep_asking() -> None:
        while True:
            asked.append(await roles.ask(stream=len(asked) % 4 == 0))
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(keep_asking())
    await asyncio.sleep(0.6)
    roles.send("m-1", signal.SIGTERM)
    await eventually(lambda: roles.ended("m-1") is not None, timeout=10)
    await asyncio.sleep(0.3)
    asking.cancel()
    assert roles.ended("m-1") == 0
    assert unwell(await roles.answered(asked)) == []


async def test_without_managers_workers_answer_and_the_next_manager_routes_at_once(roles: Roles) -> None:
    """Rows 53 and 54."""
    roles.manager("m-1")
    for name in ("w-1", "w-2"):
        roles.worker(name)
    await roles.ready()
    roles.kill("m-1")
    assert unwell(await roles.answered(await roles.ask_many(20, "infer.simulated"))) == []
    assert (await roles.answer()).code == "no_responders"
    roles.kill("w-1")
    roles.manager("m-2")

    async def taken() -> Question | None:
        question = await roles.answer()
        return question if question.code != "no_responders" else None

    first: Question = await eventually(taken, timeout=10)
    assert unwell([first]) == []
    assert first.took < 5, "one heartbeat and a half, generously"
    answers = await roles.answered(await roles.ask_many(20))
    assert {(q.finals[0]["worker_id"], q.attempts) for q in answers} == {("w-2", 1)}, "somebody was sent to a ghost"


SMALL = {"BULLPEN_SIMULATED__MAX_CONCURRENCY": "4", "BULLPEN_SIMULATED__LATENCY_MS": "200"}
CAPACITY = 20.0
"""Answers per second of a small worker."""


async def rush(roles: Roles, seconds: float, per_second: float, **request: Any) -> list[Question]:
    """An open loop: questions come whether or not the ones before were answered."""
    began = time.monotonic()
    asked: list[Question] = []
    while (now := time.monotonic() - began) < seconds:
        asked += await roles.ask_many(round(now * per_second) - len(asked), **request)
        await asyncio.sleep(0.01)
    return asked


async def test_three_times_too_much_is_refused_at_once_and_the_rest_is_answered(roles: Roles) -> None:
    """Row 55."""
    roles.manager(BULLPEN_MANAGER__MAX_WAITING="20")
    roles.worker("w-1", **SMALL)
    await roles.ready()
    memory = psutil.Process(roles.pid("m-1")).memory_info
    await rush(roles, 0.7, 3 * CAPACITY)
    before = memory().rss
    asked = await roles.answered(await rush(roles, 2, 3 * CAPACITY))
    refused = [question for question in asked if question.code]
    assert {question.code for question in refused} == {"overloaded"}
    assert all(question.finals[0]["error"]["retry_after_ms"] > 0 for question in refused)
    assert max(question.took for question in refused) < 3, "told late"
    answered = [question for question in asked if not question.code]
    assert len(answered) > 0.2 * 2 * CAPACITY  # of a worker that has a processor when it needs one, 0.8
    assert max(question.took for question in answered) < 10, "the waiting room is longer than it should be"
    assert memory().rss - before < 16 << 20


async def test_under_too_much_batch_work_interactive_questions_are_served(roles: Roles) -> None:
    """Row 55. Half of what fits is interactive, and more than fits is batch work: that is what has to wait."""
    roles.manager(BULLPEN_MANAGER__MAX_WAITING="20")
    roles.worker("w-1", **SMALL)
    await roles.ready()
    batch = asyncio.create_task(rush(roles, 2.5, 3 * CAPACITY, priority="batch"))
    await asyncio.sleep(1)
    interactive = await rush(roles, 1, CAPACITY / 2)
    assert unwell(await roles.answered(interactive)) == []
    everything = await roles.answered(await batch)
    assert {question.code for question in everything} == {"", "overloaded"}
