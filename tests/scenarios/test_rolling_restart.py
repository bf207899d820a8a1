"""Everything is restarted, one after the other, while questions keep coming: nobody who asks notices."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bullpen.supervision.mesh import Mesh
from client import Bullpen, watch
from contracts import Chunk, FinalResponse, Resumed
from tests.cli import bullpen
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]

UNHURRIED = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 300}', "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "40"}
ASKERS, READERS = 8, 4


class Load:
    """People who ask, and ask again as soon as they have their answer."""

    def __init__(self, client: Bullpen) -> None:
        self._client = client
        self._enough = False
        self.answers = 0
        self.failures: list[Exception] = []

    @classmethod
    @asynccontextmanager
    async def on(cls, mesh: Mesh) -> AsyncIterator["Load"]:
        """Until the end of the block, which waits for every answer; then there has been no failure."""
        async with Bullpen.connect(mesh.endpoints.nats_url) as client:
            load = cls(client)
            people = [asyncio.create_task(load._keep(load._ask)) for _ in range(ASKERS)]
            people += [asyncio.create_task(load._keep(load._read)) for _ in range(READERS)]
            try:
                await load.goes_on()
                yield load
                await load.goes_on()
            finally:
                load._enough = True
                await asyncio.gather(*people)
            assert load.failures == []

    async def goes_on(self) -> None:
        """Waits for some more answers."""
        wanted = self.answers + ASKERS + READERS
        await eventually(lambda: self.answers >= wanted or self.failures, timeout=60)

    async def _keep(self, doing: Callable[[], Awaitable[None]]) -> None:
        while not self._enough:
            try:
                await doing()
            except Exception as failure:
                self.failures.append(failure)
            else:
                self.answers += 1

    async def _ask(self) -> None:
        assert (await self._client.ask("Are you still there?")).output

    async def _read(self) -> None:
        text = ""
        async for event in self._client.stream("Tell me a story"):
            match event:
                case Chunk(delta=delta):
                    text += delta
                case Resumed(mode="restarted"):
                    text = ""
                case FinalResponse(output=output):
                    assert text == output


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes on a busy machine, clients wait for a Manager to come back."""
    monkeypatch.setattr(watch, "WITHOUT_MANAGER", 60.0)


@asynccontextmanager
async def mesh_of(place: Path, *, managers: int) -> AsyncIterator[Mesh]:
    async with Mesh(place, workers=[("simulated", 2)], managers=managers, postgres=False, env=UNHURRIED) as mesh:
        yield mesh


async def test_every_role_restarted_one_by_one_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "mesh"
    async with mesh_of(place, managers=2) as mesh, Load.on(mesh) as load:
        told: list[str] = []
        mesh._tell = told.append
        before = mesh.endpoints.pids
        for name in ("manager-1", "worker-simulated-1"):
            await mesh.restart(name)
            await load.goes_on()
        said = await bullpen("restart", "worker-simulated-2", "manager-2", "--data-dir", str(place))
        await load.goes_on()
        unknown = await bullpen("restart", "worker-nobody", "nats", "--data-dir", str(place))
        assert unknown.code == 2
        assert "nats, worker-nobody: there is no such role" in unknown.err
        assert (said.code, said.out) == (0, "worker-simulated-2 is back\nmanager-2 is back\n")
        assert {name for name, pid in mesh.endpoints.pids.items() if before[name] == pid} == {"nats"}
        roles = ("manager-1", "worker-simulated-1", "worker-simulated-2", "manager-2")
        of_roles = [line for line in told if line.startswith(roles)]
        assert of_roles == [f"{name} was started again" for name in roles], "leaving in order is no death"


async def test_nats_and_a_lone_manager_restarted_in_order_reach_no_caller(tmp_path: Path) -> None:
    async with mesh_of(tmp_path / "mesh", managers=1) as mesh, Load.on(mesh) as load:
        for name in ("nats", "manager-1", "nats"):
            await mesh.restart(name)
            await load.goes_on()
