"""One streamed answer for an HTTP client: pieces as they come, keep-alives in between, an end.

The status is sent with the first piece, or when a Manager reports that a worker has the request: until then any failure
is an ordinary error with its own status. Several answers (`n`) are several requests to the mesh, which share the
stream.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog
from aiohttp.web import BaseRequest, StreamResponse

from bus import BusError, Tasks
from client import Bullpen, Options
from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, Resumed
from gateway.dialects import Writer
from gateway.dialects.openai_chat import SSE
from gateway.timing import SERVER_TIMING, Timing

log = structlog.get_logger(__name__)

Event = Chunk | Resumed | FinalResponse | BullpenError | None
"""What comes from the mesh. None: a worker has the request, and no piece came yet."""
MOST_UNREAD = 4 << 20
"""Characters that may wait for a client that reads nothing. With more, the client is cut off before its time-out."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ReaderTooSlow(Exception):
    """The client reads nothing any more."""


class AnswerStream:
    def __init__(self, request: BaseRequest, writer: Writer, headers: Mapping[str, str], timing: Timing) -> None:
        self._request = request
        self._writer = writer
        self._timing = timing
        self._response = StreamResponse(headers={**headers, **HEADERS, "Content-Type": writer.content_type})
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._begun = False
        self._told: set[int] = set()
        """The numbers of the answers of which the client has something."""
        self._open = 0
        self._unread = 0
        self._writing: asyncio.Timeout | None = None
        self.finals: list[FinalResponse] = []

    def end_with(self, error: BullpenError) -> None:
        """Ends the stream with an error."""
        self._events.put_nowait((0, error))

    async def send(
        self, bullpen: Bullpen, questions: Sequence[Options], *, keep_alive_every: float, slow_reader_timeout: float
    ) -> StreamResponse:
        """Sends the requests, and passes their pieces on to the end. Raises `BullpenError` while the client has nothing
        yet.
        """
        asking = Tasks("stream")
        self._open = len(questions)
        try:
            for index, question in enumerate(questions):
                asking.start(self._ask(bullpen, index, question), f"answer-{index}")
            while self._open:
                written = self._written(await self._heard(keep_alive_every))
                if self._reader_keeps_up():
                    await self._write(written)
                    continue
                async with asyncio.timeout(slow_reader_timeout) as self._writing:
                    await self._write(written)
                self._writing = None
        except TimeoutError:
            raise ReaderTooSlow from None
        finally:
            await asking.cancel()
        await self._response.write_eof()
        return self._response

    def _reader_keeps_up(self) -> bool:
        """Whether the client has read all bytes so far, so that writing does not wait."""
        transport = self._request.transport
        return self._begun and transport is not None and not transport.get_write_buffer_size()

    async def _ask(self, bullpen: Bullpen, index: int, question: Options) -> None:
        """Sends one request, and queues its events and its end."""

        def put(event: Event) -> None:
            self._events.put_nowait((index, event))
            self._count(event)

        try:
            async with bullpen.exchange(stream=True, **question) as exchange:
                exchange.on_running = lambda: put(None)
                event: Event = None
                while not isinstance(event, FinalResponse):
                    event = await exchange.event()
                    put(event)
        except BullpenError as error:
            put(error)
        except BusError as error:
            put(BullpenError(ErrorCode.NO_WORKER, str(error)))
        except Exception:
            log.exception("stream_failed")
            put(BullpenError(ErrorCode.INTERNAL, "the gateway failed, its log says more"))

    def _count(self, event: Event) -> None:
        """Cuts off a client for which too much waits."""
        if isinstance(event, Chunk):
            self._unread += len(event.delta) + len(event.reasoning or "")
            if self._unread > MOST_UNREAD and self._writing is not None and not self._writing.expired():
                self._writing.reschedule(0)

    async def _heard(self, within: float) -> list[tuple[int, Event]]:
        """The events so far, at least one; empty after so many seconds of silence."""
        if self._events.empty():
            try:
                async with asyncio.timeout(within):
                    heard = [await self._events.get()]
            except TimeoutError:
                return []
        else:
            heard = [self._events.get_nowait()]
        while not self._events.empty():
            heard.append(self._events.get_nowait())
        self._unread = 0
        return heard

    def _written(self, heard: Sequence[tuple[int, Event]]) -> bytes:
        """The bytes of these events. Raises `BullpenError` when the client has nothing yet and the request failed."""
        said = [] if self._begun else [self._writer.start()]
        for index, event in heard:
            try:
                said.append(self._one(index, event))
            except BullpenError as error:
                if not self._begun and not self._told:
                    raise
                said.append(self._writer.failed(error))
                self._open = 0
                break
        if not heard:
            said.append(self._writer.keep_alive())
        return b"".join(said)

    def _one(self, index: int, event: Event) -> bytes:
        match event:
            case Chunk():
                if event.delta or event.reasoning or event.tool_calls:
                    self._told.add(index)
                return self._writer.piece(event, index)
            case FinalResponse():
                self._open -= 1
                self._told.add(index)
                self.finals.append(event)
                return self._writer.end(event, index, last=not self._open)
            case Resumed() if event.mode == "restarted" and index in self._told:
                why = f"{event.from_} was lost in the middle of its answer, which no other worker can go on with"
                raise BullpenError(ErrorCode.UPSTREAM_ERROR, why)
            case Resumed() if self._writer.content_type == SSE:
                return f": x-bullpen-rerouted: {event.from_} {event.to}\n\n".encode()
            case BullpenError():
                raise event
        return b""

    async def _write(self, written: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._response.headers[SERVER_TIMING] = self._timing.told()
            await self._response.prepare(self._request)
        if written:
            await self._response.write(written)
