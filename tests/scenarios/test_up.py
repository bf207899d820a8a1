"""`bullpen up` with real processes: it comes up, mends itself, and leaves nothing behind."""

import asyncio
import functools
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import psutil
import pytest
from pydantic_core import from_json

from bullpen.supervision import background
from bullpen.supervision.endpoints import Endpoints, read, running
from bullpen.supervision.leash import leashed
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings
from tests.backends.providers import OpenAIProvider
from tests.cli import bullpen
from tests.servers import free_port
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]

OURS_TO_SET = ("NATS_", "DATABASE_URL", "BULLPEN_")
WITH_OTHER_STANDARD_PORTS = """\
from bullpen.embedded import nats_server, postgres
nats_server.STANDARD_PORT, postgres.STANDARD_PORT = {ports}
from bullpen.cli import main
main()
"""
"""`bullpen`, where the standard ports are ours: those of this machine belong to whoever works on it."""


def processes(data_dir: Path) -> list[str]:
    """The command lines of everything that belongs to the mesh of this data directory."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            belongs = process.environ().get("BULLPEN_DATA_DIR") == str(data_dir)
        except psutil.Error:
            continue
        if (belongs or any(str(data_dir) in word for word in command)) and process.pid != os.getpid():
            found.append(" ".join(command))
    return found


def own_port() -> tuple[str, str]:
    """For what goes on in the background, where it would take the standard one."""
    return "--port-nats", str(free_port())


class Place:
    """A data directory, and `bullpen` commands that use it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS_TO_SET)}
        self.standard_port = free_port()
        self.environment["BULLPEN_GATEWAY__LISTEN"] = f"127.0.0.1:{free_port()}"

    async def start(self, *arguments: str) -> Process:
        program = WITH_OTHER_STANDARD_PORTS.format(ports=(self.standard_port, free_port()))
        command = [sys.executable, "-c", program, *arguments, "--data-dir", str(self.data_dir)]
        return await asyncio.create_subprocess_exec(*leashed(command), stdout=PIPE, stderr=STDOUT, env=self.environment)

    async def run(self, *arguments: str) -> tuple[int, str]:
        """The command's exit code, and all it said."""
        process = await self.start(*arguments)
        said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def up(self, *arguments: str) -> Process:
        """Starts a mesh in the foreground and waits until it is ready."""
        process = await self.start("up", *arguments)
        await eventually(lambda: running(self.data_dir) or process.returncode is not None, timeout=150)
        assert process.returncode is None, (await process.communicate())[0].decode()
        return process

    @property
    def endpoints(self) -> Endpoints:
        endpoints = read(self.data_dir)
        assert endpoints is not None
        return endpoints

    def has_another(self, name: str, pid: int) -> bool:
        """Whether `endpoints.json` tells of another process under that name."""
        return self.endpoints.pids[name] != pid

    async def answers(self, prompt: str) -> bool:
        """Whether the mesh answers the prompt; not while it is still mending itself."""
        try:
            bus = await Bus.connect("asker", BusSettings(servers=(self.endpoints.nats_url,)))
        except BusError:
            return False
        try:
            answer = await bus.request("infer.auto", prompt.encode(), timeout=20)
        except BusError:
            return False
        finally:
            await bus.close()
        return bool(from_json(answer.data).get("output"))

    async def answers_http(self, prompt: str) -> bool:
        """The same over HTTP."""
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        url = f"{self.endpoints.http_url}/v1/chat/completions"
        try:
            async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def has_booked(self, answers: int) -> bool:
        """Whether the books have so many answers, or more: one that came too late for its caller is booked, too."""
        assert self.endpoints.database_url is not None
        try:
            connection = await asyncpg.connect(self.endpoints.database_url)
        except (OSError, asyncpg.PostgresError):
            return False
        try:
            return bool(answers <= await connection.fetchval("SELECT count(*) FROM responses WHERE status = 'ok'"))
        finally:
            await connection.close()


async def nothing_runs(place: Place) -> None:
    """Nothing stays of a mesh that has ended; a process that was killed may take a moment to be gone."""
    await eventually(lambda: not processes(place.data_dir))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "mesh")
    yield place
    await asyncio.to_thread(background.stop, place.data_dir)
    await nothing_runs(place)


async def test_the_mesh_comes_up_answers_and_mends_itself(place: Place) -> None:
    up = await place.up("--workers", "simulated:2")
    first = place.endpoints
    assert first.pids.keys() == {
        *("nats", "postgres", "manager-1"),
        *("worker-simulated-1", "worker-simulated-2", "telemetry-1", "gateway-1"),
    }
    assert first.http_url == f"http://{place.environment['BULLPEN_GATEWAY__LISTEN']}"
    await eventually(lambda: place.answers_http("Is anybody there?"), timeout=60)
    assert (place.data_dir / "endpoints.json").stat().st_mode & 0o077 == 0
    assert await place.answers("Is anybody there?")
    await eventually(lambda: place.has_booked(1), timeout=40)

    for name, pid in first.pids.items():
        os.kill(pid, signal.SIGKILL)
        await eventually(functools.partial(place.has_another, name, pid), timeout=40)
    again = place.endpoints
    assert (again.nats_url, again.database_url) == (first.nats_url, first.database_url)
    assert again.http_url == first.http_url
    await eventually(lambda: place.answers_http("And now?"), timeout=60)
    await eventually(lambda: place.answers("And now?"), timeout=60)
    await eventually(lambda: place.has_booked(2), timeout=60)

    up.send_signal(signal.SIGINT)
    async with asyncio.timeout(40):
        assert await up.wait() == 0
    await nothing_runs(place)
    assert read(place.data_dir) is None


