"""A gateway inside the test's own process, in front of a `SmallMesh`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

from pydantic_core import from_json

from bus import BusError
from bus.role_status import RoleStatus
from client.client import GATEWAY_SERVICE
from config.watched_file import ConfigFile
from contracts import Capability, FinalResponse, Heartbeat, WorkerState, utc_now
from contracts import headers as h
from gateway import gateway as gateways
from gateway.config import GatewayConfig
from tests.fake_worker import Asked as FakeRequest
from tests.fake_worker import FakeWorker, acting
from tests.mesh import SmallMesh, behind
from tests.support import eventually

PATIENT = 30.0
"""Seconds for whatever a test is not about: a busy machine is slow."""

MESSAGES = [{"role": "user", "content": "hello there"}]
DOORS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello there"},
    "/v1/responses": {"input": "hello there"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 100},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "hello there"},
}
"""Where a model is asked for words, and a question in the words of each dialect."""


class Page(NamedTuple):
    code: int
    body: str
    content_type: str


@dataclass(slots=True)
class Door:
    url: str
    """As `http://127.0.0.1:40123`."""
    status: RoleStatus
    stop: asyncio.Event
    running: "asyncio.Task[None]"

    @property
    def v1(self) -> str:
        """What OpenAI's SDKs call the base URL."""
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def knows(self) -> set[str]:
        """The workers that it has heard."""
        gateway = behind(self.status)
        assert isinstance(gateway, gateways.Gateway)
        assert gateway._answering is not None
        return {beat.worker_id for beat in gateway._answering._models._roster.beats}

    def figure(self, name: str) -> float:
        return next(figure.value for figure in self.status.figures() if figure.name == name)


@asynccontextmanager
async def door_of(
    mesh: SmallMesh, name: str = "g-1", *, as_shipped: bool = False, **config: Any
) -> AsyncIterator[Door]:
    """A gateway that serves, at a port of its own. `file`: the config file that it follows; `examine`: its doctor.

    Unless `as_shipped`, it does not wait for heartbeats before it serves: we wait until it has heard every worker.
    """
    status, stop = RoleStatus(), asyncio.Event()

    def page(path: str) -> Page:
        why_not = status.why_not()
        return Page(503 if why_not else 200, f"{path}: {why_not or 'serves'}\n", "text/plain; charset=utf-8")

    file = ConfigFile(GatewayConfig, "gateway", config.pop("file")) if "file" in config else None
    examine = config.pop("examine", None)
    told = GatewayConfig(**{"listen": "127.0.0.1:0", "drain_within": 5.0, **config})
    running = asyncio.create_task(
        gateways.run(
            mesh.settings,
            told,
            gateway_id=name,
            stop=stop,
            pages=page,
            status=status,
            config_file=file,
            examine=examine,
        )
    )

    async def url() -> str:
        if running.done():
            running.result()
        try:
            answer = await mesh.bus.request(f"$SRV.PING.{GATEWAY_SERVICE}.{name}", b"", timeout=1.0)
        except BusError:
            return ""
        return str(from_json(answer.data)["metadata"]["url"])

    try:
        with patch.object(gateways, "HEARTBEATS", gateways.HEARTBEATS if as_shipped else 0.0):
            door = Door(await eventually(url, timeout=PATIENT), status, stop, running)
        if not as_shipped:
            await mesh.workers_say()
            await eventually(lambda: door.knows >= mesh.present, timeout=PATIENT)
        yield door
    finally:
        stop.set()
        await running


STORY = "It was late. “We should go,” said the old man.\n\n1. the river\n2. the hill\n\nAnd so they went, both of them."
HALF = 71
"""Characters of it."""


@dataclass(slots=True)
class Torn:
    """A gateway before two workers that tell the story: the first is gone after half of it, and the other goes on."""

    door: Door
    half_read: asyncio.Event
    """Set by the reader; the worker that has told the first half leaves then."""
    went_on: list[FakeRequest]
    """Requests to go on."""

    def read(self, told: str) -> None:
        """The reader has so much by now."""
        if told:
            self.half_read.set()


@asynccontextmanager
async def torn(mesh: SmallMesh, *, prefill: bool) -> AsyncIterator[Torn]:
    half_read, went_on, left = asyncio.Event(), list[FakeRequest](), list[FakeWorker]()

    def tells(name: str) -> FakeWorker:
        async def tell(asked: FakeRequest) -> None:
            await asked.claim()
            if asked.anchor or h.CONTINUE in asked.headers:
                went_on.append(asked)
                await asked.chunk(asked.anchor[:20])
                await asked.chunk(asked.anchor[20:] + STORY[HALF : HALF + 5])
                await asked.chunk(STORY[HALF + 5 :])
                await asked.answer(asked.anchor + STORY[HALF:], tokens=3)
                return
            await asked.chunk(STORY[:HALF])
            await half_read.wait()
            if not left:
                left.append(worker)
                await worker.leave()

        worker = FakeWorker(mesh.bus, name, acting(tell), prefill=prefill)
        return worker

    async with tells("fake-1"), tells("fake-2"):
        await mesh.knows("fake-1", "fake-2")
        async with door_of(mesh) as door:
            yield Torn(door, half_read, went_on)


class AbleWorker(FakeWorker):
    """A fake worker whose model can do everything."""

    def _heartbeat(self, seq: int, state: WorkerState) -> Heartbeat:
        beat = super()._heartbeat(seq, state)
        card = beat.models[0].model_copy(update={"capabilities": get_args(Capability), "aliases": ("fake-alias",)})
        return beat.model_copy(update={"models": (card,)})


@asynccontextmanager
async def played(mesh: SmallMesh, script: Any, **config: Any) -> AsyncIterator[tuple[Door, AbleWorker]]:
    """A gateway before one worker that does what the script says."""
    async with AbleWorker(mesh.bus, "fake-1", acting(script)) as worker:
        await eventually(lambda: "fake-1" in mesh.beats, timeout=PATIENT)
        async with door_of(mesh, **config) as door:
            yield door, worker


def final(asked: FakeRequest, **fields: Any) -> FinalResponse:
    """The answer of a fake worker, with these fields."""
    told: dict[str, Any] = {
        "task_id": asked.headers[h.TASK],
        "model_id": asked.headers[h.MODEL],
        "output": "",
        "tokens_used": 12,
        "duration_ms": 1.0,
        "confidence": 0.9,
        "request_id": asked.headers[h.REQUEST],
        "backend": "fake",
        "worker_id": "fake-1",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "finish_reason": "stop",
        "confidence_source": "prior",
        "created_at": utc_now(),
    }
    return FinalResponse(**told | fields)
