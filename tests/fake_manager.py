"""A Manager that does as it is told: it speaks the wire to the letter and asks nobody."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Self

from bus import Bus, BusSettings, Message
from bus.service import Service, serve_info
from contracts import (
    AttemptSummary,
    BullpenError,
    Chunk,
    ControlReply,
    ErrorReply,
    FinalResponse,
    Heartbeat,
    InferenceResponse,
    ModelCard,
    Outcome,
    StatusReply,
    new_id,
    utc_now,
)
from contracts import subjects as s

ATTEMPT = AttemptSummary(worker_id="w-1", model_id="m", outcome=Outcome.FAILED, duration_ms=3.0, error="it died")


def response(task_id: str, output: str = "Paris", **changes: Any) -> InferenceResponse:
    told: dict[str, Any] = {
        "task_id": task_id,
        "model_id": "m",
        "output": output,
        "tokens_used": 3,
        "duration_ms": 4.0,
        "confidence": 0.5,
        "request_id": new_id(),
        "backend": "b",
        "worker_id": "w-1",
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "finish_reason": "stop",
        "confidence_source": "prior",
        "created_at": utc_now(),
        **changes,
    }
    return InferenceResponse(**told)


def heartbeat(worker_id: str = "w-1", **changes: Any) -> Heartbeat:
    card = ModelCard(model_id="m", context_window=100, local=True)
    told: dict[str, Any] = {
        "worker_id": worker_id,
        "backend": "b",
        "models": (card,),
        "state": "ready",
        "capacity": 4,
        "epoch": "e1",
        "seq": 1,
        "started_at": utc_now(),
        **changes,
    }
    return Heartbeat(**told)


class FakeManager:
    """Set `script`, then ask. `requests` is what was asked, `cancelled` the task ids that were stopped.

    It says of a task that it has it (`infer.status`) while the script runs.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.requests: list[tuple[Message, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self.state = "ready"
        self.budgets: list[dict[str, Any]] = []
        self.has: list[str] = []
        """The tasks it has now."""
        self.asked_for: list[str] = []
        """The tasks that somebody looked for."""
        self.script: Callable[[Message, str], Awaitable[None]] = self.answer

    @classmethod
    async def connect(cls, url: str) -> Self:
        """One that listens to nothing yet."""
        return cls(await Bus.connect("manager:fake", BusSettings(servers=(url,))))

    @classmethod
    async def start(cls, url: str) -> Self:
        manager = await cls.connect(url)
        await manager.bus.subscribe(s.INFER_AUTO, manager._serve, queue=s.INFER_QUEUE)
        await manager.bus.subscribe_inline(s.INFER_CANCEL, manager._on_cancel)
        await manager.bus.subscribe(s.INFER_STATUS, manager._on_status)
        await manager.bus.subscribe(s.manager_control("fake"), manager._on_control)
        await serve_info(manager.bus, Service("bullpen-manager", "fake", "1.0.0", "a fake"))
        await manager.bus.flush(30)
        return manager

    async def answer(self, message: Message, task_id: str) -> None:
        """One answer; to a stream, three chunks and the answer."""
        if not json.loads(message.data).get("stream"):
            await self.bus.publish(message.reply, response(task_id).to_bytes())
            return
        await self.chunks(message, task_id, "Pa", "ri", "s")
        await self.final(message, task_id)

    async def chunks(self, message: Message, task_id: str, *deltas: str, first: int = 0) -> None:
        for seq, delta in enumerate(deltas, first):
            await self.bus.publish(message.reply, Chunk(task_id=task_id, seq=seq, delta=delta).to_bytes())

    async def final(self, message: Message, task_id: str, **changes: Any) -> None:
        await self.bus.publish(
            message.reply, FinalResponse(**dict(response(task_id, **changes))).to_bytes(), headers={"Bullpen-Task": "t"}
        )
        await self.bus.publish(message.reply, b"")

    async def fail(self, message: Message, task_id: str, error: BullpenError) -> None:
        body = ErrorReply(task_id=task_id, error=error.detail(), attempts=(ATTEMPT,)).to_bytes()
        headers = {"Nats-Service-Error": error.message, "Nats-Service-Error-Code": str(error.status)}
        await self.bus.publish(message.reply, body, headers=headers)
        if json.loads(message.data).get("stream"):
            await self.bus.publish(message.reply, b"")

    async def silence(self, message: Message, task_id: str) -> None:
        await asyncio.Event().wait()

    async def _serve(self, message: Message) -> None:
        request = json.loads(message.data)
        task_id = request["task_id"]
        self.requests.append((message, request))
        self.has.append(task_id)
        try:
            await self.script(message, task_id)
        finally:
            self.has.remove(task_id)

    async def _on_status(self, message: Message) -> None:
        task_id = json.loads(message.data)["task_id"]
        self.asked_for.append(task_id)
        if task_id in self.has:
            reply = StatusReply(manager_id="fake", task_id=task_id, request_id="r", state="running")
            await self.bus.publish(message.reply, reply.to_bytes())

    async def _on_control(self, message: Message) -> None:
        op = json.loads(message.data)["op"]
        self.state = {"drain": "draining", "resume": "ready"}.get(op, self.state)
        told = {"ok": True, "manager_id": "fake", "state": self.state, "inflight": len(self.has), "waiting": 0}
        if op == "budgets":
            told["budgets"] = self.budgets
        await self.bus.publish(message.reply, json.dumps(told).encode())

    def _on_cancel(self, message: Message) -> None:
        self.cancelled.append(json.loads(message.data)["task_id"])


class FakeWorkers:
    """Heartbeats of workers that are not there."""

    def __init__(self, manager: FakeManager) -> None:
        self._bus = manager.bus
        self.told: list[str] = []
        self.beats = [
            heartbeat("local-1", inflight=2, tokens_per_second=41.5),
            heartbeat("local-2", state="degraded", reason="no key: set SOME_KEY\x1b[2J"),
        ]
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            for beat in self.beats:
                await self._bus.publish(s.WORKER_HEARTBEAT, beat.to_bytes())
            await asyncio.sleep(0.2)

    async def listen(self) -> None:
        await serve_info(self._bus, Service("bullpen-worker", "local-1", "1.0.0", "fake"))
        await self._bus.subscribe(s.worker_control("local-1"), self._obey)
        await self._bus.flush(30)

    async def _obey(self, message: Message) -> None:
        op = json.loads(message.data)["op"]
        self.told.append(op)
        state = {"drain": "draining", "resume": "ready", "status": self.beats[0].state}[op]
        beat = heartbeat("local-1", state=state, host=self.beats[0].host)
        await self._bus.publish(message.reply, ControlReply(ok=True, worker_id="local-1", heartbeat=beat).to_bytes())

    async def stop(self) -> None:
        self._beating.cancel()
        await asyncio.wait({self._beating})
