"""`bullpen` as a process of its own: exit codes, what stands on the screen, what it does to the mesh."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bullpen.cli.show import UNKNOWN
from bus import Message
from bus.jetstream import StreamSpec, ensure_stream
from bus.service import Service, serve_info
from client import watch
from contracts import AttemptRecord, BullpenError, ControlReply, ErrorCode, ResponseRecord, Resumed, new_id, utc_now
from contracts import subjects as s
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.cli import Terminal, bullpen, finish, invoke, start
from tests.fake_manager import FakeManager, heartbeat
from tests.mesh import SmallMesh
from tests.support import eventually

NOWHERE = "nats://127.0.0.1:1"


@pytest.fixture
async def manager(nats_server: str) -> AsyncIterator[FakeManager]:
    manager = await FakeManager.start(nats_server)
    yield manager
    await manager.bus.close()


# Starting


def test_help_comes_without_importing_what_commands_need() -> None:
    heavy = {"nats", "pydantic", "structlog", "asyncpg", "aiohttp", "uvloop", "config", "contracts", "bus", "client"}
    code = f"""
import sys
from bullpen.cli import app
app(["--help"], standalone_mode=False)
assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert told.returncode == 0, told.stderr


def test_completion_can_be_shown() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "bullpen"],
        env={"_BULLPEN_COMPLETE": "complete_bash", "COMP_WORDS": "bullpen wor", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert told.stdout.split() == ["workers", "worker"], told.stderr


# ask


async def test_ask_prints_the_answer_and_nothing_else_in_a_pipe(manager: FakeManager, nats_server: str) -> None:
    told = await bullpen("ask", "Where?", "--model", "m", "--temperature", "0", env={"NATS_URL": nats_server})
    assert (told.code, told.out, told.err) == (0, "Paris\n", "")
    request = manager.requests[0][1]
    assert (request["prompt"], request["model"], request["temperature"]) == ("Where?", "m", 0)
    assert "stream" not in request


async def test_ask_reads_the_question_from_standard_input(manager: FakeManager, nats_server: str) -> None:
    told = await bullpen("ask", "--system", "brief", stdin="déjà vu?\n".encode(), env={"NATS_URL": nats_server})
    assert told.code == 0
    request = manager.requests[0][1]
    assert (request["prompt"], request["context"]) == ("déjà vu?\n", {"system": "brief"})


async def test_ask_prints_the_whole_response_as_json(manager: FakeManager, nats_server: str) -> None:
    told = await bullpen("ask", "--json", "--task-id", "mine", "Where?", env={"NATS_URL": nats_server})
    assert told.code == 0
    answer = told.json()
    assert (answer["schema"], answer["task_id"], answer["output"]) == ("bullpen.response.v1", "mine", "Paris")
    assert answer["cost_usd"] is None


async def test_an_error_reply_is_told_in_a_line_with_what_to_do_and_exits_1(
    manager: FakeManager, nats_server: str
) -> None:
    error = BullpenError(ErrorCode.NO_SUCH_MODEL, "nobody serves gpt; served are: m", field="model")
    manager.script = lambda message, task_id: manager.fail(message, task_id, error)
    told = await bullpen("ask", "hi", env={"NATS_URL": nats_server})
    assert (told.code, told.out) == (1, "")
    assert told.err.splitlines() == [
        "error: no_such_model: nobody serves gpt; served are: m",
        "next: `bullpen models` shows what is served",
    ]
    as_json = await bullpen("ask", "hi", "--json", env={"NATS_URL": nats_server})
    assert as_json.code == 1
    assert as_json.json()["error"]["field"] == "model"
    assert as_json.json()["attempts"][0]["worker_id"] == "w-1"


async def test_ask_exits_1_without_a_manager_and_3_without_a_mesh(
    nats_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WITHOUT_MANAGER", 0.5)
    nobody, no_mesh = (
        await bullpen("ask", "hi", env={"NATS_URL": nats_server}),
        await bullpen("ask", "hi", "--json", env={"NATS_URL": NOWHERE}),
    )
    assert nobody.code == 1
    assert "`bullpen up`" in nobody.err
    assert len(nobody.err.splitlines()) == 1, "it says what to do already"
    assert (no_mesh.code, no_mesh.out) == (3, "")
    assert "no NATS server answers at 127.0.0.1:1" in no_mesh.err
    assert "`bullpen up`" in no_mesh.err
    assert len(no_mesh.err.splitlines()) == 1


async def test_a_password_file_that_is_not_there_is_a_usage_error(nats_server: str) -> None:
    told = await bullpen("ask", "hi", env={"NATS_URL": nats_server, "NATS_PASSWORD_FILE": "/nonexistent"})
    assert told.code == 2
    assert "NATS_PASSWORD_FILE" in told.err


async def test_on_a_terminal_the_answer_is_shown_as_it_is_made(manager: FakeManager, nats_server: str) -> None:
    go_on = asyncio.Event()

    async def slowly(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Pa", "r\x1b[2Ji")
        await go_on.wait()
        await manager.chunks(message, task_id, "s", first=2)
        await manager.final(message, task_id, cost_usd=Decimal("0.00012"), simulated=True)

    manager.script = slowly
    async with Terminal.run("ask", "Where?", NATS_URL=nats_server) as terminal:
        await eventually(lambda: terminal.screen == "Par[2Ji")
        assert "\x1b[2J" not in terminal.raw, "the answer must not drive the terminal"
        go_on.set()
        assert await terminal.end() == 0
        answer, footer = terminal.screen.splitlines()
        assert answer == "Par[2Jis"
        assert footer == "m (simulated) · w-1 · 1 + 2 tokens · $0.00012 · confidence 0.50 (prior) · 4 ms"


async def test_a_worker_that_starts_over_is_told(manager: FakeManager, nats_server: str) -> None:
    async def resume(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Lon")
        resumed = Resumed(task_id=task_id, seq=1, from_="w-0", to="w-1", mode="restarted")
        await manager.bus.publish(message.reply, resumed.to_bytes())
        await manager.chunks(message, task_id, "Paris", first=2)
        await manager.final(message, task_id)

    manager.script = resume
    async with Terminal.run("ask", "Where?", NATS_URL=nats_server) as terminal:
        assert await terminal.end() == 0
        assert terminal.screen.splitlines()[:3] == ["Lon", "w-0 is gone; w-1 starts over:", "Paris"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_ctrl_c_stops_the_work_and_exits_130(
    manager: FakeManager, nats_server: str, arguments: tuple[str, ...]
) -> None:
    async def begin(message: Message, task_id: str) -> None:
        if not arguments:
            await manager.chunks(message, task_id, "Once upon")
        await manager.silence(message, task_id)

    manager.script = begin
    async with Terminal.run("ask", "hi", "--task-id", "mine", *arguments, NATS_URL=nats_server) as terminal:
        await eventually(lambda: manager.requests and (arguments or "Once upon" in terminal.screen))
        terminal.interrupt()
        assert await terminal.end() == 130
        await eventually(lambda: manager.cancelled == ["mine"])
        assert terminal.screen == ("" if arguments else "Once upon\n")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_work_at_the_worker_and_is_booked(nats_server: str, sign: signal.Signals) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.manager()
        await mesh.worker("w-1", latency_ms={"fixed": 60_000})
        booked: list[dict[str, Any]] = []
        await mesh.bus.subscribe_inline(s.TELEMETRY_ATTEMPT, lambda message: booked.append(json.loads(message.data)))
        asking = await start("ask", "hi", "--task-id", "mine", NATS_URL=nats_server)
        await eventually(lambda: mesh.beats["w-1"].inflight == 1)
        told = await finish(asking, sign=sign)
        assert (told.code, told.out, told.err) == (130, "", "")
        await eventually(lambda: mesh.beats["w-1"].inflight == 0)
        await eventually(lambda: [(a["task_id"], a["outcome"]) for a in booked] == [("mine", "cancelled")])


# The workers of the mesh


class Workers:
    """Heartbeats of workers that are not there."""

    def __init__(self, manager: FakeManager) -> None:
        self._bus = manager.bus
        self.told: list[str] = []
        self.beats = [
            heartbeat("local-1", inflight=2, tokens_per_second=41.5),
            heartbeat("local-2", state="degraded", reason="no key: set SOME_KEY\x1b[2J"),
        ]
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            for beat in self.beats:
                await self._bus.publish(s.WORKER_HEARTBEAT, beat.to_bytes())
            await asyncio.sleep(0.2)

    async def listen(self) -> None:
        await serve_info(self._bus, Service("bullpen-worker", "local-1", "1.0.0", "fake"))
        await self._bus.subscribe(s.worker_control("local-1"), self._obey)
        await self._bus.flush(30)

    async def _obey(self, message: Message) -> None:
        op = json.loads(message.data)["op"]
        self.told.append(op)
        state = {"drain": "draining", "resume": "ready", "status": self.beats[0].state}[op]
        beat = heartbeat("local-1", state=state, host=self.beats[0].host)
        await self._bus.publish(message.reply, ControlReply(ok=True, worker_id="local-1", heartbeat=beat).to_bytes())

    async def stop(self) -> None:
        self._beating.cancel()
        await asyncio.wait({self._beating})


@pytest.fixture
async def workers(manager: FakeManager) -> AsyncIterator[Workers]:
    workers = Workers(manager)
    await workers.listen()
    yield workers
    await workers.stop()


async def test_workers_and_models_are_listed(workers: Workers, nats_server: str) -> None:
    plain, as_json, models = (
        await bullpen("workers", env={"NATS_URL": nats_server}),
        await bullpen("workers", "--json", env={"NATS_URL": nats_server}),
        await bullpen("models", "--json", env={"NATS_URL": nats_server}),
    )
    header, first, second = plain.out.splitlines()
    assert header.split() == ["WORKER", "BACKEND", "MODELS", "STATE", "BUSY", "WAIT", "TOK/S", "MEMORY"]
    assert first.split() == ["local-1", "b", "m", "ready", "2/4", "0", "42", "0", "B"]
    assert "degraded: no key: set SOME_KEY[2J" in second
    assert "\x1b" not in plain.out
    assert [(w["worker_id"], w["state"]) for w in as_json.json()] == [("local-1", "ready"), ("local-2", "degraded")]
    assert [(m["model_id"], m["workers"], m["ready"]) for m in models.json()] == [("m", ["local-1", "local-2"], 1)]


async def test_a_narrow_terminal_breaks_cells_and_loses_nothing(workers: Workers, nats_server: str) -> None:
    name = "a-worker-with-a-rather-long-name"
    workers.beats = [heartbeat(name, state="starting", reason="loading: 41 % of a large file")]
    async with Terminal.run("workers", columns=60, NATS_URL=nats_server) as terminal:
        assert await terminal.end() == 0
        assert all(len(line) <= 60 for line in terminal.screen.splitlines())
        header, *rows = terminal.screen.splitlines()
        shown = "".join(row[: header.index("BACKEND")].strip() for row in rows)
        assert shown.startswith(name)


async def test_an_empty_mesh_is_an_empty_list(nats_server: str) -> None:
    told = await bullpen("models", "--json", env={"NATS_URL": nats_server})
    assert (told.code, told.json(), told.err) == (0, [], "")


async def test_watching_follows_every_change_until_ctrl_c(workers: Workers, nats_server: str) -> None:
    async with Terminal.run("workers", "--watch", NATS_URL=nats_server) as terminal:
        await eventually(lambda: "local-1" in terminal.screen)
        workers.beats = [heartbeat("newcomer", seq=2), heartbeat("local-1", seq=2, state="draining")]
        await eventually(lambda: "newcomer" in terminal.screen and "draining" in terminal.screen)
        await eventually(lambda: "silent for" in terminal.screen)  # local-2 says nothing any more
        terminal.interrupt()
        assert await terminal.end() == 130
        assert "Traceback" not in terminal.screen


async def test_top_shows_what_the_mesh_is_doing_until_ctrl_c(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        await mesh.manager("m-1")
        assert "output" in await mesh.ask()
        once = await bullpen("top", "--json", env={"NATS_URL": nats_server})
        told = once.json()
        assert [(one["metrics"]["source"], one["metrics"]["answered"]) for one in told["managers"]] == [("m-1", 1)]
        assert [(one["model_id"], one["answered"]) for one in told["models"]] == [("simulated", 1)]
        assert [beat["worker_id"] for beat in told["workers"]] == ["w-1"]
        async with Terminal.run("top", NATS_URL=nats_server) as terminal:
            await eventually(lambda: all(word in terminal.screen for word in ("m-1", "w-1", "simulated")))
            terminal.interrupt()
            assert await terminal.end() == 130
            assert "Traceback" not in terminal.screen


async def test_drain_and_resume(workers: Workers, nats_server: str) -> None:
    drained = await bullpen("drain", "local-1", env={"NATS_URL": nats_server})
    assert (drained.code, drained.out) == (0, "local-1 is draining, 0 running\n")
    resumed = await bullpen("resume", "local-1", "--json", env={"NATS_URL": nats_server})
    assert (resumed.code, resumed.json()["heartbeat"]["state"]) == (0, "ready")
    assert workers.told == ["drain", "resume"]
    nobody, wrong = (
        await bullpen("drain", "nobody", env={"NATS_URL": nats_server}),
        await bullpen("drain", "a b", env={"NATS_URL": nats_server}),
    )
    assert (nobody.code, wrong.code) == (1, 1)
    assert "no worker and no Manager nobody is running; running are: fake, local-1" in nobody.err


async def test_budgets_are_listed(manager: FakeManager, nats_server: str) -> None:
    none = await bullpen("budgets", "--json", env={"NATS_URL": nats_server})
    assert (none.code, none.out) == (0, "[]\n")
    day = {"per": "day", "window": "2026-11-23", "ends_at": "2026-11-24T00:00:00Z"}
    ever = {"tenant": None, "model_id": "m", "per": "total", "window": "total", "ends_at": None, "limit_usd": 3}
    manager.budgets = [
        {**ever, "spent_usd": None},
        {"tenant": None, "model_id": None, **day, "limit_usd": 1, "spent_usd": 0.25},
        {"tenant": "acme", "model_id": None, **day, "limit_usd": 0.5, "spent_usd": 0.45},
    ]
    plain = await bullpen("budgets", env={"NATS_URL": nats_server})
    assert [line.split() for line in plain.out.splitlines()] == [
        ["TENANT", "MODEL", "PER", "SPENT", "LIMIT", "SHARE", "UNTIL"],
        ["acme", "any", "day", "$0.45", "$0.50", "90%", "2026-11-24", "00:00", "UTC"],
        ["all", "together", "any", "day", "$0.25", "$1.00", "25%", "2026-11-24", "00:00", "UTC"],
        ["all", "together", "m", "total", UNKNOWN, "$3.00", UNKNOWN, UNKNOWN],
    ]
    as_json = json.loads((await bullpen("budgets", "--json", env={"NATS_URL": nats_server})).out)
    assert [budget["spent_usd"] for budget in as_json] == [0.45, 0.25, None]


async def test_budgets_need_a_manager(nats_server: str) -> None:
    told = await bullpen("budgets", env={"NATS_URL": nats_server})
    assert told.code == 1
    assert "no Manager is running" in told.err


async def test_a_manager_is_drained_and_resumed_like_a_worker(manager: FakeManager, nats_server: str) -> None:
    drained = await bullpen("drain", "fake", env={"NATS_URL": nats_server})
    assert (drained.code, drained.out) == (0, "fake is draining, 0 under way\n")
    _, found = await findings(NATS_URL=nats_server)
    assert found["Managers"] == ("fail", "see each of them below")
    assert found["Manager fake"] == ("warn", "bullpen resume fake")
    resumed = await bullpen("resume", "fake", "--json", env={"NATS_URL": nats_server})
    assert (resumed.code, resumed.json()["state"]) == (0, "ready")
    _, found = await findings(NATS_URL=nats_server)
    assert found["Managers"] == ("ok", "")


async def test_drain_waits_until_nothing_is_left_or_it_has_left(manager: FakeManager, nats_server: str) -> None:
    manager.has = ["one", "two"]
    for _ in range(2):
        draining = asyncio.create_task(bullpen("drain", "fake", "--wait", env={"NATS_URL": nats_server}))
        await eventually(lambda: manager.state == "draining")
        await asyncio.sleep(0.5)
        assert not draining.done()
        if "two" in manager.has:
            manager.has.clear()
            assert (await draining).out == "fake is draining, 0 under way\n"
            manager.has, manager.state = ["three"], "ready"
    await manager.bus.close()
    assert (await draining).out == "fake has left\n"


async def test_a_restart_needs_a_mesh(tmp_path: Path) -> None:
    told = await bullpen("restart", "--data-dir", str(tmp_path))
    assert told.code == 1
    assert "no mesh runs on" in told.err


# Health and roles


async def test_health_asks_the_role_on_this_host(workers: Workers, nats_server: str) -> None:
    told = (
        await bullpen("health", "manager", env={"NATS_URL": nats_server}),
        await bullpen("health", "manager", "--id", "other", env={"NATS_URL": nats_server}),
        await bullpen("health", "worker", "--id", "local-1", env={"NATS_URL": nats_server}),
        await bullpen("health", "telemetry", env={"NATS_URL": nats_server}),
        await bullpen("health", "manager", env={"NATS_URL": NOWHERE}),
    )
    assert [result.code for result in told] == [0, 1, 0, 1, 1]
    workers.beats[0] = heartbeat("local-1", state="degraded")
    assert (await bullpen("health", "worker", "--id", "local-1", env={"NATS_URL": nats_server})).code == 1
    assert (await bullpen("health", "worker", "--id", "local-1", "--alive", env={"NATS_URL": nats_server})).code == 0


async def test_a_worker_that_cannot_serve_is_alive_all_the_same(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        await mesh.bus.request(s.worker_control("w-1"), b'{"op":"drain"}', timeout=2)
        health = [await bullpen("health", "worker", *more, env={"NATS_URL": nats_server}) for more in ((), ["--alive"])]
        assert [told.code for told in health] == [1, 0]
        await mesh.bus.request(s.worker_control("w-1"), b'{"op":"resume"}', timeout=2)
        assert (await bullpen("health", "worker", env={"NATS_URL": nats_server})).code == 0


async def test_roles_in_the_foreground_serve_until_they_are_told_to_stop(
    manager: FakeManager, nats_server: str
) -> None:
    await ensure_stream(manager.bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))  # for what they report
    await manager.bus.close()
    real_manager = await start("manager", "--id", "m-7", NATS_URL=nats_server)
    worker = await start("worker", "simulated", "--id", "sim-1", NATS_URL=nats_server)
    try:
        await healthy("worker", nats_server)
        await healthy("manager", nats_server)
        answer = (await bullpen("ask", "--json", "hi", env={"NATS_URL": nats_server})).json()
        assert (answer["worker_id"], answer["simulated"]) == ("sim-1", True)
    finally:
        manager_told = await finish(real_manager, sign=signal.SIGINT)
        worker_told = await finish(worker, sign=signal.SIGTERM)
    assert (manager_told.code, worker_told.code) == (0, 0)
    events = [json.loads(line) for line in worker_told.err.splitlines()]
    assert [e["state"] for e in events if e["event"] == "worker_state"] == ["ready", "draining", "stopped"]


async def test_the_second_sigterm_breaks_off_what_runs_and_still_leaves_in_order(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        slow = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 60000}'}
        worker = await start("worker", "simulated", "--id", "sim-1", NATS_URL=nats_server, **slow)
        try:
            await eventually(lambda: "sim-1" in mesh.beats and mesh.beats["sim-1"].state == "ready")
            asking = asyncio.create_task(mesh.ask("infer.simulated", timeout=30))
            await eventually(lambda: mesh.beats["sim-1"].inflight == 1)
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: mesh.beats["sim-1"].state == "draining")
            assert not asking.done()
        finally:
            told = await finish(worker, sign=signal.SIGTERM)
        assert (await asking)["error"]["message"] == "sim-1 is leaving"
        await eventually(lambda: mesh.beats["sim-1"].state == "stopped")
        assert told.code == 0


async def healthy(role: str, url: str) -> None:
    async def check() -> bool:
        return (await bullpen("health", role, env={"NATS_URL": url})).code == 0

    await eventually(check)


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (("worker", "nope"), {}, "there is no backend 'nope'"),
        (("worker", "simulated", "--id", "a b"), {}, "--id 'a b'"),
        (("worker", "simulated", "--config", "/nonexistent.yaml"), {}, "cannot be read"),
        (("worker", "simulated"), {"BULLPEN_SIMULATED__ERROR_RATE": "2"}, "BULLPEN_SIMULATED__ERROR_RATE"),
        (("worker", "simulated"), {"BULLPEN_LOG": "loud"}, "BULLPEN_LOG: 'loud'"),
        (("manager",), {"BULLPEN_MANAGER__NONSENSE": "1"}, "there is no such setting"),
        (("telemetry",), {}, "set DATABASE_URL"),
    ],
)
def test_a_role_that_cannot_run_says_why_in_one_line(
    arguments: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    told = invoke(*arguments, env={"NATS_URL": NOWHERE, **env})
    assert (told.code, told.out) == (1, "")
    [line] = told.err.splitlines()
    assert line.startswith(f"bullpen {arguments[0]}: ")
    assert says in line


async def test_a_role_whose_connection_is_closed_for_good_exits_78() -> None:
    """The server says something that nats-py takes as final; the supervisor is to start the role again."""

    async def fatal_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
            if line.startswith(b"SUB $SRV.STATS"):
                writer.write(b"-ERR 'Something Final'\r\n")
        writer.close()

    server = await asyncio.start_server(fatal_server, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    told = await finish(await start("manager", NATS_URL=f"nats://127.0.0.1:{port}"))
    server.close()
    assert told.code == 78, told.err
    assert told.err.splitlines()[-1].startswith("bullpen manager: ")


# The books


def booked(**changes: Any) -> bytes:
    told: dict[str, Any] = {
        "request_id": new_id(),
        "task_id": "t",
        "created_at": utc_now(),
        "status": "ok",
        "model_id": "m",
        "backend": "b",
        "worker_id": "w-1",
        "tokens_used": 10,
        "cost_usd": Decimal("0.0012"),
        "duration_ms": 53.2,
        "attempts": 1,
        "prompt": "Where is\n it?",
        "output": "Paris",
        **changes,
    }
    return ResponseRecord(**told).to_bytes()


def attempt(**changes: Any) -> bytes:
    told: dict[str, Any] = {
        "request_id": new_id(),
        "attempt": 1,
        "task_id": "t",
        "created_at": utc_now(),
        "worker_id": "w-1",
        "backend": "b",
        "model_id": "m",
        "outcome": "ok",
        "duration_ms": 50.0,
        "cost_usd": Decimal("0.0012"),
        **changes,
    }
    return AttemptRecord(**told).to_bytes()


@pytest.fixture
async def books(database_url: str) -> str:
    store = Store(database_url, 5)
    await migrate(store)
    rows = [
        booked(created_at=utc_now() - timedelta(days=3), model_id="old"),
        booked(created_at=utc_now() - timedelta(minutes=5), cost_usd=None, metadata={"tenant": "acme"}),
        booked(created_at=utc_now() - timedelta(minutes=1)),
        booked(
            status="error", error_code="overloaded", error_message="all full", model_id=None, output=None, cost_usd=0
        ),
    ]
    tries = [attempt(), attempt(cost_usd=None)]
    assert await store.save({"responses": rows, "attempts": tries}) == len(rows) + len(tries)
    await store.close()
    return database_url


async def test_responses_come_from_the_books(books: str) -> None:
    plain, recent, failed, limited, by_model, by_tenant = (
        await bullpen("responses", env={"DATABASE_URL": books}),
        await bullpen("responses", "--since", "1h", "--json", env={"DATABASE_URL": books}),
        await bullpen("responses", "--failed", "--json", env={"DATABASE_URL": books}),
        await bullpen("responses", "--limit", "1", env={"DATABASE_URL": books}),
        await bullpen("responses", "--model", "old", "--json", env={"DATABASE_URL": books}),
        await bullpen("responses", "--tenant", "acme", "--model", "m", "--json", env={"DATABASE_URL": books}),
    )
    lines = plain.out.splitlines()
    assert len(lines) == 5
    assert "Where is it? → overloaded: all full" in lines[1]
    assert "1m ago" in lines[2]
    assert "$0.0012" in lines[2]
    assert "Where is it? → Paris" in lines[2]
    assert len(recent.json()) == 3
    assert [row["cost_usd"] for row in recent.json()] == [0.0, 0.0012, None]
    assert [row["error_code"] for row in failed.json()] == ["overloaded"]
    assert len(limited.out.splitlines()) == 2
    assert [row["model_id"] for row in by_model.json()] == ["old"]
    assert [row["cost_usd"] for row in by_tenant.json()] == [None]


async def test_cost_is_added_up_and_the_unknown_is_told(books: str) -> None:
    by_model, by_tenant, by_day = (
        await bullpen("cost", env={"DATABASE_URL": books}),
        await bullpen("cost", "--by", "tenant", "--json", env={"DATABASE_URL": books}),
        await bullpen("cost", "--by", "day", "--since", "1d", "--json", env={"DATABASE_URL": books}),
    )
    assert "MODEL" in by_model.out
    assert "$0.0012" in by_model.out
    assert "1 requests" in by_model.out
    assert by_model.out.splitlines()[-1].split() == ["in", "all", "0", "$0.0012"]
    tenants = {row["key"]: (row["requests"], row["cost_usd"], row["unpriced"]) for row in by_tenant.json()}
    assert tenants == {"acme": (1, None, 1), "": (3, 0.0024, 0)}
    assert sum(row["requests"] for row in by_day.json()) == 3


async def test_books_that_are_off_or_away_exit_3_with_what_to_do() -> None:
    off, away = (
        await bullpen("responses"),
        await bullpen("cost", env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}),
    )
    assert (off.code, away.code) == (3, 3)
    assert "set DATABASE_URL" in off.err
    assert "cannot be read" in away.err
    assert "`bullpen doctor`" in away.err
    assert "Traceback" not in away.err


# prices


def test_our_own_configs_agree_with_the_table() -> None:
    told = invoke("prices", "--check", "--json")
    assert told.code == 0, told.err
    assert {row["origin"] for row in told.json()["prices"] if row["where"] != "simulated"} == {"config"}


# doctor


async def findings(**env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    told = await bullpen("doctor", "--json", env=env)
    return told.code, {finding["part"]: (finding["state"], finding["cure"]) for finding in told.json()}


async def test_doctor_where_nothing_runs_says_what_to_do() -> None:
    code, found = await findings(NATS_URL=NOWHERE)
    assert code == 1
    assert found["Python"][0] == "ok"
    assert found["NATS"][0] == "fail"
    assert found["Postgres"] == ("warn", "set DATABASE_URL, or start the mesh with `bullpen up`")
    assert found["backend simulated"][0] == "ok"
    assert "Managers" not in found, "one cause, one finding"
    for part, (state, cure) in found.items():
        assert state == "ok" or cure, f"{part} has no cure"
    plain = await bullpen("doctor", env={"NATS_URL": NOWHERE})
    assert plain.code == 1
    assert "`bullpen up`" in plain.out


async def test_doctor_where_only_nats_runs(nats_server: str) -> None:
    code, found = await findings(NATS_URL=nats_server, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert code == 1
    assert {part: found[part][0] for part in ("NATS", "JetStream", "system events")} == {
        "NATS": "ok",
        "JetStream": "ok",
        "system events": "ok",
    }
    assert found["Managers"] == ("fail", "start the mesh with `bullpen up`, or one with `bullpen manager`")
    assert found["workers"] == ("fail", "start one: `bullpen worker NAME`, or `bullpen up`")
    assert found["telemetry"] == ("fail", "start one: `bullpen telemetry`")
    assert found["books"][0] == "warn"
    assert found["Postgres"][0] == "fail"


async def test_doctor_of_a_mesh_that_is_well_but_for_a_worker(workers: Workers, nats_server: str, books: str) -> None:
    bus = workers._bus
    await serve_info(bus, Service("bullpen-telemetry", "t-1", "1.0.0", "fake"))
    await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
    code, found = await findings(NATS_URL=nats_server, DATABASE_URL=books)
    assert code == 0, found
    assert found["workers"][0] == "ok"
    assert found["worker local-2"][0] == "warn"
    assert found["Postgres"][0] == "ok"
    assert found["books"][0] == "warn", "no consumer yet"
