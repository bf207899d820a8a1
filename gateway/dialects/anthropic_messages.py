"""Anthropic's Messages API: `POST /v1/messages` and `/v1/messages/count_tokens`.

A model's reasoning is sent with the answer, and the client returns it with the next turn. The `signature` of a thinking
block carries the part that only its backend understands (`extra`), sealed. In a stream that part is known only at the
end, so there it stands in a `redacted_thinking` block after all others.

Not honoured: `top_k`. Tools that run at Anthropic (`web_search` …) are skipped and named as ignored. An answer that
ended at a stop sequence says `end_turn`: models do not say which of the two it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from pydantic_core import from_json

from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, InferenceRequest, InferenceResponse, JsonObject
from contracts.request import ReasoningEffort
from contracts.tokens import prompt_tokens
from gateway.dialects import Asked, Refused
from gateway.dialects.about import comments
from gateway.dialects.blocks import Block, Blocks, Closed, Grown, Opened, Step, calls_of
from gateway.dialects.events import dumped, event
from gateway.dialects.fields import Fields, ignored, share
from gateway.dialects.names import short, whole
from gateway.dialects.sealed import NOTHING, sealed, unsealed
from gateway.dialects.turns import Turns, file_part, image_part, text_part

ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OVERLOADED = 529
_FULL: frozenset[str] = frozenset({ErrorCode.OVERLOADED, ErrorCode.NO_WORKER, ErrorCode.DRAINING})

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
EFFORTS: dict[str, ReasoningEffort] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
UNTOLD_EFFORT: ReasoningEffort = "high"
"""The effort that Anthropic's models take when the request asks for thinking without saying how much."""
BUDGETS: tuple[tuple[int, ReasoningEffort], ...] = ((4_096, "low"), (16_384, "medium"))
"""Tokens for thinking, and the effort for a smaller budget; a larger budget is `high`."""
OWN_TOOLS = (None, "custom")
"""Types of tools that the client runs itself. All others run at Anthropic, or are built into its models."""
OWN_HEADERS = ("anthropic-beta", "anthropic-version")
"""Headers that are passed on to the provider when the chosen model is Anthropic's."""
TOO_LONG = "prompt is too long"
"""Anthropic's words, by which Claude Code knows that it has to make its conversation shorter."""
NAMES = {
    "messages": "messages",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "tools": "tools",
}
BILLING = "x-anthropic-billing-header:"
"""The start of a line that Claude Code puts before its system text. It is not meant for the model. It differs in every
request, so with it no prompt would be found in a cache.
"""


@dataclass(frozen=True, slots=True)
class Options:
    names: Mapping[str, str] = field(default_factory=dict)
    """Long names of tools, by the short names that models get."""
    thoughts: bool = True
    """Whether the client gets the model's reasoning."""
    tokens: int = 0
    """The prompt's tokens, for a request that only counts them."""


class AnthropicMessages:
    name = "anthropic"
    fields = NAMES

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        asked = _Reader(Fields(body)).asked()
        told = {name: headers[name] for name in OWN_HEADERS if headers.get(name)}
        for name, text in told.items():
            if not (text.isascii() and text.isprintable()):
                raise Refused(f"{name}: should have printable characters of ASCII only", name)
        if told:
            asked.request["extra"] = {"anthropic": {"headers": told}}
        return asked

    def writer(self, asked: Asked, request_id: str, created: int) -> "MessagesWriter":
        return MessagesWriter(asked, request_id)

    def status(self, status: int, code: str) -> int:
        return OVERLOADED if code in _FULL else status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped({**_error(status, code, message), "request_id": request_id})


class AnthropicTokenCount(AnthropicMessages):
    """`/v1/messages/count_tokens`: about how many tokens a request has. No model is asked."""

    name = "anthropic-tokens"

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        asked = super().read(body, headers)
        try:
            request = InferenceRequest.model_validate_json(dumped(asked.request))
        except ValueError:
            raise Refused("messages: no model could be asked this", "messages") from None
        return replace(asked, parts=(), stream=False, options=Options(tokens=prompt_tokens(request)))


