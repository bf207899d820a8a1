"""A mesh on a cluster of three NATS servers that loses one, and one that is told to leave in order, under load.

Over real processes.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bullpen.supervision.mesh import Mesh
from client import Bullpen
from contracts.subjects import TELEMETRY_STREAM
from tests.roles import PATIENT, Roles
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


async def test_with_three_replicas_no_question_and_no_row_is_lost_with_the_server_that_leads(
    nodes: list[PlainNats], tmp_path: Path, database_url: str
) -> None:
    servers = ",".join(node.url for node in nodes)
    env = {**PATIENT, "NATS_URL": servers, "DATABASE_URL": database_url, "NATS_REPLICAS": "3"}
    async with (
        Mesh(tmp_path / "mesh", workers=[("simulated", 2)], managers=2, env=env),
        Bullpen.connect(servers) as bp,
    ):
        kept = await _streams(bp)
        assert {TELEMETRY_STREAM, "KV_bullpen_answers"} <= kept.keys()
        assert set(kept.values()) == {3}
        callers = Callers(bp)
        await callers.more()
        (await _leader(bp, nodes)).kill()
        await callers.more(100)
        await callers.finish()
        books = await asyncpg.connect(database_url)
        try:
            await eventually(lambda: _are_exact(books, callers.answered), timeout=90, every=0.2)
        finally:
            await books.close()


async def _streams(bp: Bullpen) -> dict[str, int]:
    """How often each stream is kept."""
    return {str(one.config.name): one.config.num_replicas or 0 for one in await bp.bus.nats.jetstream().streams_info()}


async def _leader(bp: Bullpen, nodes: list[PlainNats]) -> PlainNats:
    """The server through which everything for the books goes."""
    about = (await bp.bus.nats.jetstream().stream_info(TELEMETRY_STREAM)).cluster
    assert about is not None
    return next(node for node in nodes if node.name == about.leader)


async def _are_exact(books: "asyncpg.Connection[asyncpg.Record]", answered: int) -> bool:
    """Every answer has a row. A question whose answer was lost with the server was asked again, and has one more."""
    rows = await books.fetchval("SELECT count(*) FROM responses")
    return bool(rows >= answered)
