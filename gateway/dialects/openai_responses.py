"""OpenAI's Responses API, stateless: `POST /v1/responses`. The gateway keeps nothing, so a client sends the
conversation itself.

`store` has no effect; fields that need stored responses (`previous_response_id`, `conversation`, `item_reference`,
`background`) are refused by name. Tools of type `function` are used; tools that run at OpenAI, or have a grammar of
their own (`custom`), are skipped and named as ignored.

The part of an answer that only one kind of backend understands (`extra`) is sealed into a reasoning item's
`encrypted_content`. Content that another service has encrypted there is skipped.
"""

from collections.abc import Callable, Mapping

from contracts import JsonObject
from contracts.request import ReasoningEffort
from gateway.dialects import Asked
from gateway.dialects.events import dumped
from gateway.dialects.fields import Fields, ignored, share
from gateway.dialects.responses_writer import Options, ResponsesWriter
from gateway.dialects.sealed import unsealed
from gateway.dialects.turns import Turns, file_part, image_part, says_something, text_part, with_question

NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tools": "tools",
}
NOT_KEPT = "nothing is kept between requests here: send the conversation itself in `input`"
REFUSED = {
    "previous_response_id": NOT_KEPT,
    "conversation": NOT_KEPT,
    "prompt": "prompt templates are kept at OpenAI: send `instructions` and `input`",
}
PROBE_TOKENS = 16
"""The `max_output_tokens` of clients that only test whether a model answers; some of them send no question."""
PROBE = "Hello"
WITH_LOGPROBS = "message.output_text.logprobs"
DETAILS = ("auto", "low", "high")
ROLES = ("user", "assistant", "system", "developer")
EFFORTS: dict[str, ReasoningEffort] = {
    "none": "none",
    "minimal": "minimal",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}
CHOICES = ("none", "auto", "required")
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OpenAIResponses:
    name = "responses"
    fields = NAMES

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        return _Reader(Fields(body)).asked()

    def writer(self, asked: Asked, request_id: str, created: int) -> ResponsesWriter:
        return ResponsesWriter(asked, request_id, created)

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        return dumped({"error": {"message": message, "type": kind, "param": param, "code": code}})


