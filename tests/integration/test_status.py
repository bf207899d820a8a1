"""A role's own word on its own machine, asked over a socket as containers and orchestrators ask it."""

import asyncio
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from bullpen import health_check
from bullpen.supervision import status_server
from bullpen.supervision.status_server import status_served
from bus.role_status import RoleStatus
from tests.books import Books
from tests.cli import ROOT
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

ANYWHERE = {"BULLPEN_STATUS": "127.0.0.1:0"}
CHECK = [sys.executable, "-IS", str(ROOT / "bullpen" / "health_check.py")]


async def asked(where: str, path: str = "/readyz", *more: str) -> subprocess.CompletedProcess[str]:
    """The check of the containers, as a process of its own."""
    env = {"BULLPEN_STATUS": where}
    return await asyncio.to_thread(
        subprocess.run, [*CHECK, path, *more], env=env, capture_output=True, text=True, check=False
    )


async def hears(where: str, told: tuple[int, str]) -> bool:
    """For `eventually`: a check that hears nothing in time, when this process stands still, asks again."""
    said = await asked(where)
    return (said.returncode, said.stdout) == told


async def healthy(where: object) -> bool:
    return (await asked(str(where), "/healthz")).returncode == 0


async def test_the_check_of_the_containers_hears_what_the_role_says() -> None:
    status = RoleStatus()
    async with status_served("manager", status, ANYWHERE) as where:
        assert where is not None
        await eventually(lambda: hears(where, (1, "manager: it starts\n")))
        await eventually(lambda: healthy(where))
        status.why_not = str
        await eventually(lambda: hears(where, (0, "manager: serves\n")))
    gone = await asked(where)
    assert gone.returncode == 1
    assert gone.stdout.startswith(f"nothing answers on BULLPEN_STATUS={where}: ")
    assert gone.stderr == ""


@pytest.mark.parametrize("where", ["", "nowhere", "127.0.0.1:99999", "127.0.0.1:x", "256.0.0.1:1"])
async def test_a_check_that_cannot_ask_says_which_variable_is_wrong(where: str) -> None:
    told = await asked(where)
    assert told.returncode > 0
    assert "BULLPEN_STATUS" in told.stdout
    assert told.stderr == ""


async def test_a_check_imports_nothing_of_bullpen_and_hardly_anything_else() -> None:
    told = await asyncio.to_thread(
        subprocess.run, [CHECK[0], "-X", "importtime", *CHECK[1:]], env={}, capture_output=True, text=True, check=False
    )
    imported = set(re.findall(r"\| +([\w.]+)$", told.stderr, re.MULTILINE))
    assert "_socket" in imported
    assert imported & {"bullpen", "bullpen.cli", "socket", "enum", "re", "pathlib", "asyncio"} == set()


async def test_the_command_asks_the_same_without_importing_the_application() -> None:
    async with status_served("worker", RoleStatus(str), ANYWHERE) as where:
        command = [sys.executable, "-X", "importtime", "-m", "bullpen", "health", "worker"]
        run = partial(subprocess.run, env={"BULLPEN_STATUS": str(where)}, cwd=ROOT, capture_output=True, text=True)

        async def served() -> Any:
            told = await asyncio.to_thread(run, command)
            return told if (told.returncode, told.stdout) == (0, "worker: serves\n") else None

        told = await eventually(served)
    assert not re.search(r"\| +(typer|bullpen\.cli|nats|asyncio)$", told.stderr, re.MULTILINE)


async def test_a_loop_that_stands_still_answers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "WITHIN", 0.1)
    async with status_served("manager", RoleStatus(str), ANYWHERE) as where:
        with ThreadPoolExecutor() as another:
            asking = another.submit(health_check.check, str(where), "/healthz")
            assert asking.result() == health_check.UNHEALTHY  # until then this loop stands still
        await eventually(lambda: healthy(where))  # it turns again


@pytest.mark.parametrize(
    ("request_line", "answer"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /readyz?verbose=1 HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 "),
        (b"GET /secrets HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
        (b"POST /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 405 "),
        (b"\r\n\r\n", b"HTTP/1.1 405 "),
        (b"\xff\xfe\x00 /\r\n\r\n", b"HTTP/1.1 405 "),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.0\r\n\r\n", b""),
        (b"GET /hea", b""),
    ],
)
async def test_whatever_is_sent_there_harms_nothing(
    request_line: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_server, "REQUEST_WITHIN", 30.0)
    async with status_served("manager", RoleStatus(str), ANYWHERE) as where:
        host, _, port = str(where).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_line)
        writer.write_eof()
        try:
            told = await reader.read()
        except ConnectionResetError:  # closed before it had read everything
            told = b""
        await _closed(writer)
        assert told.startswith(answer)
        assert bool(told) == bool(answer)
        await eventually(lambda: healthy(where))


async def test_many_who_connect_and_say_nothing_do_not_keep_a_check_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server, "REQUEST_WITHIN", 0.2)
    async with status_served("manager", RoleStatus(str), ANYWHERE) as where:
        host, _, port = str(where).rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        await eventually(lambda: healthy(where))
        for _, writer in silent:
            await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_an_address_that_is_taken_stops_no_role() -> None:
    async with status_served("manager", RoleStatus(str), ANYWHERE) as where:
        with capture_logs() as logs:
            async with status_served("worker", RoleStatus(str), {"BULLPEN_STATUS": str(where)}) as second:
                assert second is None
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("status_not_shown", "error")]


def shown(status: RoleStatus, *names: str) -> list[float]:
    figures = {figure.name: figure.value for figure in status.figures()}
    return [figures[name] for name in names]


async def test_a_manager_and_a_worker_say_why_they_serve_nobody(nats: NatsServer) -> None:
    async with SmallMesh(nats.url) as mesh:
        await mesh.worker("w-1")
        await mesh.manager()
        manager, worker = mesh.statuses["m-1"], mesh.statuses["w-1"]
        assert (manager.why_not(), worker.why_not()) == ("", "")
        await mesh.ask()
        await eventually(lambda: shown(manager, "requests_total", "workers", "nats_connected") == [1, 1, 1])
        await mesh.bus.request("manager.control.m-1", b'{"op": "drain"}', timeout=20)
        await mesh.bus.request("worker.control.w-1", b'{"op": "drain"}', timeout=20)
        await eventually(lambda: manager.why_not().startswith("draining"))
        await eventually(lambda: worker.why_not().startswith("draining"))
        nats.stop()
        await eventually(lambda: manager.why_not() == worker.why_not() == "the connection to NATS is away")
        await nats.start()
        await eventually(lambda: manager.why_not().startswith("draining"))


async def test_an_accountant_without_its_database_is_alive_and_says_so(nats_server: str) -> None:
    async with Books(nats_server, "postgresql://nobody:secret@127.0.0.1:1/none") as books:
        books.start("t-1", retry_at_most=0.05)
        status = books.statuses["t-1"]
        await eventually(lambda: status.why_not().startswith("the database is away: "))
        assert shown(status, "database_away") == [1]
