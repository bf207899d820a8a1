"""Faults as sentences, over real processes with real signals: a whole mesh of `bullpen up`'s own making."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json

from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings, Message
from tests.roles import PATIENT, PROMPT
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

Json = dict[str, Any]
SLOW = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 5000}', **PROMPT}

SEVERAL = 5
"""Requests under way at one worker."""


class Stage:
    """A running mesh and a caller."""

    def __init__(self, mesh: Mesh, bus: Bus) -> None:
        self.mesh = mesh
        self.bus = bus

    async def ask(self, **request: Any) -> Json:
        body = json.dumps({"prompt": "hello there", **request}).encode()
        answer: Json = from_json((await self.bus.request("infer.auto", body, timeout=60)).data)  # its own is longer
        return answer

    def ask_many(self, count: int) -> list[asyncio.Task[Json]]:
        return [asyncio.create_task(self.ask(task_id=f"task-{number}")) for number in range(count)]

    async def keep_busy(self, worker_id: str, count: int) -> list[asyncio.Task[Json]]:
        """Asks so many, and goes on until that worker says that it has several of them. Returns the questions."""
        asking = self.ask_many(count)
        doing: list[int] = []  # heartbeat by heartbeat

        def hear(message: Message) -> None:
            beat = from_json(message.data)
            if beat["worker_id"] == worker_id:
                doing.append(beat["inflight"])

        def has_some() -> bool:
            if sum(not asked.done() for asked in asking) < 2 * count:
                asking.extend(self.ask_many(1))  # who gets a question is decided by more than how many he has
            return bool(doing) and doing[-1] >= SEVERAL

        heard = await self.bus.subscribe_inline("worker.heartbeat", hear)
        await eventually(has_some, timeout=60)
        await heard.stop()
        return asking

    def send(self, process: str, number: signal.Signals) -> None:
        os.kill(self.mesh.pid(process), number)


@asynccontextmanager
async def stage(tmp_path: Path, nats: NatsServer, *, env: dict[str, str], **options: Any) -> AsyncIterator[Stage]:
    """On a server that cuts off nobody who has to wait for a processor: callers here ask but once."""
    async with Mesh(tmp_path / "mesh", env={**env, "NATS_URL": nats.url}, postgres=False, **options) as mesh:
        bus = await Bus.connect("test", BusSettings(servers=(nats.url,)), watchdog=False)
        try:
            yield Stage(mesh, bus)
        finally:
            await bus.close()


@pytest.fixture
async def two_slow(tmp_path: Path, nats: NatsServer) -> AsyncIterator[Stage]:
    """Two workers that take their time, and no books."""
    async with stage(tmp_path, nats, workers=[("simulated", 2)], env=SLOW) as two:
        yield two


async def test_a_worker_frozen_then_killed_beside_another_loses_no_answer(two_slow: Stage) -> None:
    asking = await two_slow.keep_busy("simulated-1", 50)
    two_slow.send("worker-simulated-1", signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*asking)
    finally:
        two_slow.send("worker-simulated-1", signal.SIGCONT)
    assert [a for a in answers if "output" not in a] == []
    assert any(len(a["attempts"]) > 1 for a in answers), "nothing ran on the worker that was frozen"
    await eventually(lambda: _both_answer(two_slow), timeout=60)

    asking = await two_slow.keep_busy("simulated-1", 50)
    two_slow.send("worker-simulated-1", signal.SIGKILL)
    answers = await asyncio.gather(*asking)
    assert [a for a in answers if "output" not in a] == []
    outcomes = {tried["outcome"] for a in answers for tried in a["attempts"][:-1]}
    assert "uncertain" in outcomes, "nothing ran on the worker that was killed"


async def _both_answer(stage: Stage) -> bool:
    answers = await asyncio.gather(*stage.ask_many(100))  # more than one worker can take at once
    return {a.get("worker_id") for a in answers} == {"simulated-1", "simulated-2"}


async def test_killing_the_last_worker_is_told_and_its_return_is_noticed(tmp_path: Path, nats: NatsServer) -> None:
    async with stage(tmp_path, nats, workers=[("simulated", 1)], env=PATIENT) as one:
        assert (await one.ask())["output"]
        refused: list[Json] = []

        async def gone() -> bool:
            """It may be back before anybody noticed: then once more."""
            one.send("worker-simulated-1", signal.SIGKILL)
            answer = await one.ask()
            refused.extend([answer] if "error" in answer else [])
            return bool(refused)

        await eventually(gone, timeout=60)
        assert refused[0]["error"]["code"] == "no_worker"
        assert "simulated-1" in refused[0]["error"]["message"]

        async def back() -> bool:
            return "output" in await one.ask()

        await eventually(back, timeout=60)
