"""What the conformance suite needs to know about a provider, and how to play one on loopback.

A backend that talks to a server gets a double of that server in `providers/<backend>.py`: a class
`Provider`, made without arguments and used as an async context manager. The suite tells the double what
to answer (`answer`), how to fail (`fail_next`, `outage`, `go_away`), and reads what it was asked
(`received`). `HttpProvider` does everything that is the same for all of them; a double adds its routes,
reads a request into `Received`, and writes words in the provider's own dialect.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from aiohttp import web

from contracts import FinishReason, JsonObject
from workers.base import BackendConfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fault(StrEnum):
    """One way for a provider to fail."""

    BAD_REQUEST = "400"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    NO_MODEL = "404"
    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    GARBAGE = "200 with a web page instead of an answer"
    EMPTY = "200 with nothing"
    BROKEN_FRAME = "half a frame in the middle of a stream"
    ERROR_FRAME = "the provider's own error in the middle of a stream"
    TRUNCATED = "a stream that ends without its end"
    RESET = "a connection reset in the middle of a stream"
    HANG = "no answer at all"

    @property
    def status(self) -> int | None:
        """The HTTP status, for faults that are nothing but one."""
        return int(self.value) if self.value.isdigit() else None


class Turn(NamedTuple):
    """One message as the provider understood it; roles are `system`, `user`, `assistant`, `tool`."""

    role: str
    text: str
    images: int = 0


@dataclass(eq=False)
class Received:
    """One question as it reached the provider, in words that are the same for every provider."""

    model: str
    turns: tuple[Turn, ...]
    """System text first, as a `system` turn, also where the provider has a separate field for it."""
    temperature: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_p: float | None = None
    seed: int | None = None
    json: bool = False
    """Whether JSON was asked for."""
    tools: tuple[str, ...] = ()
    """The names of the functions offered."""
    raw: JsonObject = field(default_factory=dict)
    words_sent: int = 0
    closed_early: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the caller closed the connection before the whole answer was sent."""


@dataclass
class Answer:
    """What the provider answers until told otherwise."""

    words: tuple[str, ...] = ("Paris", " is", " the", " capital", " of", " France", ".")
    prompt_tokens: int = 11
    completion_tokens: int = 7
    finish: FinishReason = "stop"
    logprobs: tuple[float, ...] = ()
    """One for each word, where the provider has them and was asked."""
    tool_calls: tuple[JsonObject, ...] = ()
    """As in OpenAI chat: `{"id", "type": "function", "function": {"name", "arguments"}}`; sent after the words."""
    pause: float = 0.0
    """Seconds between words."""


class ProviderHarness(Protocol):
    """A provider that the suite can question and break."""

    answer: Answer
    received: list[Received]
    outage: Fault | None
    """While set, every request fails so, the ones that only ask for health or models too."""

    def config(self) -> BackendConfig:
        """A config with which the backend talks to this double, with one model."""

    def fail_next(self, fault: Fault, headers: Mapping[str, str] = ...) -> None:
        """The next question fails so; call it again for the one after."""

    async def go_away(self) -> None:
        """From now on connections are refused."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class HttpProvider(ABC):
    """A provider's double: an HTTP server on a free loopback port."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.received: list[Received] = []
        self.outage: Fault | None = None
        self._faults: deque[tuple[Fault, Mapping[str, str]]] = deque()
        self._runner: web.AppRunner | None = None
        self.port = 0

    @abstractmethod
    def config(self) -> BackendConfig: ...

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]:
        """Every address the backend may use. The one that answers questions ends in `self.stream(…)`."""

    @abstractmethod
    def error_body(self, status: int, message: str) -> JsonObject:
        """An error as this provider says it."""

    @abstractmethod
    def error_frame(self, message: str) -> bytes:
        """An error as this provider says it when the stream has begun."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fail_next(self, fault: Fault, headers: Mapping[str, str] | None = None) -> None:
        self._faults.append((fault, headers or {}))

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26, middlewares=[self._outage])
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.go_away()

    async def go_away(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def stream(
        self, request: web.Request, received: Received, words: Sequence[bytes], end: Sequence[bytes], content_type: str
    ) -> web.StreamResponse:
        """Answers with one frame for each word and the frames that end the answer, or fails as told."""
        self.received.append(received)
        fault, headers = self._faults.popleft() if self._faults else (None, {})
        try:
            if fault is not None and (whole := await self._instead(fault, headers)) is not None:
                return whole
            response = web.StreamResponse(headers={"Content-Type": content_type})
            await response.prepare(request)
            frames = words if fault is None else words[:2]
            for frame in frames:
                await response.write(frame)
                received.words_sent += 1
                await asyncio.sleep(self.answer.pause)
            return await self._finish(request, response, fault, words, end)
        except (asyncio.CancelledError, ConnectionError):
            received.closed_early.set()
            raise

    async def _instead(self, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse | None:
        """What is answered in the stream's place; None when the stream itself goes wrong."""
        if fault.status is not None:
            message = f"simulated {fault.name.lower()}"
            return web.json_response(self.error_body(fault.status, message), status=fault.status, headers=headers)
        if fault is Fault.GARBAGE:
            return web.Response(text="<html><body>It works!</body></html>", content_type="text/html")
        if fault is Fault.EMPTY:
            return web.Response()
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        return None

    async def _finish(
        self,
        request: web.Request,
        response: web.StreamResponse,
        fault: Fault | None,
        words: Sequence[bytes],
        end: Sequence[bytes],
    ) -> web.StreamResponse:
        if fault is None:
            for frame in end:
                await response.write(frame)
        elif fault is Fault.BROKEN_FRAME:
            await response.write(words[2][: len(words[2]) // 2] + b"\n\n")
        elif fault is Fault.ERROR_FRAME:
            await response.write(self.error_frame("simulated failure"))
        elif fault is Fault.RESET and request.transport is not None:
            request.transport.abort()
        with suppress(ConnectionError):
            await response.write_eof()
        return response

    @web.middleware
    async def _outage(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.outage is None:
            return await handler(request)
        instead = await self._instead(self.outage, {})
        return instead or web.Response(status=500)
