"""Vectors instead of an answer: what may be sent to `embed.*`, and what comes back.

Routing, failover, budgets and books treat it like any other request; `Request` is either kind. All vectors of one
answer come from one model, which the answer names: vectors of two models cannot be compared.
"""

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from decimal import Decimal
from math import isfinite
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from contracts.base import JsonObject
from contracts.envelope import Envelope
from contracts.heartbeat import Capability
from contracts.request import Continuation, InferenceRequest, read_request
from contracts.request_checks import FieldError
from contracts.request_dialects import UNUSED, present
from contracts.request_form import Form
from contracts.response import MOST_DIMENSIONS, Answer, Vectors
from contracts.subjects import Kind

MOST_INPUTS = 2048
"""Texts of one request, at most."""
MOST_INPUT_BYTES = 4 << 20
"""Bytes of UTF-8 of all texts of one request together."""
LARGEST = 3.4028235e38
"""A vector as 32-bit floats."""
EncodingFormat = Literal["float", "base64"]


class EmbeddingRequest(Envelope):
    kind: ClassVar[Kind] = "embed"

    input: str | tuple[str, ...]
    """One text or several: each gets a vector, in this order."""
    dimensions: Annotated[int, Field(ge=1, le=MOST_DIMENSIONS)] | None = None
    """Numbers in each vector. Null: as many as the model has. Only models that can shorten their vectors take another
    number.
    """
    encoding_format: EncodingFormat = "float"
    """`base64`: each vector as little-endian 32-bit floats in base64, a third of the size."""
    truncate: bool = False
    """Cut a text that is longer than the model's context window, where its server can; false: such a text is an
    error.
    """

    @model_validator(mode="after")
    def _has_texts(self) -> Self:
        if not self.texts:
            raise FieldError("input", "is empty")
        if len(self.texts) > MOST_INPUTS:
            raise FieldError("input", f"should have at most {MOST_INPUTS} texts, not {len(self.texts)}")
        for number, text in enumerate(self.texts):
            if not text.strip():
                raise FieldError("input" if isinstance(self.input, str) else f"input.{number}", "is empty")
        if sum(len(text.encode(errors="replace")) for text in self.texts) > MOST_INPUT_BYTES:
            raise FieldError("input", f"should have at most {MOST_INPUT_BYTES} bytes of text")
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.input,) if isinstance(self.input, str) else self.input

    @property
    def question(self) -> str:
        """The texts, as the books keep them in place of a prompt."""
        return "\n".join(self.texts)

    @property
    def needs(self) -> frozenset[Capability]:
        return frozenset({"embed"})

    # What a question to a chat model may have, and this has not

    @property
    def stream(self) -> bool:
        return False

    @property
    def continuation(self) -> Continuation:
        return "any"

    @property
    def max_tokens(self) -> int:
        """Vectors have no tokens."""
        return 0

    @property
    def min_confidence(self) -> float | None:
        return None

    @property
    def logprobs(self) -> bool:
        return False

    @property
    def top_logprobs(self) -> int | None:
        return None

    @property
    def tools(self) -> tuple[JsonObject, ...] | None:
        return None

    @property
    def response_format(self) -> JsonObject | None:
        return None

    @property
    def context_extras(self) -> JsonObject:
        return {}


Request = InferenceRequest | EmbeddingRequest
"""A request of either kind."""


def _plain(told: JsonObject) -> JsonObject:
    """Leaves out fields that are null, and those of libraries that change nothing."""
    return {name: value for name, value in present(told).items() if name not in UNUSED}


_FORM = Form(EmbeddingRequest, "input", _plain)


def read_embedding(data: bytes, *, task_id: str | None = None) -> tuple[EmbeddingRequest, bytes]:
    """As `read_request`; a body that is no JSON object is one text."""
    return _FORM.read(data, task_id)


def read_any(kind: Kind, data: bytes, *, task_id: str | None = None) -> tuple[Request, bytes]:
    """Reads the request in a message of that kind. Raises `BullpenError(invalid_request)` with the field that is
    wrong.
    """
    return read_embedding(data, task_id=task_id) if kind == "embed" else read_request(data, task_id=task_id)