class _Reader:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._ignored: list[str] = []
        self._turns = Turns()
        self._names: dict[str, str] = {}

    def asked(self) -> Asked:
        fields = self._fields
        model, stream = fields.needed_text("model"), fields.flag("stream") or False
        self._system()
        for message in fields.objects("messages"):
            self._message(message)
        request: JsonObject = {"messages": self._turns.messages}
        wanted = {
            "max_tokens": fields.integer("max_tokens"),
            "temperature": fields.number("temperature"),
            "top_p": share(fields.number("top_p")),
            "stop": fields.texts("stop_sequences"),
            "tools": self._tools(),
            **self._tool_choice(),
            "response_format": self._format(),
            "reasoning_effort": self._effort(),
        }
        if not wanted["tools"]:
            wanted.pop("tool_choice", None)
        request |= {name: value for name, value in wanted.items() if value not in (None, [])}
        options = Options(dict(self._names), thoughts=wanted["reasoning_effort"] != "none")
        return Asked(request, model, stream, ignored(*self._ignored, *fields.unread), options=options)

    def _system(self) -> None:
        told = self._fields.take("system")
        texts = [told] if isinstance(told, str) else [self._text(block) for block in self._fields.objects("system")]
        spoken = [text for text in texts if text and not text.startswith(BILLING)]
        if spoken:
            self._turns.system("\n\n".join(spoken))

    def _message(self, message: Fields) -> None:
        role = message.needed_text("role")
        told = message.take("content")
        blocks = None if isinstance(told, str) else message.objects("content")
        if role == "system":
            self._turns.system(told if blocks is None else "\n\n".join(self._text(block) for block in blocks))
        elif role == "assistant":
            self._assistant([Fields({"type": "text", "text": told})] if blocks is None else blocks)
        elif role == "user":
            self._user([Fields({"type": "text", "text": told})] if blocks is None else blocks)
        else:
            raise message.refused("role", "should be user or assistant")

    def _user(self, blocks: list[Fields]) -> None:
        """Reads a user's message. Tools' results go first: they have to follow their calls directly."""
        parts: list[JsonObject] = []
        for block in blocks:
            if block.needed_text("type") == "tool_result":
                self._result(block)
            else:
                parts += self._parts(block)
        self._turns.user(parts)

    def _result(self, block: Fields) -> None:
        told = block.take("content")
        parts: list[JsonObject] = []
        if isinstance(told, str):
            parts.append(text_part(told))
        else:
            for inner in block.objects("content"):
                parts += self._parts(inner)
        if block.flag("is_error"):
            parts.insert(0, text_part("Error:"))
        self._turns.returned(block.needed_text("tool_use_id"), parts)

    def _assistant(self, blocks: list[Fields]) -> None:
        """Reads an assistant's message. Blocks of tools that ran at Anthropic are skipped: other models cannot use
        them.
        """
        for block in blocks:
            kind = block.needed_text("type")
            if kind == "text":
                self._turns.said(self._text(block))
            elif kind == "thinking":
                self._turns.thought(block.text("thinking") or "", unsealed(block.text("signature")))
            elif kind == "redacted_thinking":
                self._turns.thought("", unsealed(block.text("data")))
            elif kind == "tool_use":
                arguments = dumped(block.json_object("input") or {}).decode()
                self._turns.called(block.needed_text("id"), self._short(block.needed_text("name")), arguments)
            else:
                self._ignored.append(block.path(kind))

    def _parts(self, block: Fields) -> list[JsonObject]:
        """The parts of one block of a user's message, or of a tool's result."""
        kind = block.needed_text("type")
        read = _PARTS.get(kind)
        if read is None:
            raise block.refused("type", f"{kind[:64]!r} is no kind of block that can be handed on")
        return read(self, block)

    def _text(self, block: Fields) -> str:
        if block.needed_text("type") != "text":
            raise block.refused("type", 'should be "text"')
        return block.needed_text("text")

    def _image(self, block: Fields) -> list[JsonObject]:
        source = _source(block)
        return [image_part(f"data:{source.needed_text('media_type')};base64,{source.needed_text('data')}")]

    def _document(self, block: Fields) -> list[JsonObject]:
        title = block.text("title")
        context = [text_part(text) for text in (block.text("context"),) if text]
        source = _source(block, "base64", "text", "content")
        kind = source.needed_text("type")
        if kind == "base64":
            return [*context, file_part(source.needed_text("data"), source.text("media_type"), title)]
        named = [text_part(title)] if title else []
        if kind == "text":
            return [*named, *context, text_part(source.needed_text("data"))]
        told = source.take("content")
        if isinstance(told, str):
            return [*named, *context, text_part(told)]
        return [*named, *context, *(part for inner in source.objects("content") for part in self._parts(inner))]

    def _search_result(self, block: Fields) -> list[JsonObject]:
        head = "\n".join(filter(None, (block.text("title"), block.text("source"))))
        return [text_part(head), *(text_part(self._text(inner)) for inner in block.objects("content"))]

    def _tools(self) -> list[JsonObject]:
        tools = []
        for tool in self._fields.objects("tools"):
            kind = tool.text("type")
            if kind not in OWN_TOOLS:
                self._ignored.append(f"tools.{kind}")
                continue
            function = {
                "name": self._short(tool.needed_text("name")),
                "description": tool.text("description"),
                "parameters": tool.json_object("input_schema"),
                "strict": tool.flag("strict"),
            }
            told = {name: value for name, value in function.items() if value is not None}
            tools.append({"type": "function", "function": told})
        for server in self._fields.objects("mcp_servers"):
            self._ignored.append(server.path("mcp_server"))
        return tools

    def _tool_choice(self) -> JsonObject:
        choice = self._fields.object("tool_choice")
        if choice is None:
            return {}
        kind = choice.needed_text("type")
        found: JsonObject = {"parallel_tool_calls": False} if choice.flag("disable_parallel_tool_use") else {}
        if kind == "tool":
            name = self._short(choice.needed_text("name"))
            return {**found, "tool_choice": {"type": "function", "function": {"name": name}}}
        if kind not in ("auto", "any", "none"):
            raise choice.refused("type", "should be auto, any, tool or none")
        return {**found, "tool_choice": "required" if kind == "any" else kind}

    def _effort(self) -> ReasoningEffort | None:
        output = self._fields.object("output_config")
        effort = EFFORTS.get((output.text("effort") if output else None) or "")
        thinking = self._fields.object("thinking")
        if thinking is None:
            return effort
        kind = thinking.needed_text("type")
        if kind == "disabled":
            return "none"
        budget = thinking.integer("budget_tokens") if kind == "enabled" else None
        if effort is not None or budget is None:
            return effort or UNTOLD_EFFORT
        return next((effort for most, effort in BUDGETS if budget < most), "high")

    def _format(self) -> JsonObject | None:
        output = self._fields.object("output_config")
        wanted = (output.object("format") if output else None) or self._fields.object("output_format")
        if wanted is None:
            return None
        if wanted.needed_text("type") != "json_schema":
            raise wanted.refused("type", 'should be "json_schema"')
        schema = wanted.json_object("schema")
        if schema is None:
            raise wanted.refused("schema", "is missing")
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}

    def _short(self, name: str) -> str:
        found = short(name)
        if found != name:
            self._names[found] = name
        return found


