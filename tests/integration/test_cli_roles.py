"""Roles in the foreground, and whether one is well."""

import asyncio
import json
import signal
from functools import partial

import pytest

from bus.jetstream import StreamSpec, ensure_stream
from contracts import subjects as s
from tests.cli import bullpen, finish, invoke, start
from tests.fake_manager import FakeManager, FakeWorkers, heartbeat
from tests.mesh import SmallMesh
from tests.support import eventually, tcp_server

NOWHERE = "nats://127.0.0.1:1"

pytestmark = pytest.mark.usefixtures("patience")


async def test_health_asks_the_role_on_this_host(workers: FakeWorkers, nats_server: str) -> None:
    for well in (("manager",), ("worker", "--id", "local-1")):
        await eventually(partial(is_well, nats_server, *well))
    for wrong in (("manager", "--id", "other"), ("telemetry",)):
        assert not await is_well(nats_server, *wrong)
    assert not await is_well(NOWHERE, "manager")
    workers.beats[0] = heartbeat("local-1", state="degraded")
    assert not await is_well(nats_server, "worker", "--id", "local-1")
    await eventually(partial(is_well, nats_server, "worker", "--id", "local-1", "--alive"))


async def test_a_worker_that_cannot_serve_is_alive_all_the_same(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        await mesh.bus.request(s.worker_control("w-1"), b'{"op":"drain"}', timeout=30)
        assert not await is_well(nats_server, "worker")
        await eventually(partial(is_well, nats_server, "worker", "--alive"))
        await mesh.bus.request(s.worker_control("w-1"), b'{"op":"resume"}', timeout=30)
        await eventually(partial(is_well, nats_server, "worker"))


async def test_roles_in_the_foreground_serve_until_they_are_told_to_stop(
    manager: FakeManager, nats_server: str
) -> None:
    await ensure_stream(manager.bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))  # for what they report
    await manager.bus.close()
    real_manager = await start("manager", "--id", "m-7", NATS_URL=nats_server)
    worker = await start("worker", "simulated", "--id", "sim-1", NATS_URL=nats_server)
    try:
        await eventually(partial(is_well, nats_server, "worker"))
        await eventually(partial(is_well, nats_server, "manager"))
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
            asking = asyncio.create_task(mesh.ask("infer.simulated", timeout=90))
            await eventually(lambda: mesh.beats["sim-1"].inflight == 1)
            worker.send_signal(signal.SIGTERM)
            await eventually(lambda: mesh.beats["sim-1"].state == "draining")
            assert not asking.done()
        finally:
            told = await finish(worker, sign=signal.SIGTERM)
        assert (await asking)["error"]["message"] == "sim-1 is leaving"
        await eventually(lambda: mesh.beats["sim-1"].state == "stopped")
        assert told.code == 0


async def is_well(url: str, *role: str) -> bool:
    return (await bullpen("health", *role, env={"NATS_URL": url})).code == 0


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

    async with tcp_server(fatal_server) as port:
        told = await finish(await start("manager", NATS_URL=f"nats://127.0.0.1:{port}"))
    assert told.code == 78, told.err
    assert told.err.splitlines()[-1].startswith("bullpen manager: ")
