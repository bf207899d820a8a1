"""A mesh inside the test's own process: real NATS, real Manager, real workers; only processes are missing."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar
from unittest.mock import patch

from pydantic_core import from_json

from bus import Bus, BusError, BusSettings, Message, Subscription, watchdog
from bus.jetstream import StreamSpec, ensure_stream
from bus.role_status import RoleStatus
from config.watched_file import ConfigFile
from contracts import BullpenError, Heartbeat, read_heartbeat
from contracts import subjects as s
from manager.config import ManagerConfig
from manager.manager import Manager
from manager.manager import run as run_manager
from tests.support import eventually
from workers.base.interface.discovery import find
from workers.base.runtime.worker import Worker, run_worker

Json = dict[str, Any]
T = TypeVar("T")
SERVER_BACK_WITHIN = 10.0
"""Seconds for which a server that stands still is not left by those in this mesh."""
PATIENT: dict[str, Any] = {"claim_timeout": 5.0, "silent_after_beats": 25.0}
"""What a Manager in the test's own process bears, where a test does not say otherwise: a server that stands still for
some seconds, with workers whose hearts beat five times a second."""


class SmallMesh:
    """Start roles with `manager` and `worker`; ask with `ask`; everything stops at the end."""

    def __init__(self, url: str) -> None:
        self.settings = BusSettings(servers=(url,))
        self.bus: Bus
        self.beats: dict[str, Heartbeat] = {}
        self.statuses: dict[str, RoleStatus] = {}
        """What each role tells those on its machine."""
        self.managers_listen_first = False
        """Whether a new Manager listens for a while before it says that there is no worker: `manager` has seen to it
        that it heard of all."""
        self._roles: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self._patience = patch.object(watchdog, "ECHO_WAIT", SERVER_BACK_WITHIN)
        self._managers: set[str] = set()

    async def __aenter__(self) -> Self:
        self.bus = await Bus.connect("test", self.settings, patience=20)
        await eventually(self._has_stream, timeout=40)
        await self.bus.subscribe_inline(s.WORKER_HEARTBEAT, self._on_beat)
        self._patience.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.gather(*(self.stop(role) for role in list(self._roles)))
            await self.bus.close()
        finally:
            self._patience.stop()

    async def manager(self, name: str = "m-1", **config: Any) -> None:
        """With this config, or (`file`) the one in a file, which it then follows. A `PATIENT` one."""
        stop = asyncio.Event()
        followed = ConfigFile(ManagerConfig, "manager", config["file"]) if "file" in config else None
        told = followed.load() if followed else ManagerConfig(**{**PATIENT, **config})
        status = self.statuses[name] = RoleStatus()
        running = run_manager(self.settings, told, manager_id=name, stop=stop, config_file=followed, status=status)
        self._roles[name] = stop, asyncio.create_task(running)
        self._managers.add(name)
        await self._managers_have_heard()
        heard = {worker_id: beat.seq for worker_id, beat in self.beats.items()}
        await self.workers_say()
        await eventually(lambda: all(self.beats[worker_id].seq > seq for worker_id, seq in heard.items()), timeout=30)
        await self._managers_have_heard()
        for manager in () if self.managers_listen_first else self._objects(Manager):
            manager._shared.warm_at = 0.0

    async def worker(self, worker_id: str, backend: str = "simulated", **config: Any) -> None:
        """Starts a worker as `manager` does, and waits until it is ready."""
        folder = find(backend)
        followed = folder.config_file(config["file"]) if "file" in config else None
        told = followed.load() if followed else folder.load().config_class(**{"heartbeat_interval": 0.2, **config})
        stop = asyncio.Event()
        status = self.statuses[worker_id] = RoleStatus()
        running = run_worker(
            self.settings, folder, told, worker_id=worker_id, stop=stop, config_file=followed, status=status
        )
        self._roles[worker_id] = stop, asyncio.create_task(running)
        await self.state(worker_id, "ready")
        await self._managers_have_heard()

    def running(self, name: str) -> "asyncio.Task[None]":
        """The task of a role; this mesh does not care for it any more."""
        return self._roles.pop(name)[1]

    async def state(self, worker_id: str, state: str, *, within: float = 40) -> Heartbeat:
        """Waits until the worker says that it is in that state."""
        await eventually(lambda: worker_id in self.beats and self.beats[worker_id].state == state, timeout=within)
        return self.beats[worker_id]

    async def knows(self, *worker_ids: str) -> None:
        """Waits until these have said something, and the Managers have heard it."""
        await eventually(lambda: self.beats.keys() >= set(worker_ids))
        await self._managers_have_heard()

    @property
    def present(self) -> set[str]:
        """The workers that have said something, and not that they leave."""
        return {worker_id for worker_id, beat in self.beats.items() if beat.state != "stopped"}

    async def workers_say(self) -> None:
        """One heartbeat of each worker in this process, now."""
        await asyncio.gather(*(worker._presence.say() for worker in self._objects(Worker)))

    async def _managers_have_heard(self) -> None:
        """What we heard was sent to them too, and they read it before they answer."""
        for name in self._managers & self._roles.keys():
            await eventually(partial(self._answers, f"$SRV.PING.bullpen-manager.{name}"), timeout=30)

    async def stop(self, name: str) -> None:
        """As SIGTERM would."""
        stop, running = self._roles.pop(name)
        stop.set()
        await running

    async def manager_says(self, name: str = "m-1", op: str = "status") -> Json:
        """A Manager's answer to an order."""
        return await self._told(s.manager_control(name), op)

    async def worker_says(self, worker_id: str, op: str) -> Json:
        """A worker's answer to an order."""
        return await self._told(s.worker_control(worker_id), op)

    async def _told(self, subject: str, op: str) -> Json:
        reply = await self.bus.request(subject, json.dumps({"op": op}).encode(), timeout=30)
        told: Json = from_json(reply.data)
        return told

    async def drains(self, name: str = "m-1") -> bool:
        """Whether a Manager takes no more requests; for `eventually`."""
        return bool((await self.manager_says(name))["state"] == "draining")

    async def ask(
        self, subject: str = s.INFER_AUTO, *, timeout: float = 30, headers: Any = None, **request: Any
    ) -> Json:
        body = json.dumps({"prompt": "hello there", **request}).encode()
        return await self.ask_raw(body, subject, timeout=timeout, headers=headers)

    async def ask_raw(
        self, body: bytes, subject: str = s.INFER_AUTO, *, timeout: float = 30, headers: Any = None
    ) -> Json:
        reply = await self.bus.request(subject, body, timeout=timeout, headers=headers)
        answer: Json = from_json(reply.data)
        if "error" in answer:
            assert reply.headers["Nats-Service-Error-Code"] == str(answer["error"]["status"])
            assert reply.headers["Nats-Service-Error"]
        return answer

    async def stream(self, subject: str = s.INFER_AUTO, *, timeout: float = 40, **request: Any) -> list[Json | None]:
        """Every message of a streamed answer; the empty one at the end as None."""
        messages: asyncio.Queue[Message] = asyncio.Queue()
        with self.bus.listen(messages.put_nowait) as inbox:
            body = json.dumps({"prompt": "hello there", "stream": True, **request}).encode()
            await self.bus.publish(subject, body, reply=inbox.subject)
            heard: list[Json | None] = []
            async with asyncio.timeout(timeout):
                while not heard or heard[-1] is not None:
                    message = await messages.get()
                    heard.append(from_json(message.data) if message.data else None)
        return heard

    def _objects(self, kind: type[T]) -> list[T]:
        """What is behind the roles of this kind that run."""
        running = [self.statuses[name] for name in self._roles if name in self.statuses]
        return [found for status in running if isinstance(found := behind(status), kind)]

    async def mute_worker(self, worker_id: str, on_request: Callable[[Message], None] | None = None) -> Subscription:
        """Something that beats its heart but never answers. Lasts until the mesh stops."""
        beat = next(iter(self.beats.values()))
        heard = on_request or (lambda message: None)
        listening = await self.bus.subscribe_inline(s.infer_worker(beat.backend, worker_id), heard)
        stop = asyncio.Event()
        self._roles[worker_id] = stop, asyncio.create_task(self._beat(beat, worker_id, stop))
        await eventually(lambda: worker_id in self.beats)
        return listening

    async def _beat(self, beat: Heartbeat, worker_id: str, stop: asyncio.Event) -> None:
        seq = 0
        while not stop.is_set():
            seq += 1
            own = {"worker_id": worker_id, "connection": None, "seq": seq, "inflight": 0, "ewma_ms": 1.0}
            told = beat.model_copy(update=own)
            await self.bus.publish(s.WORKER_HEARTBEAT, told.to_bytes())
            await asyncio.sleep(0.1)

    async def _has_stream(self) -> bool:
        with suppress(BusError):
            await ensure_stream(self.bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
            return True
        return False

    async def _answers(self, subject: str) -> bool:
        with suppress(BusError):
            return bool((await self.bus.request(subject, b"", timeout=5)).data)
        return False

    def _on_beat(self, message: Message) -> None:
        with suppress(BullpenError):  # a test may play a worker that talks nonsense
            beat = read_heartbeat(message.data)
            self.beats[beat.worker_id] = beat


def behind(status: RoleStatus) -> object:
    """The role that fills this in."""
    return getattr(status.why_not, "__self__", None)
