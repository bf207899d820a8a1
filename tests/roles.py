"""Managers and workers as real processes, each with an environment of its own, and callers who count what comes back.

Unlike in `bullpen.mesh.Mesh`, nobody is started again and the server is the test's own: what dies stays dead, and
what is away comes back when the test says so.
"""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import from_json

from bus import Bus, BusError, BusSettings, Listener, Message
from contracts import Heartbeat
from contracts import subjects as s
from tests.cli import environment
from tests.servers import PlainNats
from tests.support import eventually
from tests.warm_roles import WarmRole

Json = dict[str, Any]
PATIENT = {"BULLPEN_MANAGER__CLAIM_TIMEOUT": "20", "BULLPEN_MANAGER__SILENT_AFTER_BEATS": "20"}
"""Of a Manager, where a test does not say otherwise: on a busy machine a worker stands still for seconds."""
AS_SHIPPED = {"BULLPEN_MANAGER__CLAIM_TIMEOUT": "0.25", "BULLPEN_MANAGER__SILENT_AFTER_BEATS": "2.5"}
"""For what is measured."""
PROMPT = {"BULLPEN_MANAGER__CLAIM_TIMEOUT": "5", "BULLPEN_MANAGER__SILENT_AFTER_BEATS": "5"}
"""Of a Manager that is to notice silent workers, and still none that only had to wait for a processor."""


@dataclass(eq=False)
class Question:
    """One question, and everything that came back for it."""

    asked: float = field(default_factory=time.monotonic)
    heard: list[Json] = field(default_factory=list)
    finals: list[Json] = field(default_factory=list)
    """Answers and errors: one, if all is well."""
    took: float = 0.0
    """Seconds until the first of them."""
    inbox: str = ""

    def hear(self, message: Message) -> None:
        told: Json = {"error": {"code": "no_responders"}} if message.no_responders else from_json(message.data or "{}")
        self.heard.append(told)
        if "error" in told or "output" in told:
            self.took = self.took or time.monotonic() - self.asked
            self.finals.append(told)

    @property
    def code(self) -> str:
        """The error's code; empty for an answer."""
        return str(self.finals[0]["error"]["code"]) if "error" in self.finals[0] else ""

    @property
    def attempts(self) -> int:
        return len(self.finals[0]["attempts"])


