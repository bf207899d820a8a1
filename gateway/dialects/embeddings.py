"""Vectors of texts: OpenAI's `POST /v1/embeddings`, Ollama's `/api/embed`, and its older `/api/embeddings`.

Many texts are requested in parts, because an answer has to fit into one NATS message. The gateway asks the mesh for
base64, and converts it to numbers only for a client that wants numbers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from contracts import BullpenError, Chunk, EmbeddingResponse, FinalResponse, JsonObject
from contracts.embedding import MOST_INPUTS, unpacked
from gateway.dialects import Asked, openai
from gateway.dialects.events import dumped
from gateway.dialects.fields import Fields, ignored

PART = 256
"""Texts of one part: in base64, the vectors of the largest models then take about 5 MB."""
OURS = ("backend", "content", "deadline_ms", "hedge", "max_cost_usd", "metadata", "policy", "priority")
"""Fields that only the mesh has."""
NANOSECONDS = 1_000_000
"""Nanoseconds per millisecond."""


class Dialect(Protocol):
    def whole(self, asked: Asked, answer: EmbeddingResponse | None) -> bytes:
        """Writes the answer. `answer` None: the client sent no texts."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingWriter:
    """Writes vectors. There are no streams of vectors: only `whole` is called."""

    dialect: Dialect
    asked: Asked
    content_type = "application/json"

    def start(self) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return b""

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        return b""

    def failed(self, error: BullpenError) -> bytes:
        return b""

    def whole(self, responses: Sequence[EmbeddingResponse]) -> bytes:
        return self.dialect.whole(self.asked, responses[0] if responses else None)


class OpenAIEmbeddings:
    name = "openai-embeddings"
    fields: Mapping[str, str] = {}

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """Raises `Refused`."""
        fields = Fields(body)
        model = fields.text("model") or "auto"
        encoding = fields.text("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise fields.refused("encoding_format", "should be float or base64")
        texts = _texts(fields, "input")
        if not texts:
            raise fields.refused("input", "is empty" if "input" in body else "is missing")
        request = {"dimensions": _dimensions(fields), **_ours(fields)}
        return _asked(request, texts, model, ignored(*fields.unread), encoding)

    def writer(self, asked: Asked, request_id: str, created: int) -> EmbeddingWriter:
        return EmbeddingWriter(self, asked)

    def whole(self, asked: Asked, answer: EmbeddingResponse | None) -> bytes:
        assert answer is not None
        vectors = answer.embeddings if asked.options == "base64" else _numbers(answer)
        listed = (
            dumped({"object": "embedding", "index": index, "embedding": vector}) for index, vector in enumerate(vectors)
        )
        usage = {"prompt_tokens": answer.prompt_tokens or 0, "total_tokens": answer.prompt_tokens or 0}
        return _with_list("data", listed, {"object": "list", "model": answer.model_id, "usage": usage})

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped(openai.error_object(status, code, message, param))


class OllamaEmbeddings:
    """Ollama's `/api/embed`. As there, a text that is too long is cut unless the client says `truncate: false`."""

    name = "ollama-embed"
    fields: Mapping[str, str] = {}
    texts_in = "input"

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """Raises `Refused`."""
        fields = Fields(body)
        model, truncate = fields.needed_text("model"), fields.flag("truncate")
        texts = _texts(fields, self.texts_in, may_be_empty=True)
        fields.take("keep_alive")
        request = {"dimensions": _dimensions(fields), "truncate": truncate is not False, **_ours(fields)}
        return _asked(request, texts, model, ignored(*fields.unread), None)

    def writer(self, asked: Asked, request_id: str, created: int) -> EmbeddingWriter:
        return EmbeddingWriter(self, asked)

    def whole(self, asked: Asked, answer: EmbeddingResponse | None) -> bytes:
        if answer is None:
            return dumped({"model": asked.model, "embeddings": []})
        took = int(answer.duration_ms * NANOSECONDS)
        told = {"model": asked.model, "load_duration": 0, "total_duration": took}
        vectors = map(dumped, _numbers(answer))
        return _with_list("embeddings", vectors, {**told, "prompt_eval_count": answer.prompt_tokens or 0})

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped({"error": message})


class OllamaOneEmbedding(OllamaEmbeddings):
    """Ollama's first form: one text in `prompt`, and one vector."""

    name = "ollama-embeddings"
    fields: Mapping[str, str] = {"input": "prompt"}
    texts_in = "prompt"

    def whole(self, asked: Asked, answer: EmbeddingResponse | None) -> bytes:
        return dumped({"embedding": answer.vectors[0] if answer is not None else []})


def _numbers(answer: EmbeddingResponse) -> Iterator[tuple[float, ...]]:
    """Converts one vector at a time: millions of numbers at once would delay every stream of this gateway."""
    return (unpacked(one) if isinstance(one, str) else one for one in answer.embeddings)


def _with_list(name: str, written: Iterable[bytes], rest: JsonObject) -> bytes:
    """A JSON object with a list whose items are JSON already."""
    return b'{"' + name.encode() + b'":[' + b",".join(written) + b"]," + dumped(rest)[1:]


def _asked(request: JsonObject, texts: list[str], model: str, unused: tuple[str, ...], options: Any) -> Asked:
    wanted = {name: value for name, value in request.items() if value is not None}
    parts = tuple({"input": texts[at : at + PART]} for at in range(0, len(texts), PART))
    return Asked(wanted, model, stream=False, ignored=unused, options=options, parts=parts, kind="embed")


def _texts(fields: Fields, name: str, *, may_be_empty: bool = False) -> list[str]:
    """Raises `Refused`."""
    told = fields.take(name)
    texts = told if isinstance(told, list) else [] if told is None else [told]
    if may_be_empty and texts == [""]:
        return []
    if len(texts) > MOST_INPUTS:
        raise fields.refused(name, f"should have at most {MOST_INPUTS} texts, not {len(texts)}")
    for number, text in enumerate(texts):
        if isinstance(text, int | list):
            raise fields.refused(name, "should be text: numbers of tokens mean another text to every model")
        if not isinstance(text, str):
            raise fields.refused(name, "should be a string or a list of strings")
        if not text.strip():
            raise fields.refused(f"{name}.{number}" if isinstance(told, list) else name, "is empty")
    return texts


def _dimensions(fields: Fields) -> int | None:
    wanted = fields.integer("dimensions")
    if wanted is not None and wanted < 1:
        raise fields.refused("dimensions", "should be a whole number, 1 at least")
    return wanted


def _ours(fields: Fields) -> JsonObject:
    return {name: value for name in OURS if (value := fields.take(name)) is not None}
