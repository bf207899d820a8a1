"""A request before it is sent: checked by the Manager's own rules, so that a typo costs no round trip."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic_core import PydanticSerializationError, to_json

from bus import Headers
from contracts import (
    BullpenError,
    ContentMode,
    Continuation,
    ErrorCode,
    JsonObject,
    Policy,
    Priority,
    ReasoningEffort,
    new_id,
    parse_request,
)
from contracts.embedding import EncodingFormat, read_embedding
from contracts.headers import CANCEL_TOKEN
from contracts.subjects import EMBED_AUTO, INFER_AUTO

TOKEN_BYTES = 16


class Options(TypedDict, total=False):
    """The fields of a request beside its prompt, by their names on the wire. None: left out."""

    messages: Sequence[Mapping[str, Any]] | None
    task_id: str | None
    idempotency_key: str | None
    context: Mapping[str, Any] | None
    temperature: float | None
    max_tokens: int | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    reasoning_effort: ReasoningEffort | None
    continuation: Continuation | None
    model: str | None
    backend: str | None
    policy: Policy | None
    max_cost_usd: float | None
    min_confidence: float | None
    hedge: bool | None
    deadline_ms: int | None
    priority: Priority | None
    response_format: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    metadata: Mapping[str, str] | None
    extra: Mapping[str, Any] | None
    content: ContentMode | None


class EmbedOptions(TypedDict, total=False):
    """The fields of a request for vectors beside its texts. None: left out."""

    task_id: str | None
    idempotency_key: str | None
    dimensions: int | None
    encoding_format: EncodingFormat | None
    truncate: bool | None
    model: str | None
    backend: str | None
    policy: Policy | None
    max_cost_usd: float | None
    hedge: bool | None
    deadline_ms: int | None
    priority: Priority | None
    metadata: Mapping[str, str] | None
    content: ContentMode | None


@dataclass(frozen=True, slots=True)
class Question:
    """A request's message, and its fields that the client needs itself."""

    body: bytes
    task_id: str
    deadline_ms: int
    stream: bool
    is_seamless: bool = False
    """Whether the caller cannot take back text that it has."""
    cancel_token: str = ""
    """The secret that cancels the request; empty: it has none."""
    subject: str = INFER_AUTO

    @property
    def headers(self) -> Headers:
        """The headers of the message."""
        return {CANCEL_TOKEN: self.cancel_token} if self.cancel_token else {}

    @classmethod
    def of(
        cls, prompt: str | None, options: Options, *, stream: bool, once: bool = True, cancel_token: str | None = None
    ) -> "Question":
        """Makes a request. Raises `BullpenError(invalid_request)` naming the field. `once`: it gets an idempotency key.

        `cancel_token`: the secret that cancels it. None: a random secret of this client, if `once`.
        """
        task_id = options.get("task_id") or new_id()
        said: JsonObject = {"prompt": prompt, **options, "task_id": task_id, "stream": stream or None}
        token = cancel_token or (secrets.token_urlsafe(TOKEN_BYTES) if once else "")
        if once:
            said["idempotency_key"] = said.get("idempotency_key") or new_id()
        body = _json({name: value for name, value in said.items() if value is not None})
        asked = parse_request(body)
        return cls(body, task_id, asked.deadline_ms, stream, asked.continuation == "seamless", token)

    @classmethod
    def of_texts(cls, texts: str | Sequence[str], options: EmbedOptions, *, cancel_token: str | None) -> "Question":
        """Makes a request for the vectors of texts, as base64. It may run twice when a Manager is lost, unless the
        caller gives an idempotency key.

        Raises as `of`.
        """
        told = {name: value for name, value in options.items() if value is not None}
        task_id = str(told.pop("task_id", "") or new_id())
        wanted = texts if isinstance(texts, str) else list(texts)
        body = _json({**told, "input": wanted, "task_id": task_id, "encoding_format": "base64"})
        asked, _ = read_embedding(body)
        token = cancel_token or secrets.token_urlsafe(TOKEN_BYTES)
        return cls(body, task_id, asked.deadline_ms, stream=False, cancel_token=token, subject=EMBED_AUTO)


def _json(said: JsonObject) -> bytes:
    try:
        return to_json(said)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise BullpenError(ErrorCode.INVALID_REQUEST, f"the request cannot be written as JSON: {error}") from None
