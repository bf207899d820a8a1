"""Asks the books over NATS: the gateway has no database."""

from typing import Any, TypeVar

from pydantic import ValidationError

from bus import Bus, BusError, NoResponders, RequestTimeout
from contracts import (
    BooksQuery,
    BooksReply,
    BullpenError,
    ErrorCode,
    ErrorReply,
    Grade,
    GradeOrder,
    JsonObject,
    OpenModel,
)
from contracts import headers as h
from contracts import subjects as s
from contracts.control import mistakes

Asked = TypeVar("Asked", bound=OpenModel)
WITHIN = 8.0
NO_TELEMETRY = "no telemetry runs, which keeps the books: start the mesh with `bullpen up`, or `bullpen telemetry`"


class Books:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ask(self, sees: str | None, /, **asked: Any) -> BooksReply:
        """Asks a query. `sees`: the one tenant whose requests may be seen, whatever the query says; None: all. Raises
        `BullpenError`.
        """
        if sees is not None:
            asked["tenant"] = sees
        return await self._told(s.BOOKS_QUERY, _made(BooksQuery, asked))

    async def grade(self, model: str, worker: str, grade: Grade | None) -> BooksReply:
        """Sets the grade of a model at a worker by hand; None: the books decide again. Raises `BullpenError`."""
        return await self._told(s.BOOKS_GRADE, _made(GradeOrder, {"model": model, "worker": worker, "grade": grade}))

    async def _told(self, subject: str, asked: OpenModel) -> BooksReply:
        try:
            answer = await self._bus.request(subject, asked.to_bytes(), timeout=WITHIN)
        except NoResponders:
            raise BullpenError(ErrorCode.NO_WORKER, NO_TELEMETRY) from None
        except RequestTimeout:
            raise BullpenError(ErrorCode.DEADLINE_EXCEEDED, f"the books have not answered for {WITHIN:g} s") from None
        except BusError as error:
            raise BullpenError(ErrorCode.NO_WORKER, str(error)) from None
        try:
            if h.SERVICE_ERROR_CODE in answer.headers:
                failed = ErrorReply.model_validate_json(answer.data).error
                raise BullpenError(failed.code, failed.message, retry_after_ms=failed.retry_after_ms)
            return BooksReply.model_validate_json(answer.data)
        except ValidationError:
            raise BullpenError(ErrorCode.INTERNAL, "telemetry sent an answer that cannot be read") from None


def _made(kind: type[Asked], fields: JsonObject) -> Asked:
    """Raises `BullpenError(invalid_request)`."""
    try:
        return kind(**fields)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        raise BullpenError(ErrorCode.INVALID_REQUEST, mistakes(error), field=field) from None
