"""A worker near its memory limit: takes nothing new, finishes what runs, comes back. The last test has a real limit."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bullpen.supervision.leash import leashed
from contracts import ControlReply
from contracts import subjects as s
from tests.gate import Gate
from tests.mesh import SmallMesh
from tests.support import eventually
from workers.base.host.cgroup import Cgroup, Memory
from workers.base.host.resources import ResourceMeter
from workers.base.runtime import memory_guard as room

MIB = 1 << 20
GLUTTON = '''
"""Eats as many MiB as it is asked for, one after the other so that it can say that it is at it, keeps them until the
file `enough` is there, then says so."""

import asyncio
from pathlib import Path

from workers.base import Availability, Backend, BackendConfig, Delta, Done

MIB = 1 << 20


class GluttonBackend(Backend[BackendConfig]):
    name = "glutton"
    config_class = BackendConfig
    simulated = True

    @classmethod
    async def available(cls, config):
        return Availability.yes("always")

    async def start(self, report):
        pass

    def models(self):
        return tuple(model.card(local=True) for model in self.config.models)

    async def stream(self, job):
        eaten = []
        for _ in range(int(job.request.question)):
            eaten.append(b"x" * MIB)
            await asyncio.sleep(0)
        while eaten and not (Path(__file__).parent / "enough").exists():
            await asyncio.sleep(0.05)
        yield Delta(f"ate {len(eaten)}")
        yield Done("stop", prompt_tokens=1, completion_tokens=1)

    async def health(self):
        pass

    async def close(self):
        pass
'''


class Meters:
    """What the worker that was first to look reads; the others have room."""

    def __init__(self) -> None:
        self.share = 0.5
        self._first: ResourceMeter | None = None

    def read(self, meter: ResourceMeter) -> Memory:
        self._first = self._first or meter
        share = self.share if meter is self._first else 0.5
        return Memory(round(share * 1000) * MIB, 1000 * MIB)


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Meters:
    made = Meters()

    def read(meter: ResourceMeter) -> Memory:  # a function, so that the meter is handed to it
        return made.read(meter)

    monkeypatch.setattr(ResourceMeter, "memory", read)
    monkeypatch.setattr(room, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(room, "COLLECT_EVERY", 0.02)
    monkeypatch.setattr("gc.collect", lambda: 0)  # so often it would leave this process no time for anything else
    return made


async def test_near_its_limit_a_worker_finishes_what_runs_and_takes_nothing_new(
    nats_server: str, meters: Meters, gate: Gate
) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1", max_concurrency=1, health_interval=0.1)
        running = asyncio.create_task(mesh.ask("infer.simulated", prompt=gate.prompt))
        await eventually(lambda: gate.waiting)
        waiting = asyncio.create_task(mesh.ask("infer.simulated"))
        await eventually(lambda: mesh.beats["w-1"].queued == 1)
        meters.share = 0.93
        beat = await mesh.state("w-1", "degraded")
        assert "uses 930 of 1000 MiB of memory" in beat.reason
        assert (await waiting)["error"]["code"] == "no_worker", "it began what it had no room for"
        assert not running.done()
        refused = await mesh.ask(s.infer_worker("simulated", "w-1"))
        assert refused["error"]["code"] == "no_worker"
        gate.open()
        assert (await running)["output"]
        meters.share = 0.7
        await mesh.state("w-1", "ready")
        assert (await mesh.ask("infer.simulated"))["output"]


async def test_a_full_worker_that_is_told_to_resume_has_no_more_room_for_that(nats_server: str, meters: Meters) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        meters.share = 0.93
        await mesh.state("w-1", "degraded")
        for op in ("drain", "resume"):
            told = await mesh.worker_says("w-1", op)
        beat = ControlReply.model_validate(told).heartbeat
        assert beat is not None
        assert beat.state == "degraded"
        assert "of 1000 MiB of memory" in beat.reason
        meters.share = 0.5
        await mesh.state("w-1", "ready")


async def test_a_full_worker_is_passed_over(nats_server: str, meters: Meters) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1", latency_ms={"fixed": 10})
        await mesh.manager()
        assert (await mesh.ask())["worker_id"] == "w-1"
        meters.share = 0.93
        await mesh.state("w-1", "degraded")
        await mesh.worker("w-2", latency_ms={"fixed": 500})
        answers = await asyncio.gather(*(mesh.ask() for _ in range(4)))
        assert {answer["worker_id"] for answer in answers} == {"w-2"}


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real memory cgroup of 192 MiB beside ours."""
    ours = Cgroup.ours()
    parents = (*ours.memory_v1[-1:], *ours.unified[-1:])
    if os.geteuid() != 0 or not parents:
        pytest.skip("only root may make a cgroup")
    made = parents[0] / f"bullpen-test-{os.getpid()}"
    name = "memory.limit_in_bytes" if ours.memory_v1 else "memory.max"
    try:
        made.mkdir()
        (made / name).write_text(str(192 * MIB))
    except OSError as error:
        with suppress(OSError):
            made.rmdir()
        pytest.skip(f"no cgroup of our own to be had here: {error.strerror}")
    yield made
    made.rmdir()