class EmbeddingResponse(Answer):
    """The vectors, one for each text, in the order of the texts. Fields that only an answer in words has are left
    out.
    """

    schema_: Literal["bullpen.embedding.v1"] = Field(default="bullpen.embedding.v1", alias="schema")
    embeddings: Vectors
    """As lists of numbers, or, when `base64` was asked for, little-endian 32-bit floats in base64."""

    output: str = Field(default="", exclude=True)
    confidence: Annotated[float, Field(ge=0, le=1)] = Field(default=0.0, exclude=True)
    completion_tokens: int = Field(default=0, exclude=True)
    reasoning_tokens: int | None = Field(default=None, exclude=True)
    finish_reason: Literal["stop"] = Field(default="stop", exclude=True)
    confidence_source: Literal["prior"] = Field(default="prior", exclude=True)
    ttft_ms: float | None = Field(default=None, exclude=True)
    tool_calls: None = Field(default=None, exclude=True)
    reasoning: None = Field(default=None, exclude=True)
    refusal: None = Field(default=None, exclude=True)
    logprobs: None = Field(default=None, exclude=True)
    extra: None = Field(default=None, exclude=True)
    resumed: bool = Field(default=False, exclude=True)

    @property
    def vectors(self) -> tuple[tuple[float, ...], ...]:
        """The numbers of a vector in either form. Raises `ValueError` for bad base64."""
        return tuple(unpacked(one) if isinstance(one, str) else one for one in self.embeddings)


def joined(parts: Sequence[EmbeddingResponse]) -> EmbeddingResponse:
    """Joins the answers to consecutive parts of a list of texts, all by one model."""
    first, costs = parts[0], [part.cost_usd for part in parts]
    known = [cost for cost in costs if cost is not None]
    told = {
        "embeddings": tuple(vector for part in parts for vector in part.embeddings),
        "tokens_used": sum(part.tokens_used for part in parts),
        "prompt_tokens": _sum([part.prompt_tokens for part in parts]),
        "cost_usd": sum(known, Decimal(0)) if len(known) == len(costs) else None,
        "duration_ms": first.duration_ms + max((part.duration_ms for part in parts[1:]), default=0.0),
        "attempts": tuple(attempt for part in parts for attempt in part.attempts),
    }
    return first if len(parts) == 1 else first.model_copy(update=told)


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


def packed(vector: Iterable[float]) -> str:
    """A vector as little-endian 32-bit floats in base64; a number too large for 32 bits becomes infinite."""
    return b64encode(_swapped(array("f", vector)).tobytes()).decode()


def unpacked(text: str) -> tuple[float, ...]:
    """Raises `ValueError`."""
    found = array("f")
    found.frombytes(b64decode(text, validate=True))
    return tuple(_swapped(found))


def encoded(vectors: Sequence[Sequence[float]], encoding: EncodingFormat) -> Vectors:
    """The vectors in the form that the caller wants."""
    if encoding == "base64":
        return tuple(packed(vector) for vector in vectors)
    return tuple(tuple(vector) for vector in vectors)


def why_unusable(vectors: Sequence[Sequence[float]] | Vectors, texts: int) -> str:
    """What is wrong with the vectors of so many texts; empty: nothing."""
    if len(vectors) != texts:
        return f"{len(vectors)} vectors for {texts} texts"
    sizes = {len(vector) for vector in vectors}
    if 0 in sizes:
        return "an empty vector"
    if len(sizes) > 1:
        return f"vectors of different lengths: {', '.join(map(str, sorted(sizes)[:5]))}"
    if not all(isinstance(vector, str) or _is_finite(vector) for vector in vectors):
        return "a vector with a number that is not finite"
    return ""


def _is_finite(vector: Sequence[float]) -> bool:
    """Whether each number fits into 32 bits. Tests the sum, which is not finite when one of them is not."""
    return isfinite(sum(vector)) and max(vector) <= LARGEST and min(vector) >= -LARGEST


def _swapped(numbers: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
