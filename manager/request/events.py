"""What can happen to an attempt: messages of its worker, read from bytes, and our own findings about it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from contracts import (
    BullpenError,
    Chunk,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    JsonObject,
    Piece,
    Progress,
    WorkerEvent,
    WorkerMessage,
    utc_now,
)

_EVENT: TypeAdapter[Claim | Progress | Chunk | FinalResponse] = TypeAdapter(WorkerEvent)
_OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)

NO_RESPONDERS = ErrorReply(error=BullpenError(ErrorCode.NO_WORKER, "nothing listens on its subject").detail())
"""The server's "no responders" as a worker's refusal: the attempt was not begun, so asking another worker is free."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A piece of a stream: one chunk, or several successive ones."""

    piece: Piece
    first: int
    """The number (`seq`) of its first chunk."""
    last: int
    """The number of its last chunk."""

    def joined(self, later: "Streamed") -> "Streamed | None":
        """This piece and the next one as one; None when a chunk between them is missing."""
        if later.first != self.last + 1:
            return None
        return Streamed(self.piece + later.piece, self.first, later.last)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The worker sent something that is not a message of the wire."""

    error: BullpenError


@dataclass(frozen=True, slots=True)
class Unjoined:
    """The worker's words do not join the text that the caller of a seamless stream has."""

    answer: FinalResponse | None = None
    """The worker's answer, if it was whole."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker went away."""

    why: str
    died: bool = True
    """Whether its process ended; False: it only fell silent."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """The worker was silent for longer than is normal."""


@dataclass(frozen=True, slots=True)
class CalledOff:
    """The attempt's answer is not wanted (any more)."""

    error: BullpenError
    beaten: bool = False
    """Another worker, asked as well (hedging), answered first."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The Manager stops waiting: the deadline has passed, or the Manager itself failed."""

    error: BullpenError


@dataclass(frozen=True, slots=True)
class Accepted:
    """A late answer counts, because no other worker has answered."""


WorkerWord = Claim | Progress | Streamed | FinalResponse | ErrorReply | Unreadable
"""What a worker says."""
AttemptEvent = WorkerWord | Unjoined | Gone | Overdue | CalledOff | GivenUp | Accepted


def read_event(data: bytes, known: Mapping[str, object] = MappingProxyType({})) -> WorkerWord:
    """Reads a worker's message to the attempt's inbox.

    `known`: what the Manager knows of the answer itself; it overrides what the worker says.
    """
    try:
        event = _message(data, known)
    except BullpenError as error:
        return Unreadable(error)
    if isinstance(event, Chunk):
        return Streamed(event.piece, event.seq, event.seq)
    return event


def _message(data: bytes, known: Mapping[str, object]) -> WorkerMessage:
    try:
        return _EVENT.validate_json(data)
    except ValidationError:
        pass
    try:
        return ErrorReply.model_validate_json(data)
    except ValidationError:
        return _plain(data, known)


def _plain(data: bytes, known: Mapping[str, object]) -> Chunk | FinalResponse:
    """Fills an answer with only the contract's first six fields, as a worker in any language may send it."""
    try:
        said = {name: value for name, value in _OBJECT.validate_json(data).items() if value is not None}
        match said.setdefault("type", "response"):
            case "response":
                return FinalResponse.model_validate({**_defaults(said), **said, **known})
            case "chunk":
                return Chunk.model_validate({**said, **known})
            case _:
                raise _unreadable("")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _unreadable(f": {where}: {first['msg'].lower()}" if where else "") from None


def _defaults(said: JsonObject) -> JsonObject:
    """Values for fields that such an answer lacks."""
    used, prompt = said.get("tokens_used"), said.get("prompt_tokens")
    completion = max(0, used - (prompt or 0)) if isinstance(used, int) and isinstance(prompt, int | None) else None
    return {
        "prompt_tokens": None,
        "completion_tokens": completion,
        "finish_reason": "stop",
        "confidence_source": "prior",
        "created_at": utc_now(),
    }


def _unreadable(why: str) -> BullpenError:
    return BullpenError(ErrorCode.UPSTREAM_ERROR, f"the worker sent something that is not a message{why}")