_PARTS: dict[str, Callable[[_Reader, Fields], list[JsonObject]]] = {
    "text": lambda reader, block: [text_part(reader._text(block))],
    "image": _Reader._image,
    "document": _Reader._document,
    "search_result": _Reader._search_result,
    "tool_reference": lambda reader, block: [text_part(block.needed_text("tool_name"))],
}


def _source(block: Fields, *kinds: str) -> Fields:
    source = block.object("source")
    if source is None:
        raise block.refused("source", "is missing")
    kind = source.needed_text("type")
    if kind in ("url", "file"):
        raise source.refused("type", f"{kind!r} is not fetched: send the data itself, in base64")
    if kind not in (kinds or ("base64",)):
        raise source.refused("type", f"should be {' or '.join(kinds or ('base64',))}")
    return source


class MessagesWriter:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked, request_id: str) -> None:
        self._model = asked.model
        self._names: Mapping[str, str] = asked.options.names
        self._id = f"msg_{request_id.replace('-', '')}"
        self._thoughts: bool = asked.options.thoughts
        self._tokens: int = asked.options.tokens
        self._blocks = Blocks(thoughts=self._thoughts)
        self._written = 0

    def start(self) -> bytes:
        message = self._message(self._model, [], None, {"input_tokens": 0, "output_tokens": 0})
        return event({"type": "message_start", "message": message}) + PING

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        return self._events(self._blocks.piece(chunk))

    def keep_alive(self) -> bytes:
        return PING

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        written = [self._events(self._blocks.end(response))]
        if data := sealed(response.extra):
            place, self._written = self._written, self._written + 1
            block = {"type": "redacted_thinking", "data": data}
            written.append(event({"type": "content_block_start", "index": place, "content_block": block}))
            written.append(event({"type": "content_block_stop", "index": place}))
        delta = {"stop_reason": stop_reason(response), "stop_sequence": None}
        written.append(event({"type": "message_delta", "delta": delta, "usage": usage(response)}))
        written += [comments(response), event({"type": "message_stop"})]
        return b"".join(written)

    def failed(self, error: BullpenError) -> bytes:
        return event(_error(error.status, error.code, error.message))

    def whole(self, responses: Sequence[InferenceResponse]) -> bytes:
        if not responses:
            return dumped({"input_tokens": self._tokens})
        response = responses[0]
        content: list[JsonObject] = []
        signature = sealed(response.extra)
        if response.reasoning and self._thoughts:
            content.append({"type": "thinking", "thinking": response.reasoning, "signature": signature or NOTHING})
        elif signature:
            content.append({"type": "redacted_thinking", "data": signature})
        if text := response.output or response.refusal:
            content.append({"type": "text", "text": text})
        for call in calls_of(response):
            name = whole(call.name, self._names)
            content.append({"type": "tool_use", "id": call.id, "name": name, "input": _input(call.arguments)})
        message = self._message(response.model_id, content, stop_reason(response), usage(response))
        return dumped(message)

    def _message(self, model: str, content: list[JsonObject], stop: str | None, used: JsonObject) -> JsonObject:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": used,
        }

    def _events(self, steps: Iterator[Step]) -> bytes:
        return b"".join(self._event(step) for step in steps)

    def _event(self, step: Step) -> bytes:
        index = step.block.index
        match step:
            case Opened():
                self._written = index + 1
                begun = self._begun(step.block)
                return event({"type": "content_block_start", "index": index, "content_block": begun})
            case Grown():
                return event({"type": "content_block_delta", "index": index, "delta": _delta(step)})
            case Closed():
                return self._signed(step.block) + event({"type": "content_block_stop", "index": index})
            case _:
                assert_never(step)

    def _signed(self, block: Block) -> bytes:
        if block.kind != "thought":
            return b""
        delta = {"type": "signature_delta", "signature": NOTHING}
        return event({"type": "content_block_delta", "index": block.index, "delta": delta})

    def _begun(self, block: Block) -> JsonObject:
        if block.kind == "thought":
            return {"type": "thinking", "thinking": "", "signature": ""}
        if block.kind == "call":
            return {"type": "tool_use", "id": block.id, "name": whole(block.name, self._names), "input": {}}
        return {"type": "text", "text": ""}