class Roles:
    """`roles.manager("m-1")`, `roles.worker("w-1")`, `await roles.ready()`; killed at the end of the block."""

    def __init__(self, directory: Path, url: str, callers_url: str | None = None) -> None:
        """`callers_url`: where those who ask connect, when not where the roles do."""
        self._directory = directory
        self._url = url
        self._callers_url = callers_url or url
        self._processes: dict[str, WarmRole] = {}
        self._inboxes: list[Listener[Message]] = []
        self.bus: Bus
        self.all_logs: Path | None = None
        """Where those who start from now on log, instead of each to a file of its own."""
        self.beats: dict[str, Heartbeat] = {}
        self.most: Counter[str] = Counter()
        """The most requests that each worker, since it was started, ever said that it had. It never becomes less."""

    async def __aenter__(self) -> Self:
        settings = BusSettings(servers=tuple(self._callers_url.split(",")))
        self.bus = await Bus.connect("test", settings, watchdog=False)  # bare callers have none
        await self.bus.subscribe_inline(s.WORKER_HEARTBEAT, self._on_beat)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)
        await self.bus.close()

    def manager(self, name: str = "m-1", **env: str) -> None:
        self._start(name, ["manager", "--id", name], {**PATIENT, **env})

    def worker(self, name: str = "w-1", backend: str = "simulated", *options: str, **env: str) -> None:
        self.beats.pop(name, None)
        self.most.pop(name, None)
        self._start(name, ["worker", backend, "--id", name, *options], env)

    def gateway(self, name: str = "g-1", **env: str) -> None:
        self._start(name, ["gateway", "--id", name], env)

    def stop(self, name: str) -> None:
        """As a supervisor would; see `ended`."""
        self.send(name, signal.SIGTERM)

    async def ready(self, *, within: float = 60.0) -> None:
        """Waits until every process serves, and the Managers know every worker."""
        managers = [name for name in self._processes if name.startswith("m-")]
        workers = [name for name in self._processes if name.startswith("w-")]
        for name in managers:
            await eventually(partial(self._answers, f"$SRV.PING.bullpen-manager.{name}"), timeout=within)
        known = {name: beat.seq for name, beat in self.beats.items() if managers}
        await eventually(lambda: all(self._is_ready(name, known.get(name, 0)) for name in workers), timeout=within)

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pid(name), number)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def ended(self, name: str) -> int | None:
        """The exit code; None while it runs."""
        return self._processes[name].poll()

    @property
    def running(self) -> set[str]:
        return {name for name, process in self._processes.items() if process.poll() is None}

    def kill(self, name: str) -> None:
        """kill -9, and forget it."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(10)

    def log(self, name: str) -> str:
        """Everything that its processes have said."""
        file = self._directory / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    async def ask(self, subject: str = s.INFER_AUTO, headers: dict[str, str] | None = None, **request: Any) -> Question:
        """Sends a question; the answer is waited for with `answered`."""
        question = Question()
        inbox = self.bus.listen(question.hear)
        question.inbox = inbox.subject
        self._inboxes.append(inbox)
        body = json.dumps({"prompt": "hello there", **request}).encode()
        await self.bus.publish(subject, body, reply=inbox.subject, headers=headers)
        return question

    async def ask_many(self, count: int, subject: str = s.INFER_AUTO, **request: Any) -> list[Question]:
        return [await self.ask(subject, **request) for _ in range(count)]

    async def answer(
        self, subject: str = s.INFER_AUTO, headers: dict[str, str] | None = None, **request: Any
    ) -> Question:
        """Asks, and waits for what is told."""
        return (await self.answered([await self.ask(subject, headers, **request)]))[0]

    async def answered(self, questions: Iterable[Question], *, within: float = 40.0) -> list[Question]:
        """Waits until each has been told something final; then nobody was told twice, now and a moment later."""
        waiting = list(questions)
        await eventually(lambda: all(question.finals for question in waiting), timeout=within)
        await asyncio.sleep(0.1)
        assert [question.finals for question in waiting if len(question.finals) > 1] == []
        return waiting

    async def serves_again(self, *, within: float) -> None:
        """Waits until a question that is asked now gets its answer."""

        async def once() -> bool:
            question = await self.ask(max_tokens=1)
            await eventually(lambda: question.finals, timeout=5)
            return not question.code

        await eventually(once, timeout=within)

    async def have(self, count: int, *names: str) -> None:
        """Waits until these workers have said that they have so many requests, and some each; or had, for a while."""

        def all_do() -> bool:
            had = [self.most[name] for name in names]
            return all(had) and sum(had) >= count

        await eventually(all_do, timeout=40)

    async def manager_says(self, name: str, op: str = "status") -> Json:
        """A Manager's answer to an order; asked again when it has none within some seconds."""

        async def once() -> Json | None:
            with suppress(BusError):
                body = json.dumps({"op": op}).encode()
                told: Json = from_json((await self.bus.request(f"manager.control.{name}", body, timeout=5)).data)
                return told
            return None

        answer: Json = await eventually(once)
        return answer

    def _start(self, name: str, arguments: list[str], env: dict[str, str]) -> None:
        with (self.all_logs or self._directory / f"{name}.log").open("ab") as log:
            own = {"NATS_URL": self._url, "BULLPEN_DATA_DIR": str(self._directory / "data"), **env}
            self._processes[name] = WarmRole(arguments, environment(**own), log)

    def _is_ready(self, name: str, known: int) -> bool:
        """Whether a worker has said so, in a heartbeat later than that. Raises `RuntimeError` when it is gone."""
        if self.ended(name) is not None:
            raise RuntimeError(f"{name} ended with {self.ended(name)}: {self.log(name)[-2000:]}")
        return name in self.beats and self.beats[name].state == "ready" and self.beats[name].seq > known

    async def _answers(self, subject: str) -> bool:
        with suppress(BusError):
            return bool((await self.bus.request(subject, b"", timeout=5)).data)
        return False

    def _on_beat(self, message: Message) -> None:
        with suppress(ValidationError):  # some tests send what is none
            beat = Heartbeat.model_validate_json(message.data)
            self.beats[beat.worker_id] = beat
            self.most[beat.worker_id] = max(self.most[beat.worker_id], beat.inflight)


@asynccontextmanager
async def roles_on_a_server(directory: Path, config: str = "") -> AsyncIterator[Roles]:
    """Nobody yet, and a NATS server of this configuration."""
    server = PlainNats(directory, config)
    await server.start()
    try:
        async with Roles(directory, server.url) as roles:
            yield roles
    finally:
        server.kill()


def unwell(questions: Iterable[Question]) -> list[Json]:
    """What was told to those who got no answer."""
    return [question.finals[0] for question in questions if question.code]
