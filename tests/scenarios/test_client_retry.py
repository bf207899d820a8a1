"""A Manager dies or freezes with questions in its hands: the Python client gets every answer all the same."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from bullpen.supervision.mesh import Mesh
from bus import Message
from client import Bullpen
from contracts import BullpenError, Chunk, FinalResponse, Resumed
from contracts.headers import TASK
from contracts.subjects import INFER_AUTO
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]

QUESTIONS, STREAMS = 100, 30
UNHURRIED = {
    "BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 500}',
    "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "2.5",
    "BULLPEN_SIMULATED__OUTPUT_TOKENS": "20",
    "BULLPEN_SIMULATED__MAX_CONCURRENCY": "150",
}
LATE = 4.0
"""Seconds after an answer in which an attempt for it may still begin: whoever sends it may have had no processor."""


class Callers:
    """Everybody who asks, and what the mesh did for them."""

    def __init__(self, bullpen: Bullpen) -> None:
        self._bullpen = bullpen
        self.sent: list[Message] = []
        self.begun: list[tuple[str, float]] = []
        """Each attempt of a task, and when a worker was given it."""
        self.answered: dict[str, float] = {}
        self.reading: set[str] = set()
        """Streams that have begun."""
        self.restarted = 0
        """Streams that began anew."""

    async def listen(self) -> None:
        await self._bullpen.bus.subscribe_inline(INFER_AUTO, self.sent.append)
        await self._bullpen.bus.subscribe_inline("infer.*.w.*", self._begins)

    def all(self) -> list[asyncio.Task[None]]:
        """Their questions, all at once."""
        return [
            *(asyncio.create_task(self._ask(f"ask-{n}")) for n in range(QUESTIONS)),
            *(asyncio.create_task(self._read(f"stream-{n}")) for n in range(STREAMS)),
        ]

    async def _ask(self, task_id: str) -> None:
        answer = await self._bullpen.ask(f"question {task_id}", task_id=task_id)
        assert (answer.task_id, bool(answer.output)) == (task_id, True)
        self._note(task_id)

    async def _read(self, task_id: str) -> None:
        text, due = "", 0
        async for event in self._bullpen.stream(f"question {task_id}", task_id=task_id):
            if isinstance(event, FinalResponse):
                assert text == event.output
                self._note(task_id)
                return
            assert event.seq == due
            due += 1
            match event:
                case Chunk(delta=delta):
                    self.reading.add(task_id)
                    text += delta
                case Resumed(mode="restarted"):
                    text = ""
                    self.restarted += 1
        raise AssertionError("the stream ended without an answer")

    def _begins(self, message: Message) -> None:
        self.begun.append((message.headers[TASK], time.monotonic()))

    def _note(self, task_id: str) -> None:
        assert task_id not in self.answered, "answered twice"
        self.answered[task_id] = time.monotonic()


async def inflight(bullpen: Bullpen, manager_id: str) -> int:
    """How many requests a Manager has; asked again when it does not say so in time."""

    async def told() -> tuple[int] | None:
        with suppress(BullpenError):
            return ((await bullpen.control_manager(manager_id, "status")).inflight,)
        return None

    (count,) = await eventually(told, timeout=40)
    return int(count)


async def is_idle(bullpen: Bullpen, manager_id: str) -> bool:
    return await inflight(bullpen, manager_id) == 0


def keys_were_best_effort(directory: Path) -> bool:
    """Whether JetStream was too slow for a Manager, as on a busy machine: then it cannot know what others answered."""
    logs = (directory / "mesh" / "logs").glob("manager-*.log")
    return any("idempotency_keys_best_effort" in log.read_text() for log in logs)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """Three Managers, two workers that take eight seconds, no books."""
    async with Mesh(tmp_path / "mesh", workers=[("simulated", 2)], managers=3, postgres=False, env=UNHURRIED) as mesh:
        yield mesh


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_manager_of_three_lost_under_load_costs_no_answer(
    mesh: Mesh, tmp_path: Path, sign: signal.Signals
) -> None:
    async with Bullpen.connect(mesh.endpoints.nats_url) as bullpen:
        callers = Callers(bullpen)
        await callers.listen()
        asking = callers.all()
        await eventually(lambda: len(callers.reading) == STREAMS, timeout=60)
        assert await inflight(bullpen, "manager-1")
        lost = mesh.pid("manager-1")
        os.kill(lost, sign)
        try:
            await asyncio.gather(*asking)
            await asyncio.sleep(LATE if sign == signal.SIGSTOP else 0)  # what it begins when it wakes up is late
        finally:
            if sign == signal.SIGSTOP:
                os.kill(lost, signal.SIGCONT)
        await eventually(lambda: is_idle(bullpen, "manager-1"), timeout=40)
        assert len(callers.answered) == QUESTIONS + STREAMS
        assert len(callers.sent) > QUESTIONS + STREAMS
        assert callers.restarted
        late = [task for task, at in callers.begun if at > callers.answered[task] + LATE]
        assert not late or keys_were_best_effort(tmp_path), "done once too often"
