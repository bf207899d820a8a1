"""A worker that starts to fail loses its grade, is tried now and then, and comes back by itself: real processes."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic_core import from_json

from bullpen.supervision.mesh import Mesh
from bus import Message
from tests.roles import Question, Roles
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]

QUICK = {"BULLPEN_TELEMETRY__GRADES_INTERVAL": "0.5", "BULLPEN_SIMULATED__LATENCY_MS": "5"}
FAILING = {"BULLPEN_SIMULATED__ERROR_RATE": "0.3", "BULLPEN_SIMULATED__SEED": "7"}


class Watch:
    """What is asked all the time, and the grades that are told meanwhile."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self.asked: list[Question] = []
        self.grades: list[tuple[str, str]] = []
        """Worker and grade, in order."""

    def grade(self, worker: str) -> str:
        return next((grade for name, grade in reversed(self.grades) if name == worker), "")

    def tries(self, since: int = 0) -> Counter[str]:
        """By worker, of the questions from `since` on."""
        finals = (question.finals[0] for question in self.asked[since:] if question.finals)
        return Counter(attempt["worker_id"] for final in finals for attempt in final["attempts"])

    def hear(self, message: Message) -> None:
        told = from_json(message.data)
        self.grades.append((told["worker_id"], told["grade"]))

    async def keep_asking(self) -> None:
        """Some sixty a second."""
        while True:
            self.asked.append(await self._roles.ask())
            await asyncio.sleep(0.015)


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Roles, Watch]]:
    """A mesh with one worker, and another one, `w-2`, that the test starts and ends."""
    async with (
        Mesh(tmp_path / "mesh", workers=[("simulated", 1)], env=QUICK) as mesh,
        Roles(tmp_path, mesh.endpoints.nats_url) as roles,
    ):
        watch = Watch(roles)
        await roles.bus.subscribe_inline("metrics.grade", watch.hear)
        roles.worker("w-2", **QUICK)
        await roles.ready()
        asking = asyncio.create_task(watch.keep_asking())
        try:
            yield roles, watch
        finally:
            asking.cancel()


async def test_who_starts_to_fail_is_benched_tried_now_and_then_and_back_when_it_is_well(tmp_path: Path) -> None:
    async with watched(tmp_path) as (roles, watch):
        await eventually(lambda: watch.grade("w-2") in ("regular", "senior"), timeout=30)
        roles.kill("w-2")
        roles.worker("w-2", **QUICK, **FAILING)
        began = time.monotonic()
        await eventually(lambda: watch.grade("w-2") == "benched", timeout=30)
        assert watch.grade("simulated-1") != "benched"

        assert time.monotonic() - began < 30
        since = len(watch.asked)
        await eventually(lambda: len(watch.asked) > since + 600, timeout=100)
        tries = watch.tries(since + 60)  # what was decided before the Manager heard of it aside
        assert 0 < tries["w-2"] < 0.15 * tries.total(), tries  # its canary share, and a few when the other is full

        roles.kill("w-2")
        roles.worker("w-2", **QUICK)
        await eventually(lambda: watch.grade("w-2") == "probation", timeout=200)
        failed = [q.finals[0] for q in watch.asked if q.finals and "error" in q.finals[0]]
        assert failed == [], "what one failed another one answered"
        assert [grade for name, grade in watch.grades if name == "w-2"].count("benched") == 1