class _Reader:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._ignored: list[str] = []
        self._turns = Turns()
        self._tools: list[JsonObject] = []

    def asked(self) -> Asked:
        fields = self._fields
        for name, why in REFUSED.items():
            if fields.take(name) is not None:
                raise fields.refused(name, why)
        if fields.flag("background"):
            raise fields.refused("background", NOT_KEPT)
        model, stream = fields.text("model") or "auto", fields.flag("stream") or False
        instructions, most = fields.text("instructions"), fields.integer("max_output_tokens")
        for tool in fields.objects("tools"):
            self._tool(tool)
        if instructions:
            self._turns.system(instructions)
        self._input()
        messages = self._turns.messages
        if not says_something(messages) and most is not None and most <= PROBE_TOKENS:
            messages.append({"role": "user", "content": PROBE})
        if not messages:
            raise fields.refused("input", "is empty")
        messages = with_question(messages)
        effort, top_logprobs = self._effort(), fields.integer("top_logprobs")
        parallel = fields.flag("parallel_tool_calls")
        logprobs = WITH_LOGPROBS in fields.texts("include") or bool(top_logprobs)
        wanted = {
            "max_tokens": most,
            "temperature": fields.number("temperature"),
            "top_p": share(fields.number("top_p")),
            "frequency_penalty": fields.number("frequency_penalty"),
            "presence_penalty": fields.number("presence_penalty"),
            **self._choice(),
            "tools": self._tools,
            "parallel_tool_calls": parallel if self._tools else None,
            "response_format": self._format(),
            "reasoning_effort": effort,
            "logprobs": logprobs or None,
            "top_logprobs": top_logprobs,
        }
        request = {name: value for name, value in wanted.items() if value not in (None, [])}
        options = Options(self._echoed(), logprobs)
        unused = ignored(*self._ignored, *fields.unread)
        return Asked({"messages": messages, **request}, model, stream, unused, options=options)

    def _input(self) -> None:
        told = self._fields.take("input")
        if isinstance(told, str):
            self._turns.user([text_part(told)] if told else [])
            return
        for item in self._fields.objects("input"):
            kind = item.text("type") or "message"
            read = _ITEMS.get(kind)
            if read is None:
                self._ignored.append(f"input.{kind}")
            else:
                read(self, item)

    def _message(self, item: Fields) -> None:
        role = item.needed_text("role")
        if role not in ROLES:
            raise item.refused("role", f"should be one of {', '.join(ROLES)}")
        told = item.take("content")
        if isinstance(told, str):
            parts = [text_part(told)]
        else:
            parts = [part for inner in item.objects("content") for part in self._parts(inner)]
        if role == "user":
            self._turns.user(parts)
            return
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if role == "assistant":
            self._turns.said(text)
        elif text:
            self._turns.system(text)

    def _call(self, item: Fields) -> None:
        self._turns.called(item.needed_text("call_id"), item.needed_text("name"), item.text("arguments") or "{}")

    def _custom_call(self, item: Fields) -> None:
        """Reads a call from an earlier turn, by a model that had tools of another form."""
        arguments = dumped({"input": item.text("input") or ""}).decode()
        self._turns.called(item.needed_text("call_id"), item.needed_text("name"), arguments)

    def _output(self, item: Fields) -> None:
        told = item.take("output")
        if isinstance(told, str):
            parts = [text_part(told)]
        else:
            parts = [part for inner in item.objects("output") for part in self._parts(inner)]
        self._turns.returned(item.needed_text("call_id"), parts)

    def _thought(self, item: Fields) -> None:
        texts = [part.text("text") or "" for name in ("content", "summary") for part in item.objects(name)]
        self._turns.thought("\n".join(texts), unsealed(item.text("encrypted_content")))

    def _more_tools(self, item: Fields) -> None:
        for tool in item.objects("tools"):
            self._tool(tool)

    def _refused_item(self, item: Fields) -> None:
        raise item.refused("type", NOT_KEPT)

    def _parts(self, part: Fields) -> list[JsonObject]:
        kind = part.needed_text("type")
        read = _PARTS.get(kind)
        if read is None:
            raise part.refused("type", f"{kind[:64]!r} is no kind of content that can be handed on")
        return [read(part)]

    def _tool(self, tool: Fields) -> None:
        kind = tool.needed_text("type")
        if kind != "function":
            self._ignored.append(f"tools.{kind}")
            return
        function = {
            "name": tool.needed_text("name"),
            "description": tool.text("description"),
            "parameters": tool.json_object("parameters"),
            "strict": tool.flag("strict"),
        }
        told = {name: value for name, value in function.items() if value is not None}
        self._tools.append({"type": "function", "function": told})

    def _choice(self) -> JsonObject:
        """Reads `tool_choice`, and the tools that it allows."""
        told = self._fields.take("tool_choice")
        if told is None or told == "auto":
            return {}
        if isinstance(told, str):
            if told not in CHOICES:
                raise self._fields.refused("tool_choice", f"should be one of {', '.join(CHOICES)}, or an object")
            if told == "required" and not self._tools:
                raise self._fields.refused("tool_choice", "needs a tool of type function")
            return {"tool_choice": told} if self._tools else {}
        choice = self._fields.object("tool_choice")
        assert choice is not None
        kind = choice.needed_text("type")
        if kind == "function":
            return {"tool_choice": {"type": "function", "function": {"name": choice.needed_text("name")}}}
        if kind != "allowed_tools":
            raise choice.refused("type", f"{kind[:64]!r} is no tool that runs here")
        allowed = {tool.text("name") for tool in choice.objects("tools")}
        self._tools = [tool for tool in self._tools if tool["function"]["name"] in allowed]
        return {"tool_choice": "required"} if choice.text("mode") == "required" and self._tools else {}

    def _effort(self) -> ReasoningEffort | None:
        reasoning = self._fields.object("reasoning")
        effort = reasoning.text("effort") if reasoning is not None else None
        if reasoning is None or effort is None:
            return None
        if effort not in EFFORTS:
            raise reasoning.refused("effort", f"should be one of {', '.join(EFFORTS)}")
        return EFFORTS[effort]

    def _format(self) -> JsonObject | None:
        text = self._fields.object("text")
        wanted = text.object("format") if text is not None else None
        if wanted is None:
            return None
        kind = wanted.needed_text("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return {"type": "json_object"}
        if kind != "json_schema":
            raise wanted.refused("type", "should be text, json_object or json_schema")
        schema = wanted.json_object("schema")
        if schema is None:
            raise wanted.refused("schema", "is missing")
        described = {
            "name": wanted.text("name") or "answer",
            "description": wanted.text("description"),
            "schema": schema,
            "strict": wanted.flag("strict"),
        }
        present = {name: value for name, value in described.items() if value is not None}
        return {"type": "json_schema", "json_schema": present}

    def _echoed(self) -> JsonObject:
        """The fields of the request that a response repeats; a missing number has OpenAI's default."""
        told = self._fields
        reasoning = told.take("reasoning") or {}
        return {
            "frequency_penalty": told.take("frequency_penalty") or 0.0,
            "instructions": told.take("instructions"),
            "max_output_tokens": told.take("max_output_tokens"),
            "max_tool_calls": told.peek("max_tool_calls"),
            "metadata": told.json_object("metadata") or {},
            "parallel_tool_calls": told.take("parallel_tool_calls") is not False,
            "presence_penalty": told.take("presence_penalty") or 0.0,
            "prompt_cache_key": told.peek("prompt_cache_key"),
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "safety_identifier": told.peek("safety_identifier"),
            "temperature": _or_one(told.take("temperature")),
            "text": told.take("text") or {"format": {"type": "text"}},
            "tool_choice": told.take("tool_choice") or "auto",
            "tools": [_told_tool(tool) for tool in told.take("tools") or ()],
            "top_logprobs": told.take("top_logprobs") or 0,
            "top_p": _or_one(told.take("top_p")),
            "truncation": "disabled",
        }


_ITEMS: dict[str, Callable[[_Reader, Fields], None]] = {
    "message": _Reader._message,
    "function_call": _Reader._call,
    "function_call_output": _Reader._output,
    "custom_tool_call": _Reader._custom_call,
    "custom_tool_call_output": _Reader._output,
    "reasoning": _Reader._thought,
    "additional_tools": _Reader._more_tools,
    "item_reference": _Reader._refused_item,
    "compaction": _Reader._refused_item,
}
"""The known types of items. All others are of tools that run at OpenAI: other models cannot use them, and they are
named as ignored.
"""


def _or_one(value: float | None) -> float:
    return 1.0 if value is None else value


def _told_tool(tool: JsonObject) -> JsonObject:
    """A tool as a response repeats it: a function has all its fields."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def _image(part: Fields) -> JsonObject:
    if part.text("file_id"):
        raise part.refused("file_id", "files are kept at OpenAI: send the image as a data URL in `image_url`")
    url, detail = part.needed_text("image_url"), part.text("detail")
    if not url.startswith("data:"):
        raise part.refused("image_url", "is not fetched: send the image itself, as a data URL")
    return image_part(url, detail if detail in DETAILS else None)


def _file(part: Fields) -> JsonObject:
    for name in ("file_id", "file_url"):
        if part.text(name):
            raise part.refused(name, "is not fetched: send the file itself in `file_data`")
    return file_part(part.needed_text("file_data"), None, part.text("filename"))


def _audio(part: Fields) -> JsonObject:
    audio = part.object("input_audio")
    if audio is None:
        raise part.refused("input_audio", "is missing")
    told = {"data": audio.needed_text("data"), "format": audio.needed_text("format")}
    return {"type": "input_audio", "input_audio": told}


def _text(part: Fields) -> JsonObject:
    return text_part(part.needed_text("text"))


_PARTS: dict[str, Callable[[Fields], JsonObject]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "summary_text": _text,
    "refusal": lambda part: text_part(part.needed_text("refusal")),
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}
