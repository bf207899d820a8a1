"""Who gets a worker's answer: a caller that asked the worker directly, or a Manager.

A direct caller gets chunks and one final message. A Manager also gets `claim` (the worker has this attempt) and
`progress`, so that it can tell a slow worker from a dead one. Before a worker calls a paid provider, it asks the
Manager once more, so that no money is spent on an answer that no caller waits for.
"""

import asyncio
from typing import Protocol

from bus import Bus, BusError, Message, Reply
from contracts import (
    Answer,
    BullpenError,
    Chunk,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Go,
    PartialUsage,
    Phase,
    Piece,
    Progress,
    SilenceOk,
)
from workers.base.runtime.final_event_cache import FinalEventCache

GO_WITHIN = 2.0
"""Seconds that a Manager has to send `go`; a Manager that does not is gone."""


class ReplyChannel(Protocol):
    """The recipient of one attempt's messages."""

    @property
    def wants_chunks(self) -> bool: ...

    async def claim(self, silence_ok: SilenceOk | None) -> None:
        """Claims the attempt, and announces how long it may be silent."""

    async def permission(self, silence_ok: SilenceOk | None = None) -> float | None:
        """Claims the attempt, and asks whether it may spend money. Returns the seconds left for it; None: there is no
        such limit.

        Raises `BullpenError(no_worker)` when the answer is not wanted any more.
        """

    async def progress(self, tokens: int, phase: Phase, moves: int) -> None: ...

    async def chunk(self, piece: Piece) -> None:
        """Sends a piece of the answer."""

    async def response(self, response: Answer) -> BullpenError | None:
        """Sends the answer. Returns the error that was sent instead, if the answer could not be sent."""

    async def error(self, error: BullpenError, usage: PartialUsage) -> None: ...


class CallerChannel:
    """The channel to a caller that asked `infer.<backend>` without a Manager."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    @property
    def wants_chunks(self) -> bool:
        return self._reply.streaming

    async def claim(self, silence_ok: SilenceOk | None) -> None:
        """Does nothing: a caller expects no claim."""

    async def permission(self, silence_ok: SilenceOk | None = None) -> float | None:
        return None

    async def progress(self, tokens: int, phase: Phase, moves: int) -> None:
        """Does nothing: a caller sees only chunks and the answer."""

    async def chunk(self, piece: Piece) -> None:
        await self._reply.chunk(piece)

    async def response(self, response: Answer) -> BullpenError | None:
        await self._complete(response)
        return await self._reply.response(response)

    async def _complete(self, response: Answer) -> None:
        """Makes the stream's pieces equal to the answer: sends what is missing, after a restart if earlier pieces do
        not belong to it.
        """
        reply, worker_id = self._reply, response.worker_id
        if not reply.streaming:
            return
        missing = reply.delivered.missing(response)
        if missing is None:
            await reply.resumed(worker_id, worker_id, continued=False)
            missing = reply.delivered.missing(response)
        await reply.chunk(missing or Piece())

    async def error(self, error: BullpenError, usage: PartialUsage) -> None:
        await self._reply.error(error)


class ManagerChannel:
    """The channel to a Manager, which listens on a private inbox."""

    def __init__(
        self,
        bus: Bus,
        inbox: str,
        task_id: str,
        request_id: str,
        *,
        attempt: int,
        epoch: str,
        streaming: bool,
        final_events: FinalEventCache,
    ) -> None:
        self._bus = bus
        self._key = request_id, attempt
        self._final_events = final_events
        self._inbox = inbox
        self._task_id = task_id
        self._request_id = request_id
        self._claim = Claim(attempt=attempt, epoch=epoch)
        self._streaming = streaming
        self._seq = 0

    @property
    def wants_chunks(self) -> bool:
        return self._streaming

    async def claim(self, silence_ok: SilenceOk | None) -> None:
        await self._bus.publish(self._inbox, self._claimed(silence_ok))

    def _claimed(self, silence_ok: SilenceOk | None) -> bytes:
        return self._claim.model_copy(update={"silence_ok_ms": silence_ok}).to_bytes()

    async def permission(self, silence_ok: SilenceOk | None = None) -> float | None:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        with self._bus.listen(lambda message: None if answer.done() else answer.set_result(message)) as listener:
            await self._bus.publish(self._inbox, self._claimed(silence_ok), reply=listener.subject)
            try:
                async with asyncio.timeout(GO_WITHIN):
                    message = await answer
            except TimeoutError:
                raise _unwanted("the Manager did not say go") from None
        if message.no_responders or not message.data:
            raise _unwanted("the Manager is gone")
        return Go.model_validate_json(message.data).budget_ms / 1000

    async def progress(self, tokens: int, phase: Phase, moves: int) -> None:
        await self._bus.publish(self._inbox, Progress(tokens=tokens, phase=phase, moved=moves).to_bytes())

    async def chunk(self, piece: Piece) -> None:
        chunk = Chunk.of(self._task_id, self._seq, piece)
        self._seq += 1
        await self._bus.publish(self._inbox, chunk.to_bytes())

    async def response(self, response: Answer) -> BullpenError | None:
        try:
            await self._last_word(FinalResponse.of(response, self._claim.attempt, self._claim.epoch).to_bytes())
        except BullpenError as error:
            await self.error(error, PartialUsage.of(response))
            return error
        return None

    async def error(self, error: BullpenError, usage: PartialUsage) -> None:
        reply = ErrorReply(
            task_id=self._task_id,
            request_id=self._request_id,
            error=error.detail(),
            usage=usage,
            outcome=error.outcome,
            attempt=self._claim.attempt,
            epoch=self._claim.epoch,
        )
        await self._last_word(reply.to_bytes())

    async def _last_word(self, body: bytes) -> None:
        await self._bus.publish(self._inbox, body)
        self._final_events.keep(self._key, self._inbox, body, asyncio.get_running_loop().time())


class Chunker:
    """Gathers small pieces for 20 ms, so that a hundred tokens a second are not a hundred messages.

    The first piece is sent at once, because the caller is waiting for it.
    """

    GATHER = 0.02

    def __init__(self, channel: ReplyChannel) -> None:
        self._channel = channel
        self._pieces: list[Piece] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None
        self._first = True

    async def add(self, piece: Piece) -> None:
        self._pieces.append(piece)
        if self._first:
            self._first = False
            await self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.GATHER, self._due)

    async def flush(self) -> None:
        """Sends the gathered pieces, after those that are being sent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sending is not None:
            await self._sending
        if self._pieces:
            await self._channel.chunk(self._gathered())

    def _due(self) -> None:
        self._timer = None
        before = self._sending
        self._sending = asyncio.get_running_loop().create_task(self._send(self._gathered(), before))

    def _gathered(self) -> Piece:
        pieces, self._pieces = self._pieces, []
        return sum(pieces[1:], pieces[0])

    async def _send(self, piece: Piece, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        try:
            await self._channel.chunk(piece)
        except BusError:
            return  # the connection is away; the final message tells what became of the answer


def _unwanted(why: str) -> BullpenError:
    """The error for an answer that the Manager does not want any more. Nothing was begun, so another worker may be
    asked.
    """
    return BullpenError(ErrorCode.NO_WORKER, why)