def start_inside(cgroup: Path, folder: Path, url: str) -> "subprocess.Popen[bytes]":
    join = f'echo $$ >{cgroup}/cgroup.procs && exec "$@"'
    worker = [sys.executable, "-m", "bullpen", "worker", str(folder), "--id", "g-1"]
    environment = {**os.environ, "NATS_URL": url, "BULLPEN_DATA_DIR": str(folder.parent)}
    return subprocess.Popen(["/bin/sh", "-c", join, "sh", *leashed(worker)], env=environment)


@pytest.fixture
def glutton(tmp_path: Path) -> Path:
    folder = tmp_path / "glutton"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "backend.py").write_text(GLUTTON)
    (folder / "config.yaml").write_text("models: [{name: glutton, price: {input_per_mtok: 0, output_per_mtok: 0}}]\n")
    return folder


@pytest.mark.root
@pytest.mark.timeout(180)
async def test_a_real_worker_in_a_real_cgroup_stops_before_it_is_killed(
    glutton: Path, nats_server: str, limited: Path
) -> None:
    process = start_inside(limited, glutton, nats_server)
    try:
        async with SmallMesh(nats_server) as mesh:
            beat = await mesh.state("g-1", "ready", within=80)
            told = beat.resources
            assert told.memory_limit == 192 * MIB
            assert 0 < told.memory_used < told.memory_limit / 2
            room_left = 192 - told.memory_used // MIB
            eating = asyncio.create_task(mesh.ask("infer.glutton", prompt=str(room_left - 30), timeout=50))
            assert "of 192 MiB of memory" in (await mesh.state("g-1", "degraded")).reason
            refused = await mesh.ask(s.infer_worker("glutton", "g-1"), prompt="100")
            assert refused["error"]["code"] == "no_worker"
            (glutton / "enough").touch()
            assert (await eating)["output"] == f"ate {room_left - 30}"
            await mesh.state("g-1", "ready", within=80)
            assert (await mesh.ask("infer.glutton", prompt="1"))["output"] == "ate 1"
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.root
@pytest.mark.timeout(180)
async def test_who_overeats_at_one_go_is_killed_alone_and_its_question_goes_elsewhere(
    glutton: Path, nats_server: str, limited: Path
) -> None:
    process = start_inside(limited, glutton, nats_server)
    try:
        async with SmallMesh(nats_server) as mesh:
            dear = {"input_per_mtok": 100, "output_per_mtok": 100}
            await mesh.worker("w-1", models=[{"name": "simulated", "price": dear}])
            await mesh.manager(claim_timeout=40)  # else, when it is slow to claim, it never had the question
            await mesh.state("g-1", "ready", within=80)
            told = await mesh.ask(prompt="500", policy="cheapest", timeout=50)
            assert [tried["worker_id"] for tried in told["attempts"]] == ["g-1", "w-1"]
            assert told["attempts"][0]["outcome"] == "uncertain"
            assert told["output"]
            assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(30)
