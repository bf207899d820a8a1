"""What every dialect does: read a request, write the answer, report an error. Pure: bytes in, bytes out.

A dialect knows nothing of HTTP servers, of the bus or of clocks; `gateway/serving.py` moves the bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts import BullpenError, Chunk, FinalResponse, JsonObject
from contracts.subjects import Kind


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request after reading: the request to the mesh, and what the writer of the answer needs."""

    request: JsonObject
    """Fields of `InferenceRequest`, without `stream`, `task_id`, `model` and the tenant: serving adds those."""
    model: str
    """The model as the client named it: `auto`, an alias, a model, `policy:cheapest`."""
    stream: bool
    ignored: tuple[str, ...] = ()
    """Harmless fields that were not used, for the header `x-bullpen-ignored`."""
    copies: int = 1
    """How many answers the client wants to each question (`n`)."""
    options: Any = None
    """The dialect's own options."""
    parts: tuple[JsonObject, ...] = ({},)
    """The fields that differ between several questions; each is asked `copies` times. Empty: no model has to be
    asked.
    """
    kind: Kind = "infer"
    """With `embed`, `request` has fields of `EmbeddingRequest`, and one model has to give all answers."""

    @property
    def answers(self) -> int:
        """The number of answers, ordered by part."""
        return len(self.parts) * self.copies


class Refused(Exception):
    """A request that this dialect or this gateway does not serve."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        """The field that is wrong, as a dotted path; None: the error is about no field."""
        self.status = status
        self.code = code
        """The error's code in the words of the dialect or the mesh. None: it follows from the status."""


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
        """The content type of a stream: `text/event-stream`, `application/x-ndjson`. A whole answer is always JSON."""
        ...

    def start(self) -> bytes:
        """The first bytes of a stream, sent when a worker has the request."""
        ...

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        """A piece of the answer number `index`."""
        ...

    def keep_alive(self) -> bytes:
        """Bytes without meaning, sent when the stream was silent for long."""
        ...

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        """The end of the answer number `index`; with `last` also the end of the stream."""
        ...

    def failed(self, error: BullpenError) -> bytes:
        """The error that ends a stream which has begun."""
        ...

    def whole(self, responses: Sequence[Any]) -> bytes:
        """The answers (`InferenceResponse`, or one `EmbeddingResponse`) as one JSON body."""
        ...


class Dialect(Protocol):
    """One HTTP API in the form of its clients."""

    @property
    def name(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, str]:
        """How this dialect calls fields of the mesh's request, where it calls them otherwise; see `named`."""
        ...

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """Reads a request. The names in `headers` are in small letters. Raises `Refused`."""
        ...

    def writer(self, asked: Asked, request_id: str, created: int) -> Writer:
        """The writer of the answer. `created`: Unix seconds."""
        ...

    def status(self, status: int, code: str) -> int:
        """The dialect's HTTP status for an error that has `status` elsewhere."""
        ...

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        """The body of an error: JSON in the dialect's form."""
        ...
