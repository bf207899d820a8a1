"""A small mesh to maltreat: one private server, every role a real process with settings of its own, and a caller.

The caller keeps a private inbox open for every question until the end, so that an answer that came twice, late or
never is seen. All times are `time.time()` of this one machine: the Managers' route decisions carry the same clock.
"""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from bullpen.embedded import nats_server
from bullpen.supervision.leash import leashed
from bullpen.supervision.process import role_command
from bus import Bus, BusError, BusSettings, Message
from bus.jetstream import StreamSpec, ensure_stream
from contracts import Heartbeat, RouteDecision, new_id
from contracts import subjects as s
from contracts.privacy import veiled
from tests.servers import NatsServer
from tests.support import eventually

Json = dict[str, Any]
START_WITHIN = 30.0
DEADLINE_MS = 20_000


class BareServer(NatsServer):
    """A server that tells nobody who left: only heartbeats and its "no responders" do."""

    async def start(self) -> None:
        name = f"bare-{self.port}"
        listen = ["--addr", "127.0.0.1", "--port", str(self.port), "--name", name]
        self.process = self._spawn([str(nats_server.binary()), *listen, "--js", "--sd", str(self.directory / "js")])
        await self._ready(lambda: nats_server.answers(self.port, name))


@dataclass(slots=True)
class Call:
    """One question and what came of it."""

    task_id: str
    sent: float
    finals: list[Json] = field(default_factory=list)
    """The final messages; one is right, none is lost, two are wrong."""
    answered: float = 0.0
    pieces: list[tuple[float, Json]] = field(default_factory=list)
    """Of a stream: what came before the final message, and when."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answer(self) -> Json:
        """The answer; empty when there was none, or an error."""
        return self.finals[0] if self.finals and "output" in self.finals[0] else {}

    @property
    def error(self) -> str:
        """Why there is no answer; empty when there is one."""
        if self.answer:
            return ""
        told = self.finals[0].get("error", {}) if self.finals else {}
        return f"{told.get('code')}: {told.get('message')}" if told else "silence"

    @property
    def took(self) -> float:
        return self.answered - self.sent

    def hear(self, message: Message) -> None:
        heard = {"error": {"code": "no_manager"}} if message.no_responders else from_json(message.data or b"{}")
        if heard.get("type") in ("chunk", "resumed"):
            self.pieces.append((time.time(), heard))
        elif heard:
            self.finish(heard)

    def finish(self, final: Json) -> None:
        self.answered = self.answered or time.time()
        self.finals.append(final)
        self.done.set()


class Stage:
    """Make it with `stage(directory)`."""

    def __init__(self, server: NatsServer, bus: Bus) -> None:
        self.server = server
        self.bus = bus
        self.beats: dict[str, Heartbeat] = {}
        self.routes: dict[str, list[RouteDecision]] = {}
        """By task, the decisions in the order of their attempts."""
        self._names: dict[str, str] = {}
        """Of tasks, by what `metrics.route` tells of them."""
        self.epochs: dict[str, float] = {}
        """When each incarnation of a worker was first heard."""
        self._managers: set[str] = set()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._roles: dict[str, tuple[list[str], dict[str, str]]] = {}
        self._open = AsyncExitStack()

    # Who is on stage

    def role(self, name: str, *words: str, url: str = "", **environment: str) -> None:
        """Starts a role's process. `url`: the server as it sees it, for one that stands behind a proxy."""
        told = {"NATS_URL": url or self.server.url, "BULLPEN_DATA_DIR": str(self.server.directory), **environment}
        self._roles[name] = [*role_command(), *words, "--id", name], told
        self.restart(name)

    def manager(self, name: str = "manager-1", **settings: object) -> None:
        self._managers.add(name)
        self.role(name, "manager", **_variables("manager", settings))

    def worker(self, name: str, backend: str = "simulated", *, url: str = "", **settings: object) -> None:
        self.role(name, "worker", backend, url=url, **_variables(Path(backend).name, settings))

    def restart(self, name: str) -> None:
        """Starts the same process again, under the same name; the one before must be gone, or nearly."""
        command, environment = self._roles[name]
        with (self.server.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                leashed(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
            )

    def send(self, name: str, number: signal.Signals) -> float:
        """Sends a signal and returns when."""
        at = time.time()
        self._processes[name].send_signal(number)
        return at

    async def gone(self, name: str) -> int:
        """Waits until the process has ended, and tells its exit code."""
        return await asyncio.to_thread(self._processes[name].wait, START_WITHIN)

    async def ready(self) -> None:
        """Waits until every role serves and the Managers know it."""
        await asyncio.gather(*map(self._manager_answers, self._managers))
        await asyncio.gather(*map(self.heard, self._roles.keys() - self._managers))

    async def heard(self, worker_id: str) -> None:
        """Waits for the worker's next heartbeat that says it is ready."""
        before = self.beats.pop(worker_id, None)
        try:
            await eventually(lambda: self._is_ready(worker_id, before), START_WITHIN)
        except AssertionError:
            log = (self.server.directory / f"{worker_id}.log").read_text()[-1500:]
            raise RuntimeError(f"{worker_id} does not get ready:\n{log}") from None
        await self.bus.flush()  # the Managers have got that heartbeat too

    def _is_ready(self, worker_id: str, before: Heartbeat | None) -> bool:
        beat = self.beats.get(worker_id)
        return beat is not None and beat.state == "ready" and beat != before

    # The caller

    async def ask(self, count: int, *, subject: str = s.INFER_AUTO, **request: Any) -> list[Call]:
        """Sends so many questions at once."""
        return [await self.ask_one(subject=subject, **request) for _ in range(count)]

    def call(self) -> Call:
        """A question that somebody else will ask."""
        call = Call(new_id(), self.now())
        self._names[veiled(call.task_id)] = call.task_id
        return call

    def now(self) -> float:
        return time.time()

    async def ask_one(self, *, subject: str = s.INFER_AUTO, **request: Any) -> Call:
        call = self.call()
        listener = self._open.enter_context(self.bus.listen(call.hear))
        told = {
            "prompt": f"hello from {call.task_id}",
            "task_id": call.task_id,
            "deadline_ms": DEADLINE_MS,
            "hedge": False,
            **request,
        }
        await self.bus.publish(subject, json.dumps(told).encode(), reply=listener.subject)
        return call

    async def answers(self, calls: list[Call]) -> list[Call]:
        """Waits until all have their final message, or the time for it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE_MS / 1000 + 2):
                for call in calls:
                    await call.done.wait()
        return calls

    async def busiest(self, among: Sequence[str], calls: list[Call]) -> str:
        """The worker that most of the calls went to: the one whose loss is worth seeing."""
        await eventually(lambda: all(call.task_id in self.routes for call in calls))
        winners = Counter(self.routes[call.task_id][-1].winner for call in calls)
        return max(among, key=lambda name: winners[name])

    # What it hears

    async def listen(self) -> None:
        await self.bus.subscribe_inline(s.WORKER_HEARTBEAT, self._on_beat)
        await self.bus.subscribe_inline(s.METRICS_ROUTE, self._on_route)

    def _on_beat(self, message: Message) -> None:
        beat = Heartbeat.model_validate_json(message.data)
        self.beats[beat.worker_id] = beat
        self.epochs.setdefault(beat.epoch, time.time())

    def _on_route(self, message: Message) -> None:
        decision = RouteDecision.model_validate_json(message.data)
        if decision.winner is not None:
            self.routes.setdefault(self._names.get(decision.task_id, ""), []).append(decision)

    async def _manager_answers(self, name: str) -> None:
        async def answers() -> bool:
            try:
                await self.bus.request(f"$SRV.PING.bullpen-manager.{name}", b"", timeout=0.5)
            except BusError:
                return False
            return True

        await eventually(answers, START_WITHIN)

    async def close(self) -> None:
        await self._open.aclose()
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            await asyncio.to_thread(process.wait)


@asynccontextmanager
async def stage(directory: Path, *, bare: bool = False) -> AsyncIterator[Stage]:
    """A server and nobody else yet. `bare`: one without the events that tell who left."""
    server = BareServer(directory) if bare else NatsServer(directory)
    await server.start()
    bus = await Bus.connect("benchmark", BusSettings(servers=(server.url,)))
    opened = Stage(server, bus)
    try:
        await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
        await opened.listen()
        yield opened
    finally:
        await opened.close()
        await bus.close()
        server.kill()


def _variables(section: str, settings: Mapping[str, object]) -> dict[str, str]:
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return {f"BULLPEN_{section.upper()}__{key.upper()}": value for key, value in told.items()}
