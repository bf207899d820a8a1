"""A client's connection. An invalid or too large HTTP request gets an answer in JSON before the connection closes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web import BaseRequest, RequestHandler, Response, Server, StreamResponse

from gateway.dialects.events import dumped
from gateway.dialects.openai import error_object
from gateway.undelivered import Written

LONGEST_LINE = 4096
LONGEST_HEADER = 8190
MOST_HEADERS = 128
"""Bytes of the first line, bytes of each header, and the number of headers."""
LINGERS = 2.0
"""Seconds in which the rest of a refused body is read and thrown away, so that its client sees the answer."""


class Connection(RequestHandler):
    def __init__(
        self, server: Server, *, loop: asyncio.AbstractEventLoop, keepalive_timeout: float, headers_within: float
    ) -> None:
        """`headers_within`: seconds in which the whole head of a request has to come, from its first byte on."""
        no_log: dict[str, Any] = {"access_log": None}
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=keepalive_timeout,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
            lingering_time=LINGERS,
            **no_log,
        )
        self._headers_within = headers_within
        self._too_slow: asyncio.TimerHandle | None = None
        self._is_serving = False
        self._written: Written | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._too_slow is None and not self._is_serving:
            self._too_slow = self._loop.call_later(self._headers_within, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_waiting()
        if self._written is not None:
            self._written.lost()
        super().connection_lost(exc)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Marks that a request with a complete head is being served."""
        self._stop_waiting()
        if self._written is not None:
            self._written.forget()
            self._written = None
        self._is_serving = True
        try:
            yield
        finally:
            self._is_serving = False

    def writes(self, answer: Written | None) -> None:
        """What is written next, so that it is known whether it arrived."""
        self._written = answer

    def _stop_waiting(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answers a request that cannot be read, and logs nothing of it: a client could fill the disk, and lines may
        hold keys.
        """
        if not isinstance(exc, BadHttpMessage):
            return super().handle_error(request, status, exc, message)
        status, why = _told(exc)
        code = "headers_too_large" if status == 431 else "invalid_request"
        response = Response(
            status=status, body=dumped(error_object(status, code, why, None)), content_type="application/json"
        )
        response.force_close()
        return response


def serving(
    handle: Callable[[BaseRequest], Awaitable[StreamResponse]],
) -> Callable[[BaseRequest], Awaitable[StreamResponse]]:
    """Wraps `handle` so that the connection knows when a request is served."""

    async def served(request: BaseRequest) -> StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving():
            return await handle(request)

    return served


def _told(error: BadHttpMessage) -> tuple[int, str]:
    """The status and the reason, without the client's own words."""
    if isinstance(error, LineTooLong):
        if error.args[1] == LONGEST_LINE:
            return 414, f"The address is longer than {LONGEST_LINE} bytes"
        return 431, f"A header is longer than {LONGEST_HEADER} bytes"
    if error.message.startswith("Too many headers"):
        return 431, f"There are more than {MOST_HEADERS} headers"
    return 400, "This is no valid HTTP request"
