"""One result per job, whoever is killed: a whole mesh of real processes, and real signals."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bullpen.batch import line_of
from bullpen.supervision.mesh import Mesh
from client import Bullpen, JobResult
from tests.cli import bullpen, finish, start
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]

JOBS = 30
"""Of a round, in each of which others are killed."""
KILLED = (
    ("manager-1", "manager-2"),
    ("worker-simulated-1",),
    ("nats",),
    ("manager-1", "manager-2", "manager-3", "worker-simulated-1", "worker-simulated-2", "nats"),
)
QUICK = {
    "BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 200}',
    "BULLPEN_MANAGER__JOBS": '{"silent_after": 3.0, "first_pause": 0.2, "longest_pause": 1.0, "at_once": 4}',
}


@asynccontextmanager
async def stage(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Mesh, Bullpen]]:
    async with (
        Mesh(tmp_path / "mesh", postgres=False, workers=[("simulated", 2)], **options) as mesh,
        Bullpen.connect(mesh.endpoints.nats_url) as client,
    ):
        yield mesh, client


async def kept(client: Bullpen) -> list[JobResult]:
    return [result async for result in client.jobs.results()]


async def test_every_job_has_one_result_whatever_is_killed(tmp_path: Path) -> None:
    async with stage(tmp_path, managers=3, env=QUICK) as (mesh, client):
        await client.jobs.ready()
        for number, names in enumerate(KILLED):
            done = number * JOBS
            jobs = [client.submit(f"job {job}", job_id=f"j-{job}") for job in range(done, done + JOBS)]
            await asyncio.gather(*jobs)
            await eventually(partial(_has, client, done + 5), timeout=40)
            for name in names:
                with suppress(ProcessLookupError):  # it is dead already, and not started again yet
                    os.kill(mesh.pid(name), signal.SIGKILL)
            await eventually(partial(_has, client, done + JOBS), timeout=60, every=0.2)
        found = await kept(client)
        assert Counter(result.job_id for result in found) == {f"j-{job}": 1 for job in range(JOBS * len(KILLED))}
        assert [result.body for result in found if result.failed] == []


async def _has(client: Bullpen, count: int) -> bool:
    """Whether so many jobs have a result."""
    try:
        return len(await kept(client)) >= count
    except Exception as error:  # the server is being restarted
        raise AssertionError(error) from None


async def test_a_submission_that_was_killed_half_way_goes_on(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"job {number}"}) for number in range(399)]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(["a plain prompt", *lines]))
    env = QUICK | {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 200}', "BULLPEN_MANAGER__JOBS": '{"at_once": 8}'}
    async with stage(tmp_path, env=env) as (mesh, client):
        url = mesh.endpoints.nats_url
        first = await start("submit", str(file), NATS_URL=url)
        await client.jobs.ready()
        await eventually(lambda: _has(client, 5), timeout=40)
        killed = await finish(first, sign=signal.SIGKILL)
        assert killed.code == -signal.SIGKILL
        out = tmp_path / "answers.jsonl"
        told = await bullpen("submit", str(file), "--out", str(out), env={"NATS_URL": url})
        assert (told.code, told.out) == (0, "")
        assert "have a result already" in told.err
        answers = [json.loads(line) for line in out.read_text().splitlines()]
        names = [answer["task_id"] for answer in answers]
        batch = names[0].rpartition("-")[0]
        assert [line_of(name, batch) for name in names] == list(range(1, 401))
        assert all(answer["output"] for answer in answers)
        assert set(Counter(result.job_id for result in await kept(client)).values()) == {1}
