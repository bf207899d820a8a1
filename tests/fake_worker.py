"""A worker that does what a test says, word by word: what a real one does only when it is ill."""

import asyncio
from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any, Self

from pydantic_core import from_json

from bus import Bus, Message
from contracts import (
    BullpenError,
    Capability,
    Chunk,
    Claim,
    ControlRequest,
    ErrorReply,
    FinalResponse,
    Heartbeat,
    ModelCard,
    OpenModel,
    PartialUsage,
    Price,
    Progress,
    WorkerState,
    new_id,
    utc_now,
)
from contracts import headers as h
from contracts import subjects as s
from contracts.going_on import Interrupted
from contracts.request import InferenceRequest

INTERVAL = 0.2
"""Seconds between its heartbeats."""
_scripts: set[asyncio.Task[None]] = set()


def acting(script: "Callable[[Asked], Coroutine[Any, Any, None]]") -> "Callable[[Asked], None]":
    """`script`, a coroutine function of what was asked, as the callback that a fake worker wants."""

    def on_request(asked: Asked) -> None:
        task = asyncio.get_running_loop().create_task(script(asked))
        _scripts.add(task)
        task.add_done_callback(_scripts.discard)

    return on_request


class Asked:
    """A request that reached the fake worker."""

    def __init__(self, bus: Bus, worker_id: str, epoch: str, message: Message) -> None:
        self._bus = bus
        self._epoch = epoch
        self._worker_id = worker_id
        self.headers = message.headers
        self.body = from_json(message.data)
        self._inbox = message.reply
        self._pieces = 0
        self.is_open = True
        """Until it is answered or fails."""

    @property
    def anchor(self) -> str:
        """The words that it is asked to repeat before it goes on; empty: none."""
        interrupted = Interrupted.of(InferenceRequest.model_validate(self.body, strict=False))
        return "" if interrupted is None else interrupted.anchor

    async def say(self, message: OpenModel) -> None:
        await self._bus.publish(self._inbox, message.to_bytes())

    async def claim(self) -> None:
        await self.say(Claim(attempt=int(self.headers[h.ATTEMPT]), epoch=self._epoch))

    async def progress(self, tokens: int = 0, moved: int | None = None) -> None:
        await self.say(Progress(tokens=tokens, phase="decode" if tokens else "prefill", moved=moved))

    async def chunk(self, text: str, *, lost: bool = False, **told: Any) -> None:
        """A piece of the answer; a `lost` one never arrives. `told`: what it brings beside text."""
        seq, self._pieces = self._pieces, self._pieces + 1
        if not lost:
            await self.say(Chunk(task_id=self.headers[h.TASK], seq=seq, delta=text, tokens=seq + 1, **told))

    async def answer(
        self, output: str, *, tokens: int = 2, cost_usd: Decimal | None = None, confidence: float = 0.9, **told: Any
    ) -> None:
        """`told`: more fields of the answer, or others."""
        self.is_open = False
        usual = {"finish_reason": "stop"}
        await self.say(
            FinalResponse(
                task_id=self.headers[h.TASK],
                model_id=self.headers[h.MODEL],
                output=output,
                tokens_used=10 + tokens,
                duration_ms=1.0,
                confidence=confidence,
                request_id=self.headers[h.REQUEST],
                backend="fake",
                worker_id=self._worker_id,
                prompt_tokens=10,
                completion_tokens=tokens,
                cost_usd=cost_usd,
                confidence_source="prior",
                created_at=utc_now(),
                **{**usual, **told},
            )
        )

    async def fail(self, error: BullpenError, usage: PartialUsage | None = None) -> None:
        self.is_open = False
        await self.say(ErrorReply(task_id=self.headers[h.TASK], error=error.detail(), usage=usage))


class FakeWorker:
    """`async with FakeWorker(bus, "fake-1", script)`: beats its heart, looks quick, and hands requests to `script`."""

    def __init__(
        self,
        bus: Bus,
        worker_id: str,
        on_request: Callable[[Asked], None] = lambda asked: None,
        *,
        clock: float = 0.0,
        price: Price | None = None,
        capacity: int | None = None,
        prefill: bool = True,
        able: tuple[Capability, ...] = ("chat", "stream", "json", "tools"),
        model: str = "fake",
    ) -> None:
        """`clock`: seconds that its wall clock is ahead of everybody else's. `capacity` None: always idle."""
        self._bus = bus
        self._id = worker_id
        self._on_request = on_request
        self._clock = clock
        self._price = price
        self._capacity = capacity
        self._able: tuple[Capability, ...] = (*able, *(("prefill",) if prefill else ()))
        self._model = model
        self._epoch = new_id()
        self._seq = 0
        self.asked: list[Asked] = []
        self.told: list[ControlRequest] = []

    async def __aenter__(self) -> Self:
        self._listening = [
            await self._bus.subscribe_inline(s.infer_worker("fake", self._id), self._on_message),
            await self._bus.subscribe_inline(s.asked_worker("embed", "fake", self._id), self._on_message),
            await self._bus.subscribe_inline(s.worker_control(self._id), self._on_control),
        ]
        await self._say()
        await self._bus.flush(30)  # whoever asks from now on asks a Manager that has heard of it
        self.breathe()
        return self

    async def __aexit__(self, *_: object) -> None:
        for subscription in self._listening:
            await subscription.stop()
        await self.leave()

    async def leave(self) -> None:
        """Says that it is gone; what it was asked stays undone."""
        self.hold_breath()
        await asyncio.gather(self._beating, return_exceptions=True)
        await self._bus.publish(s.WORKER_HEARTBEAT, self._heartbeat(1_000_000, "stopped").to_bytes())

    def hold_breath(self) -> None:
        """No heartbeat any more, until `breathe`."""
        self._beating.cancel()

    def breathe(self) -> None:
        self._beating = asyncio.create_task(self._beat())

    def heartbeat(self, seq: int) -> Heartbeat:
        return self._heartbeat(seq, "ready")

    def _heartbeat(self, seq: int, state: WorkerState) -> Heartbeat:
        card = ModelCard(
            model_id=self._model,
            context_window=8192,
            capabilities=self._able,
            price=self._price,
            local=True,
        )
        now = utc_now()
        return Heartbeat(
            worker_id=self._id,
            backend="fake",
            models=(card,),
            state=state,
            capacity=self._capacity or 64,
            inflight=sum(asked.is_open for asked in self.asked) if self._capacity else 0,
            ewma_ms=1.0,
            epoch=self._epoch,
            seq=seq,
            interval_ms=round(1000 * INTERVAL),
            started_at=now,
            sent_at=round((now.timestamp() + self._clock) * 1000),
        )

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self._say()

    async def _say(self) -> None:
        self._seq += 1
        await self._bus.publish(s.WORKER_HEARTBEAT, self.heartbeat(self._seq).to_bytes())

    def _on_message(self, message: Message) -> None:
        asked = Asked(self._bus, self._id, self._epoch, message)
        self.asked.append(asked)
        self._on_request(asked)

    def _on_control(self, message: Message) -> None:
        self.told.append(ControlRequest.model_validate_json(message.data))
