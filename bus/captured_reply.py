"""Keeps an answer in memory instead of publishing it: for durable jobs and shadow traffic."""

from collections.abc import Callable

from bus.connection import Bus
from bus.delivered import Delivered
from bus.headers import Headers
from bus.reply import FinalMessage, FinalMessages
from contracts import Answer, AttemptSummary, BullpenError, Piece


class CapturedReply:
    """A `Reply` without a reader: it never streams, and its final message is in `body` and `headers`."""

    streaming = False
    was_resumed = False
    first_chunk_at: float | None = None

    def __init__(self, bus: Bus, task_id: str, request_id: str) -> None:
        self._final = FinalMessages(bus, task_id, request_id)
        self.delivered = Delivered()
        self.extra_headers: Headers = {}
        self.on_abandoned: Callable[[], None] | None = None
        self.finished = False
        self.body = b""
        self.headers: Headers = {}

    async def chunk(self, piece: Piece) -> None:
        """Sends nothing: the final message has the whole answer."""

    async def resumed(self, from_worker: str, to_worker: str, *, continued: bool) -> None:
        """Sends nothing: the final message says whether the answer was resumed."""

    async def response(self, response: Answer) -> BullpenError | None:
        try:
            message = self._final.response(response, self.extra_headers, streaming=False)
        except BullpenError as error:
            await self.error(error, response.attempts)
            return error
        self._keep(message)
        return None

    async def error(self, error: BullpenError, attempts: tuple[AttemptSummary, ...] = ()) -> None:
        self._keep(self._final.error(error, attempts, self.extra_headers))

    def _keep(self, message: FinalMessage) -> None:
        if not self.finished:
            self.finished = True
            self.body, self.headers = message
