"""`books.query` and `books.grade`: accountants answer other roles over NATS, which so need no database."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from bus import Bus, Message, Subscription
from bus.service import EndpointStats
from contracts import BooksQuery, BooksReply, BullpenError, ErrorCode, ErrorReply, GradeOrder, OpenModel
from contracts import headers as h
from contracts import subjects as s
from contracts.control import mistakes
from telemetry.reading.queries import set_grade
from telemetry.reading.searching import search
from telemetry.store import DatabaseAway, RowsRefused, Store

log = structlog.get_logger(__name__)

AT_ONCE, MOST_WAITING = 4, 64
"""Queries that run in Postgres at the same time, and queries that may wait. Further callers get the error
`overloaded`.
"""
M = TypeVar("M", bound=OpenModel)


class BooksService:
    def __init__(self, bus: Bus, store: Store) -> None:
        """`store`: connections of its own, so that queries do not delay the booking."""
        self._bus = bus
        self._store = store
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self.stats = tuple(EndpointStats(name, name, s.INFER_QUEUE) for name in (s.BOOKS_QUERY, s.BOOKS_GRADE))

    async def serve(self) -> list[Subscription]:
        query, grade = self.stats
        return [
            await self._bus.subscribe(s.BOOKS_QUERY, self._answering(query, self._query), queue=s.INFER_QUEUE),
            await self._bus.subscribe(s.BOOKS_GRADE, self._answering(grade, self._grade), queue=s.INFER_QUEUE),
        ]

    async def _query(self, body: bytes) -> BooksReply:
        return await search(self._store, _read(BooksQuery, body))

    async def _grade(self, body: bytes) -> BooksReply:
        order = _read(GradeOrder, body)
        changed = await set_grade(self._store, order.model, order.worker, order.grade)
        return BooksReply(rows=tuple(one.model_dump(mode="json") for one in changed))

    def _answering(
        self, stats: EndpointStats, work: Callable[[bytes], Awaitable[BooksReply]]
    ) -> Callable[[Message], Coroutine[Any, Any, None]]:
        now = asyncio.get_running_loop().time

        async def handle(message: Message) -> None:
            if not s.may_receive_reply(message.reply):
                return
            began, failure = now(), None
            try:
                body = (await self._in_turn(work, message.data)).to_bytes()
                self._bus.check_size(body)
                headers = {h.CONTENT_TYPE: h.JSON}
            except BullpenError as error:
                failure = error
                body = ErrorReply(error=error.detail()).to_bytes()
                headers = {
                    h.CONTENT_TYPE: h.JSON,
                    h.SERVICE_ERROR: error.message,
                    h.SERVICE_ERROR_CODE: str(error.status),
                }
            stats.count(now() - began, failure.code if failure else None)
            await self._bus.publish(message.reply, body, headers=headers)

        return handle

    async def _in_turn(self, work: Callable[[bytes], Awaitable[BooksReply]], body: bytes) -> BooksReply:
        """Runs the query when its turn comes. Every failure becomes a `BullpenError`."""
        if self._waiting >= MOST_WAITING:
            raise BullpenError(ErrorCode.OVERLOADED, "the books are asked too much at once", retry_after_ms=1000)
        self._waiting += 1
        try:
            async with self._places:
                return await work(body)
        except DatabaseAway as error:
            raise BullpenError(ErrorCode.NO_WORKER, f"the books cannot be read: {error}") from None
        except RowsRefused as error:
            raise BullpenError(ErrorCode.INVALID_REQUEST, f"the books cannot be asked that: {error}") from None
        except (ValueError, TypeError):
            log.exception("books_query_failed")
            raise BullpenError(ErrorCode.INTERNAL, "the books could not answer, telemetry's log says more") from None
        finally:
            self._waiting -= 1


def _read(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise BullpenError(ErrorCode.INVALID_REQUEST, mistakes(error)) from None
