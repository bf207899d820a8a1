"""OpenAI's chat completions: `POST /v1/chat/completions`.

The request's form is nearly the mesh's own. So most fields are passed on as they are, and checked by the rules for
every caller's request.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts import BullpenError, ChatMessage, Chunk, FinalResponse, InferenceResponse, JsonObject
from contracts.request_dialects import OF_A_PART, OF_AN_ANSWER
from gateway.dialects import Asked, Refused
from gateway.dialects import openai as common
from gateway.dialects.about import comments
from gateway.dialects.events import dumped
from gateway.dialects.fields import ignored
from gateway.dialects.turns import with_question

CHAT = frozenset({
    *("messages", "logprobs", "top_logprobs", "reasoning_effort", "response_format"),
    *("tools", "tool_choice", "parallel_tool_calls"),
})  # fmt: skip
TAKEN = CHAT | common.SAMPLING | common.OURS
NEVER: Mapping[str, tuple[Any, ...]] = {
    **common.NEVER,
    "best_of": (1,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "modalities": (["text"],),
    "web_search_options": (),
}
TURN = frozenset(ChatMessage.model_fields) | {"audio", "function_call"}
"""Fields that a message may have. `audio` and `function_call` are known here, and refused when the message is
checked.
"""
ANSWER = TURN | OF_AN_ANSWER | {"refusal"}
"""Fields that an assistant's message may have."""
PART = frozenset({"type", "text", "image_url", "input_audio", "file", "refusal"}) | OF_A_PART
INSIDE = {
    "image_url": ("url", "detail"),
    "input_audio": ("data", "format"),
    "file": ("file_data", "filename", "file_id"),
}
"""Fields of the objects in a part. A file that is kept at OpenAI (`file_id`) is refused when the part is checked."""
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class ChatOptions:
    include_usage: bool


class OpenAIChat:
    name = "openai-chat"
    fields: Mapping[str, str] = {}

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """Raises `Refused`."""
        fields = common.present(body)
        model, stream, copies = common.model_of(fields), common.flag(fields, "stream"), common.copies_of(fields)
        with_usage, unused = common.includes_usage(fields)
        common.only(fields, NEVER)
        common.settle_max_tokens(fields)
        common.without_empty(fields, "tools", "stop", "logit_bias", "metadata")
        if not isinstance(messages := fields.get("messages"), list) or not messages:
            raise Refused("messages should be a list of one message at least", "messages")
        read = [_message(message, f"messages.{number}", unused) for number, message in enumerate(messages)]
        fields["messages"] = with_question(read)
        if "tools" not in fields and fields.get("tool_choice") in ("auto", "none"):
            del fields["tool_choice"]
        request = {name: fields.pop(name) for name in TAKEN & fields.keys()}
        return Asked(request, model, stream, ignored(*fields, *unused), copies, ChatOptions(with_usage))

    def writer(self, asked: Asked, request_id: str, created: int) -> "ChatWriter":
        return ChatWriter(f"chatcmpl-{request_id}", created, asked)

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped(common.error_object(status, code, message, param))


def _message(told: Any, at: str, unused: list[str]) -> Any:
    """A message without unknown fields, whose paths are added to `unused`. A value that is no object is refused
    later.
    """
    if not isinstance(told, dict):
        return told
    found = _known(told, ANSWER if told.get("role") == "assistant" else TURN, at, unused)
    if isinstance(parts := found.get("content"), list):
        found = {**found, "content": [_part(part, f"{at}.content.{n}", unused) for n, part in enumerate(parts)]}
    return found


def _part(told: Any, at: str, unused: list[str]) -> Any:
    if not isinstance(told, dict):
        return told
    found = _known(told, PART, at, unused)
    for name, fields in INSIDE.items():
        if isinstance(inside := found.get(name), dict):
            found = {**found, name: _known(inside, fields, f"{at}.{name}", unused)}
    return found


