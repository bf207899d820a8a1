"""The control requests that a worker obeys: cancel, drain, resume, report, swap, leave."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from pydantic import ValidationError

from bus import Bus, Message
from bus.reply import accepts
from contracts import (
    BullpenError,
    CancelRequest,
    Claim,
    ControlReply,
    ControlRequest,
    ErrorCode,
    ErrorReply,
    Progress,
)
from contracts import subjects as s
from contracts.control import mistakes
from workers.base.runtime.execution import Execution
from workers.base.runtime.final_event_cache import FinalEventCache, Key
from workers.base.runtime.presence import Presence
from workers.base.runtime.swap import Swapper

log = structlog.get_logger(__name__)

SAID_INTO_THE_VOID = 5.0
"""Seconds before a reconnect in which final messages may have been lost."""


class RemoteControl:
    def __init__(
        self,
        bus: Bus,
        worker_id: str,
        *,
        presence: Presence,
        running: Mapping[Key, Execution],
        final_events: FinalEventCache,
        share: Callable[[], Awaitable[None]],
        resume: Callable[[], Awaitable[bool]],
        swapper: Swapper,
    ) -> None:
        """`share` joins or leaves the backend's queue groups, by the worker's state; `resume` ends a drain, if it
        can.
        """
        self._bus = bus
        self._id = worker_id
        self._presence = presence
        self._running = running
        self._final_events = final_events
        self._share = share
        self._resume = resume
        self._swapper = swapper
        self.superseded = asyncio.Event()
        """Set when a younger worker has this worker's id: this one has to leave."""

    async def listen(self) -> None:
        await self._bus.subscribe(s.INFER_CANCEL, self._on_cancel)
        await self._bus.subscribe(s.worker_control(self._id), self._on_control)
        self._bus.on_reconnect.append(self._reconnected)

    async def _on_cancel(self, message: Message) -> None:
        try:
            asked = CancelRequest.model_validate_json(message.data)
        except ValueError:
            return
        for execution in [e for e in self._running.values() if asked.stops(e.call.task_id, e.call.cancel_token)]:
            execution.stop(BullpenError(ErrorCode.CANCELLED, "cancelled by the caller"))

    async def _on_control(self, message: Message) -> None:
        try:
            reply = await self._obey(ControlRequest.model_validate_json(message.data))
        except ValidationError as error:
            reply = ControlReply(ok=False, worker_id=self._id, message=mistakes(error))
        if message.reply and accepts(message.reply):
            await self._bus.publish(message.reply, reply.to_bytes())

    async def _obey(self, request: ControlRequest) -> ControlReply:
        ok, told = True, ""
        match request.op:
            case "status":
                pass
            case "drain":
                await self._presence.become("draining", "asked to drain")
                await self._share()
            case "resume":
                ok = await self._resume()
                told = "" if ok else "the worker is leaving"
            case "cancel":
                self._cancel(request)
            case "report":
                await self._report(request)
            case "superseded":
                self._step_down(request)
            case "swap" | "reload":
                outcome = await (self._swapper.swap(request) if request.op == "swap" else self._swapper.reload())
                ok, told = outcome.done, outcome.message
            case "budgets":
                ok, told = False, "a worker has no budgets: ask a Manager"
        return ControlReply(
            ok=ok,
            worker_id=self._id,
            message=told,
            heartbeat=self._presence.heartbeat(),
            config_refused=self._swapper.refused,
        )

    def _cancel(self, request: ControlRequest) -> None:
        execution = self._running.get(_key(request))
        if execution is not None:
            execution.stop(BullpenError(ErrorCode.CANCELLED, "cancelled by the Manager"))

    def _step_down(self, request: ControlRequest) -> None:
        if request.epoch is not None and request.epoch != self._presence.epoch:
            log.error("superseded", worker_id=self._id, by=request.epoch)
            self.superseded.set()

    async def _report(self, request: ControlRequest) -> None:
        """Tells a Manager that was disconnected for a moment the state of one of its attempts."""
        if not request.inbox or not accepts(request.inbox):
            return
        execution, said = self._running.get(_key(request)), self._final_events.of(_key(request))
        if execution is not None:
            claim = Claim(
                attempt=execution.call.attempt, epoch=self._presence.epoch, silence_ok_ms=execution.silence_ok
            )
            await self._bus.publish(request.inbox, claim.to_bytes())  # it may have missed the first one
            body = Progress(tokens=execution.tokens, phase=execution.phase, moved=execution.moves).to_bytes()
        elif said is not None:
            body = said.body
        else:
            error = BullpenError(ErrorCode.NO_WORKER, f"{self._id} does not have this request")
            body = ErrorReply(request_id=request.request_id, error=error.detail()).to_bytes()
        await self._bus.publish(request.inbox, body)

    async def _reconnected(self) -> None:
        """Sends a heartbeat, and the final messages that may have been lost when the connection broke."""
        await self._presence.say()
        for word in self._final_events.since(asyncio.get_running_loop().time() - SAID_INTO_THE_VOID):
            await self._bus.publish(word.inbox, word.body)


def _key(request: ControlRequest) -> Key:
    return request.request_id or "", request.attempt or 0