PING = event({"type": "ping"})


def _delta(step: Grown) -> JsonObject:
    if step.block.kind == "thought":
        return {"type": "thinking_delta", "thinking": step.text}
    if step.block.kind == "call":
        return {"type": "input_json_delta", "partial_json": step.text}
    return {"type": "text_delta", "text": step.text}


def stop_reason(response: InferenceResponse) -> str:
    """Anthropic's `stop_reason` for the answer."""
    return "refusal" if response.refusal else STOP_REASONS[response.finish_reason]


def usage(response: InferenceResponse) -> JsonObject:
    """The usage in Anthropic's form, which counts tokens from a cache and tokens into a cache apart."""
    cached, stored = response.cached_tokens or 0, response.cache_write_tokens or 0
    return {
        "input_tokens": max(0, (response.prompt_tokens or 0) - cached - stored),
        "cache_creation_input_tokens": stored,
        "cache_read_input_tokens": cached,
        "output_tokens": response.completion_tokens,
    }


def _input(arguments: str) -> JsonObject:
    try:
        found = from_json(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(status: int, code: str, message: str) -> JsonObject:
    if code == ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        message = f"{TOO_LONG}: {message}"
    usual = "invalid_request_error" if status < 500 else "api_error"
    kind = "overloaded_error" if code in _FULL else ERROR_TYPES.get(status, usual)
    return {"type": "error", "error": {"type": kind, "message": message}}
