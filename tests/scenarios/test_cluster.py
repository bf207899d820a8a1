"""A mesh on a cluster of three NATS servers that loses one, and one that is told to leave in order, under load.

Over real processes.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from client import Bullpen
from tests.roles import Roles
from tests.servers import PlainNats, nats_cluster
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]

GRACEFUL = "lame_duck_grace_period: 1s\nlame_duck_duration: 30s\n"
"""The shortest that the server takes."""
LONG = {"BULLPEN_SIMULATED__LATENCY_MS": "300"}


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[PlainNats]]:
    nodes = nats_cluster(tmp_path)
    for node in nodes:
        node.config += GRACEFUL
    await asyncio.gather(*(node.start() for node in nodes))
    yield nodes
    for node in nodes:
        node.kill()


@pytest.fixture
async def roles(nodes: list[PlainNats], tmp_path: Path) -> AsyncIterator[Roles]:
    """Two Managers and three workers, each connected to whichever server it came upon."""
    async with Roles(tmp_path, ",".join(node.url for node in nodes)) as roles:
        for name in ("m-1", "m-2"):
            roles.manager(name)
        for name in ("w-1", "w-2", "w-3"):
            roles.worker(name, **LONG)
        await roles.ready(within=60)
        yield roles


class Callers:
    """Ask one question after the other, until told to stop."""

    def __init__(self, bp: Bullpen, count: int = 10) -> None:
        self._bp = bp
        self._stop = asyncio.Event()
        self.answered = 0
        self.tasks = [asyncio.create_task(self._ask(number)) for number in range(count)]

    async def _ask(self, number: int) -> None:
        while not self._stop.is_set():
            await self._bp.ask(f"question of {number}", max_tokens=5, deadline_ms=60_000)
            self.answered += 1

    async def finish(self) -> None:
        """Raises what any of them met."""
        self._stop.set()
        await asyncio.gather(*self.tasks)

    async def more(self, count: int = 50) -> None:
        enough = self.answered + count
        await eventually(lambda: self.answered >= enough or any(task.done() for task in self.tasks), timeout=60)


async def leave_in_order(node: PlainNats) -> None:
    """`nats-server --signal ldm`: it tells its clients, waits a moment, and closes one connection after the other."""
    node.send(signal.SIGUSR2)
    await eventually(lambda: node.process is None or node.process.poll() is not None, timeout=60)


async def die(node: PlainNats) -> None:
    node.kill()


@pytest.mark.parametrize("go", [die, leave_in_order], ids=["killed", "upgraded"])
async def test_each_server_in_turn_is_away_and_every_question_is_answered(
    roles: Roles, nodes: list[PlainNats], go: Callable[[PlainNats], Any]
) -> None:
    async with Bullpen.connect(",".join(node.url for node in nodes)) as bp:
        callers = Callers(bp)
        await callers.more()
        for node in nodes:
            await go(node)
            await callers.more()
            await node.start()
            await callers.more()
        await callers.finish()
    assert roles.running == {"m-1", "m-2", "w-1", "w-2", "w-3"}
    assert roles.beats.keys() == {"w-1", "w-2", "w-3"}