def _known(told: JsonObject, fields: Collection[str], at: str, unused: list[str]) -> JsonObject:
    unknown = [name for name in told if name not in fields]
    if not unknown:
        return told
    unused += [f"{at}.{name}" for name in unknown if told[name] is not None]
    return {name: value for name, value in told.items() if name in fields}


class ChatWriter:
    content_type = SSE

    def __init__(self, completion_id: str, created: int, asked: Asked) -> None:
        self._frame = {"id": completion_id, "created": created}
        self._asked = asked
        self._with_usage = isinstance(asked.options, ChatOptions) and asked.options.include_usage
        head = {**self._frame, "object": "chat.completion.chunk", "model": asked.model, "system_fingerprint": None}
        self._head = b"data: " + dumped(head)[:-1] + (b',"usage":null' if self._with_usage else b"")
        self._reasoned: set[int] = set()
        self._called: set[int] = set()
        """The numbers of the answers of which the client has reasoning, or pieces of calls."""
        self._finals: list[FinalResponse] = []

    def start(self) -> bytes:
        role = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, role) for index in range(self._asked.copies))

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        delta: JsonObject = {}
        if chunk.reasoning:
            self._reasoned.add(index)
            delta["reasoning_content"] = chunk.reasoning
        if chunk.delta:
            delta["content"] = chunk.delta
        if chunk.tool_calls:
            self._called.add(index)
            delta["tool_calls"] = [call.model_dump(exclude_none=True) for call in chunk.tool_calls]
        if not delta and not chunk.logprobs:
            return b""
        return self._chunk(index, delta, logprobs=_logprobs(chunk))

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        self._finals.append(response)
        said = [self._chunk(index, delta) for delta in self._left_over(response, index)]
        said.append(self._chunk(index, {}, finish=response.finish_reason))
        if last and self._with_usage:
            head = {**self._frame, "object": "chat.completion.chunk", "model": response.model_id}
            said.append(common.event({**head, "choices": [], "usage": common.usage(self._finals)}))
        if last:
            said += [comments(response), DONE]
        return b"".join(said)

    def failed(self, error: BullpenError) -> bytes:
        return common.error_event(error)

    def whole(self, responses: Sequence[InferenceResponse]) -> bytes:
        return dumped({
            **self._frame,
            "object": "chat.completion",
            "model": responses[0].model_id,
            "choices": [_choice(index, response) for index, response in enumerate(responses)],
            "usage": common.usage(responses),
            "service_tier": "default",
            "system_fingerprint": None,
        })  # fmt: skip

    def _chunk(
        self, index: int, delta: JsonObject, *, logprobs: JsonObject | None = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head + b',"choices":[' + dumped(choice) + b"]}\n\n"

    def _left_over(self, response: FinalResponse, index: int) -> list[JsonObject]:
        """The parts of the answer that came in no piece: from a worker that does not stream them."""
        deltas: list[JsonObject] = []
        if response.reasoning and index not in self._reasoned:
            deltas.append({"reasoning_content": response.reasoning})
        if response.tool_calls and index not in self._called:
            calls = [{"index": number, **call} for number, call in enumerate(response.tool_calls)]
            deltas.append({"tool_calls": calls})
        if response.refusal:
            deltas.append({"refusal": response.refusal})
        return deltas


def _choice(index: int, response: InferenceResponse) -> JsonObject:
    silent = not response.output and (response.tool_calls or response.refusal)
    message: JsonObject = {
        "role": "assistant",
        "content": None if silent else response.output,
        "refusal": response.refusal,
        "annotations": [],
    }
    if response.reasoning:
        message["reasoning_content"] = response.reasoning
    if response.tool_calls:
        message["tool_calls"] = response.tool_calls
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(response),
        "finish_reason": response.finish_reason,
    }


def _logprobs(told: Chunk | InferenceResponse) -> JsonObject | None:
    if told.logprobs is None:
        return None
    return {"content": [token.model_dump() for token in told.logprobs], "refusal": None}
