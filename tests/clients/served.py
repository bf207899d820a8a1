"""A mesh with a gateway in a thread of its own: the clients are other programs, and tests wait for them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gateway.keys.office import KeyOffice
from tests.clients.played import BROKEN, OBEDIENT, PlayedWorker, break_off, obey
from tests.fake_worker import acting
from tests.gateway import Door, door_of
from tests.mesh import SmallMesh
from tests.servers import PATIENT, NatsServer
from tests.support import eventually

T = TypeVar("T")
WITHIN = 90.0
"""Seconds in which the mesh does what a test asks of it."""
SLOW = "slow"
"""The worker that speaks for minutes, and its model."""
SEES = "sees"
"""The model that takes images, sounds and files."""
ABLE = ("chat", "stream", "prefill", "tools", "json", "logprobs", "reasoning", "vision", "audio", "file")
ROOMY = {"context_window": 200_000}
"""Coding agents begin with twenty thousand tokens."""
PLAYS = {OBEDIENT: obey, BROKEN: break_off}


@dataclass(slots=True)
class Served:
    """What clients are told: where the gateway is, and a key."""

    mesh: SmallMesh
    door: Door
    key: str
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.door.url

    @property
    def environment(self) -> dict[str, str]:
        """For a client's process: the address and the key, and nothing else of ours."""
        return {"BULLPEN": self.url, "BULLPEN_KEY": self.key}

    def do(self, asked: Coroutine[Any, Any, T]) -> T:
        """Runs this where the mesh runs, and waits for it."""
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result(WITHIN)

    def eventually(self, check: Callable[[], Any]) -> None:
        self.do(eventually(check, timeout=WITHIN - 10))

    @contextmanager
    def slow_worker(self) -> Iterator[None]:
        """While it is there, its model answers for minutes."""
        self.do(self.mesh.worker(SLOW, models=[{"name": SLOW, **ROOMY}], tokens_per_second=5, output_tokens=5000))
        try:
            yield
        finally:
            self.do(self.mesh.stop(SLOW))

    @contextmanager
    def played_worker(self, name: str) -> Iterator[None]:
        """While it is there, its model calls the tools that it is told to (`OBEDIENT`), or breaks off (`BROKEN`)."""
        worker = PlayedWorker(self.mesh.bus, name, acting(PLAYS[name]))
        self.do(worker.__aenter__())
        try:
            self.do(self.mesh.knows(name))
            yield
        finally:
            self.do(worker.__aexit__())

    def is_busy(self, worker_id: str = SLOW) -> bool:
        """Whether that worker is at work, as it says itself."""
        return self.mesh.beats[worker_id].inflight > 0


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """NATS, a Manager, a simulated worker and a gateway that wants a key."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="mesh", daemon=True)
    thread.start()
    mesh = _mesh(directory)
    try:
        served = asyncio.run_coroutine_threadsafe(mesh.__aenter__(), loop).result(WITHIN)
        try:
            yield served
        finally:
            served.do(mesh.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def _mesh(directory: Path) -> AsyncIterator[Served]:
    nats = NatsServer(directory, cuts_off_after=PATIENT)
    await nats.start()
    try:
        async with SmallMesh(nats.url) as mesh:
            await mesh.manager()
            models = [{"name": "simulated", **ROOMY}, {"name": SEES, "capabilities": ABLE, **ROOMY}]
            await mesh.worker("w-1", models=models, latency_ms=1)
            _, key = await (await KeyOffice.open(mesh.bus)).create("clients")
            async with door_of(mesh, keys="required") as door:
                yield Served(mesh, door, key, asyncio.get_running_loop())
    finally:
        nats.kill()
