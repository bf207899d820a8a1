"""What every dialect does: read a request, write the answer, say what is wrong. Pure: bytes in, bytes out.

A dialect knows nothing of HTTP servers, of the bus or of clocks; `gateway/serving.py` moves the bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts import BullpenError, Chunk, FinalResponse, JsonObject
from contracts.subjects import Kind


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request, read: what to ask the mesh, and what its writer has to know."""

    request: JsonObject
    """Fields of `InferenceRequest`, without `stream`, `task_id`, `model` and the tenant: serving adds those."""
    model: str
    """As the client named it: `auto`, an alias, a model, `policy:cheapest`."""
    stream: bool
    ignored: tuple[str, ...] = ()
    """Harmless fields that were not used, for the header `x-bullpen-ignored`."""
    copies: int = 1
    """How many answers are wanted to each question (`n`)."""
    options: Any = None
    """The dialect's own."""
    parts: tuple[JsonObject, ...] = ({},)
    """Fields by question, for several at once: each is asked `copies` times. None at all: no model has to be asked."""
    kind: Kind = "infer"
    """`embed`: `request` has fields of `EmbeddingRequest`, and all answers have to be one model's."""

    @property
    def answers(self) -> int:
        """How many there will be: those of the first part first."""
        return len(self.parts) * self.copies


class Refused(Exception):
    """A request that this dialect, or this gateway, cannot honour."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The request's field that is wrong, as a dotted path. None: it is no field."""
        self.status = status
        self.code = code
        """In the dialect's or the mesh's words. None: what the status says."""


def named(field: str, fields: Mapping[str, str]) -> str:
    """The path of a field of the mesh's request as a dialect has it. What stands below a renamed one is left out:
    messages and tools are numbered otherwise there."""
    for ours, theirs in fields.items():
        if field == ours or field.startswith(f"{ours}."):
            return theirs
    return field


class Writer(Protocol):
    """Writes the answer to one HTTP request."""

    @property
    def content_type(self) -> str:
        """Of a stream: `text/event-stream`, `application/x-ndjson`. A whole answer is always JSON."""
        ...

    def start(self) -> bytes:
        """The first bytes of a stream, sent when the work has been taken."""
        ...

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        """A piece of the answer number `index`."""
        ...

    def keep_alive(self) -> bytes:
        """What says nothing, sent when the stream has been silent for long."""
        ...

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        """The end of the answer number `index`; with the `last` one also that of the stream."""
        ...

    def failed(self, error: BullpenError) -> bytes:
        """A stream that has begun ends with this error."""
        ...

    def whole(self, responses: Sequence[Any]) -> bytes:
        """The answers (`InferenceResponse`, or one `EmbeddingResponse`), in one piece: JSON."""
        ...


class Dialect(Protocol):
    """One way of asking over HTTP."""

    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]:
        """How this dialect calls fields of the mesh's request, where it calls them otherwise; see `named`."""
        ...

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """What is asked. `headers` have names in small letters. Raises `Refused`."""
        ...

    def writer(self, asked: Asked, request_id: str, created: int) -> Writer:
        """`created`: unix seconds."""
        ...

    def status(self, status: int, code: str) -> int:
        """The HTTP status of an error, which has this `status` elsewhere."""
        ...

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        """A whole answer that says what is wrong: JSON in the dialect's error shape."""
        ...
