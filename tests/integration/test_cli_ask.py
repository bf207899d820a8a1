"""`bullpen ask`: what stands on the screen, exit codes, and what becomes of the work when it is broken off."""

import asyncio
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bus import Message
from client import watch
from contracts import BullpenError, ErrorCode, Resumed
from contracts import subjects as s
from tests.books_stream import rows_in
from tests.cli import ROOT, WITHIN, Terminal, bullpen, command, environment, finish, start
from tests.fake_manager import FakeManager
from tests.mesh import SmallMesh
from tests.support import eventually

NOWHERE = "nats://127.0.0.1:1"

pytestmark = pytest.mark.usefixtures("patience")


def test_help_comes_without_importing_what_commands_need() -> None:
    heavy = {"nats", "pydantic", "structlog", "asyncpg", "aiohttp", "uvloop", "config", "contracts", "bus", "client"}
    code = f"""
import sys
from bullpen.cli import app
app(["--help"], standalone_mode=False)
assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stderr


def test_completion_can_be_shown() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "bullpen"],
        env={"_BULLPEN_COMPLETE": "complete_bash", "COMP_WORDS": "bullpen wor", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert told.stdout.split() == ["workers", "worker"], told.stderr


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


async def test_a_pipe_stands_after_the_question_and_after_files(
    manager: FakeManager, nats_server: str, tmp_path: Path
) -> None:
    notes, more = tmp_path / "notes.md", tmp_path / "more.md"
    notes.write_text("from notes\n")
    more.write_text("more\n")
    env = {"NATS_URL": nats_server}
    told = await bullpen("ask", "-m", "m", "-s", "brief", "Summarize:", stdin=b"from the pipe\n", env=env)
    assert told.code == 0, told.err
    assert (await bullpen("ask", "Summarize:", "-f", str(notes), stdin=b"piped", env=env)).code == 0
    assert (await bullpen("ask", "Compare:", "-f", str(notes), "-f", str(more), env=env)).code == 0
    asked = [request for _, request in manager.requests]
    assert asked[0]["prompt"] == "Summarize:\n\nfrom the pipe\n"
    assert (asked[0]["model"], asked[0]["context"]) == ("m", {"system": "brief"})
    assert asked[1]["prompt"] == "Summarize:\n\nfrom notes\n\npiped"
    assert asked[2]["prompt"] == f"Compare:\n\n{notes}:\n\nfrom notes\n\n{more}:\n\nmore\n"


async def test_lines_that_a_loop_still_reads_are_not_taken_for_a_prompt(
    manager: FakeManager, nats_server: str, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\n")
    loop = 'while read -r line; do "$@" "$line"; done < ' + str(lines)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", loop, "sh", *command("ask"), cwd=ROOT, env=environment(NATS_URL=nats_server), stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), WITHIN)
    assert out == b"Paris\nParis\n"
    assert [request["prompt"] for _, request in manager.requests] == ["one", "two"]


async def test_a_pipe_that_stays_silent_beside_a_question_is_told(manager: FakeManager, nats_server: str) -> None:
    asking = await start("ask", "Summarize:", NATS_URL=nats_server)
    assert asking.stderr is not None
    assert b"waiting for standard input" in await asyncio.wait_for(asking.stderr.readline(), WITHIN)
    assert (await finish(asking, b"late")).out == "Paris\n"
    assert manager.requests[0][1]["prompt"] == "Summarize:\n\nlate"


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
        await mesh.bus.subscribe_inline(s.TELEMETRY_ATTEMPT, lambda message: booked.extend(rows_in(message)))
        asking = await start("ask", "hi", "--task-id", "mine", NATS_URL=nats_server)
        assert asking.stdin is not None
        asking.stdin.close()
        await eventually(lambda: mesh.beats["w-1"].inflight == 1)
        told = await finish(asking, sign=sign)
        assert (told.code, told.out, told.err) == (130, "", "")
        await eventually(lambda: mesh.beats["w-1"].inflight == 0)
        await eventually(lambda: [(a["task_id"], a["outcome"]) for a in booked] == [("mine", "cancelled")])