async def test_in_the_background_it_stays_until_down(place: Place) -> None:
    code, said = await place.run("up", "--detach", "--workers", "simulated", "--no-postgres", *own_port())
    assert code == 0, said
    assert place.endpoints.nats_url in said
    assert place.endpoints.database_url is None
    *_, ask, curl = said.rstrip().splitlines()
    assert ask.endswith('ask "What is the capital of France?"')
    assert curl.startswith(f"  curl {place.endpoints.http_url}/v1/chat/completions -d '{{")

    code, said = await place.run("up", "--workers", "simulated")
    assert code == 1
    assert "already runs" in said
    assert place.endpoints.nats_url in said
    assert "database_url" not in said, "no password is shown"

    assert await place.run("down") == (0, f"stopped the mesh on {place.data_dir}\n")
    await nothing_runs(place)
    assert await place.run("down") == (0, f"no mesh runs on {place.data_dir}\n")


async def test_a_taken_standard_port_is_told_and_another_one_kept(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        place.standard_port = squatter.getsockname()[1]
        urls = []
        for _ in range(2):
            up = await place.up("--workers", "simulated", "--no-postgres")
            urls.append(place.endpoints.nats_url)
            assert await place.answers("Where are you?")
            up.kill()  # -9: nothing of it may stay, and the next start works
            said, _ = await up.communicate()
            assert f"port {place.standard_port} is taken" in said.decode()
            await nothing_runs(place)
    assert urls[0] == urls[1]
    assert not urls[0].endswith(f":{place.standard_port}")


async def test_a_wanted_port_that_is_taken_is_an_error(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = str(squatter.getsockname()[1])
        code, said = await place.run("up", "--workers", "simulated", "--port-nats", port)
    assert code == 1
    assert f"port {port} is taken" in said
    await nothing_runs(place)


async def test_a_taken_http_port_is_told_unless_it_was_wanted(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = str(squatter.getsockname()[1])
        place.environment["BULLPEN_GATEWAY__LISTEN"] = f"127.0.0.1:{port}"
        up = await place.up("--workers", "simulated", "--no-postgres")
        assert not str(place.endpoints.http_url).endswith(f":{port}")
        assert await place.answers_http("Where are you?")
        up.send_signal(signal.SIGINT)
        said, _ = await up.communicate()
        assert f"port {port} is taken: HTTP is at" in said.decode()
        code, told = await place.run("up", "--workers", "simulated", "--no-postgres", "--port-http", port)
    assert code == 1
    assert f"port {port} is taken: choose another one for HTTP (--port-http)" in told


async def test_without_http_there_is_no_gateway(place: Place) -> None:
    await place.up("--workers", "simulated", "--no-postgres", "--no-http")
    assert place.endpoints.http_url is None
    assert "gateway-1" not in place.endpoints.pids


async def test_a_role_that_keeps_dying_is_shown_with_its_last_words(place: Place) -> None:
    place.environment["BULLPEN_MANAGER__NO_SUCH_KEY"] = "1"
    code, said = await place.run("up", "--detach", "--workers", "simulated", "--no-postgres", *own_port())
    assert code == 1
    assert "manager-1 keeps dying" in said
    assert "BULLPEN_MANAGER__NO_SUCH_KEY: there is no such setting" in said
    await nothing_runs(place)


async def test_servers_that_are_there_already_are_used(tmp_path: Path, nats_server: str, database_url: str) -> None:
    servers = {"NATS_URL": nats_server, "DATABASE_URL": database_url}
    async with Mesh(tmp_path / "mesh", workers=[("simulated", 1)], env=servers) as mesh:
        assert mesh.endpoints.pids.keys() == {"manager-1", "worker-simulated-1", "telemetry-1"}
        assert (mesh.endpoints.nats_url, mesh.endpoints.database_url) == (nats_server, database_url)
        before = mesh.pid("worker-simulated-1")
        await mesh.restart("worker-simulated-1")
        assert running(mesh.data_dir) == mesh.endpoints
        assert mesh.pid("worker-simulated-1") != before
    await eventually(lambda: not processes(mesh.data_dir))


async def test_a_server_joins_and_leaves_a_running_mesh_and_a_frozen_worker_is_named(place: Place) -> None:
    async with OpenAIProvider() as provider:
        up = await place.up("--workers", "simulated", "--no-postgres", "--no-http")
        place.environment["BULLPEN_DATA_DIR"] = str(place.data_dir)
        added = await bullpen("add", provider.url, "--name", "box", env=place.environment)
        assert (added.code, added.err) == (0, "")
        assert "box is ready and serves" in added.out
        pid = place.endpoints.pids["worker-box"]

        os.kill(pid, signal.SIGSTOP)

        async def silent() -> bool:
            told = (await bullpen("workers", "--json", env=place.environment)).json()
            return any(
                one["worker_id"] == "box"
                and re.fullmatch(rf"silent for \d+ s \(process {pid} is stopped\)", one["reason"])
                for one in told
            )

        await eventually(silent, timeout=60)
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: not place.endpoints.silent_since, timeout=60)

        assert (await bullpen("remove", "box", env=place.environment)).code == 0
        await eventually(lambda: "worker-box" not in place.endpoints.pids, timeout=60)
        up.send_signal(signal.SIGINT)
        said = (await up.communicate())[0].decode()
        assert f"worker-box: silent for 3 s (process {pid} is stopped)" in re.sub(r"for \d+ s", "for 3 s", said)
        assert "worker-box is heard again" in said
