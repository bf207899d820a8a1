"""Ollama's API: `/api/chat`, `/api/generate`, and the pages that its clients read first (`/api/tags`, `/api/show` …).

A stream has a JSON line for each piece, and a client gets it unless it says `stream: false`. Tool calls come whole, in
the last line but one. On a real server a request without a question only loads a model: here it is answered at once.

Options without a counterpart are named as ignored. Raw prompts, templates, a `suffix` and the numbers of an earlier
`context` are refused: they depend on one model's tokenizer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal

from pydantic_core import from_json

from contracts import BullpenError, Chunk, FinalResponse, InferenceResponse, JsonObject, ModelCard, TokenLogprob
from contracts.request import ReasoningEffort
from gateway.dialects import Asked
from gateway.dialects.blocks import Blocks, Grown, Step, calls_of
from gateway.dialects.events import dumped
from gateway.dialects.fields import Fields, ignored, share
from gateway.dialects.turns import Turns, image_part, text_part, with_question

LATEST = ":latest"
"""Ollama's clients write it behind a name that has no tag."""
VERSION = "0.12.6"
"""The version by which clients know what the API can do: that of the Ollama whose fields are known here."""
OPTIONS: dict[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
NAMES = {
    **{ours: f"options.{theirs}" for theirs, ours in OPTIONS.items()},
    "seed": "options.seed",
    "stop": "options.stop",
    "max_tokens": "options.num_predict",
    "response_format": "format",
    "reasoning_effort": "think",
    "messages": "messages",
    "tools": "tools",
}
EFFORTS: dict[str, ReasoningEffort] = {"low": "low", "medium": "medium", "high": "high", "max": "xhigh"}
REFUSED = ("suffix", "template", "context", "raw")
IMAGE_KINDS = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
"""The start of an image in base64, by which its type is known: Ollama's clients do not name it."""
CAPABILITIES = {
    "chat": "completion",
    "tools": "tools",
    "vision": "vision",
    "reasoning": "thinking",
    "embed": "embedding",
}
NANOSECONDS = 1_000_000
"""Nanoseconds per millisecond."""

Door = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class Options:
    thoughts: bool = True
    """Whether the client gets the model's reasoning."""
    logprobs: bool = False
    unload: bool = False
    """Whether a request without a question asks to unload the model."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model under a name that a client may use."""

    name: str
    card: ModelCard | None
    """None: the name stands for a choice by the mesh."""
    since: datetime | None = None


class Ollama:
    fields = NAMES

    def __init__(self, door: Door) -> None:
        self._door = door

    @property
    def name(self) -> str:
        return f"ollama-{self._door}"

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        return _Reader(Fields(body)).asked(self._door)

    def writer(self, asked: Asked, request_id: str, created: int) -> "OllamaWriter":
        return OllamaWriter(self._door, asked, created)

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped({"error": message})


class _Reader:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._ignored: list[str] = []
        self._turns = Turns()
        self._calls: list[tuple[str, str]] = []
        """Id and name of the calls in the assistant's last message that have no result yet."""
        self._called = 0

    def asked(self, door: Door) -> Asked:
        fields = self._fields
        for name in REFUSED:
            if fields.take(name):
                raise fields.refused(name, "speaks to one model's tokenizer, which this mesh does not")
        model, stream = fields.needed_text("model"), fields.flag("stream")
        if door == "chat":
            for message in fields.objects("messages"):
                self._message(message)
        else:
            self._generate()
        messages = with_question(self._turns.messages) if door == "chat" else self._turns.messages
        effort, logprobs, top = self._effort(), fields.flag("logprobs"), fields.integer("top_logprobs")
        wanted = {
            "messages": messages,
            **self._options(),
            "tools": self._tools(),
            "response_format": self._format(),
            "reasoning_effort": effort,
            "logprobs": logprobs or None,
            "top_logprobs": top if logprobs else None,
        }
        request = {name: value for name, value in wanted.items() if value not in (None, [])}
        unload = fields.take("keep_alive") in (0, "0")
        options = Options(thoughts=effort != "none", logprobs=bool(logprobs), unload=unload)
        unused = ignored(*self._ignored, *fields.unread)
        asked = Asked(request, model, stream is not False, unused, options=options)
        asks = any(message["role"] != "system" for message in messages)  # else the model is only to be loaded, or to go
        return asked if asks else replace(asked, parts=(), stream=False)

    def _generate(self) -> None:
        if system := self._fields.text("system"):
            self._turns.system(system)
        prompt = self._fields.text("prompt")
        self._turns.user([*([text_part(prompt)] if prompt else []), *_images(self._fields)])

    def _message(self, message: Fields) -> None:
        role, text = message.needed_text("role"), message.text("content") or ""
        if role == "system":
            self._turns.system(text)
        elif role == "user":
            self._turns.user([*([text_part(text)] if text else []), *_images(message)])
        elif role == "assistant":
            self._assistant(message, text)
        elif role == "tool":
            self._turns.returned(self._call_answered(message), [text_part(text), *_images(message)])
        else:
            raise message.refused("role", "should be system, user, assistant or tool")

    def _assistant(self, message: Fields, text: str) -> None:
        if thought := message.text("thinking"):
            self._turns.thought(thought)
        if text:
            self._turns.said(text)
        for call in message.objects("tool_calls"):
            function = call.object("function")
            if function is None:
                raise call.refused("function", "is missing")
            name, arguments = function.needed_text("name"), function.json_object("arguments") or {}
            call_id = call.text("id") or f"call_{self._called}"
            self._called += 1
            self._calls.append((call_id, name))
            self._turns.called(call_id, name, dumped(arguments).decode())

    def _call_answered(self, message: Fields) -> str:
        """The id of the call that a tool's result answers: the named call, else the next one of that function, else the
        next one.
        """
        call_id, name = message.text("tool_call_id"), message.text("tool_name") or message.text("name")
        fitting = [call for call in self._calls if (call[0] == call_id if call_id else call[1] == name)]
        found = next(iter(fitting or ([] if call_id else self._calls)), None)
        if found is None:
            return call_id or f"call_{self._called}"
        self._calls.remove(found)
        return found[0]

    def _options(self) -> JsonObject:
        options = self._fields.object("options")
        if options is None:
            return {}
        found: JsonObject = {ours: options.number(theirs) for theirs, ours in OPTIONS.items()}
        found["top_p"] = share(found["top_p"])
        found["seed"] = options.integer("seed")
        most = options.integer("num_predict")
        found["max_tokens"] = most if most is not None and most > 0 else None
        stop = options.take("stop")
        found["stop"] = [stop] if isinstance(stop, str) else options.texts("stop")
        self._ignored += options.unread
        return found

    def _tools(self) -> list[JsonObject]:
        tools = []
        for tool in self._fields.objects("tools"):
            function = tool.object("function")
            if function is None:
                raise tool.refused("function", "is missing")
            described = {
                "name": function.needed_text("name"),
                "description": function.text("description"),
                "parameters": function.json_object("parameters"),
            }
            told = {name: value for name, value in described.items() if value is not None}
            tools.append({"type": "function", "function": told})
        return tools

    def _format(self) -> JsonObject | None:
        told = self._fields.take("format")
        if told is None or told == "":
            return None
        if told == "json":
            return {"type": "json_object"}
        if not isinstance(told, dict):
            raise self._fields.refused("format", 'should be "json" or a JSON schema')
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": told}}

    def _effort(self) -> ReasoningEffort | None:
        told = self._fields.take("think")
        if told is None or told == "":
            return None
        if isinstance(told, bool):
            return "medium" if told else "none"
        if not isinstance(told, str) or told not in EFFORTS:
            raise self._fields.refused("think", f"should be true, false or one of {', '.join(EFFORTS)}")
        return EFFORTS[told]


def _images(message: Fields) -> list[JsonObject]:
    return [image_part(_data_url(data)) for data in message.texts("images")]


def _data_url(data: str) -> str:
    if data.startswith("data:"):
        return data
    kind = next((kind for start, kind in IMAGE_KINDS.items() if data.startswith(start)), "image/png")
    return f"data:{kind};base64,{data}"


class OllamaWriter:
    content_type = "application/x-ndjson"

    def __init__(self, door: Door, asked: Asked, created: int) -> None:
        self._door: Door = door
        self._options: Options = asked.options
        self._head = {"model": asked.model, "created_at": _time(created)}
        self._blocks = Blocks(thoughts=self._options.thoughts)

    def start(self) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        return b"".join(self._line(step) for step in self._blocks.piece(chunk))

    def keep_alive(self) -> bytes:
        """A piece without words: JSON lines have no comments."""
        return self._written({}, done=False)

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        lines = [self._line(step) for step in self._blocks.end(response)]
        if calls := _calls(response):
            lines.append(self._written({"tool_calls": calls}, done=False))
        lines.append(self._written({}, done=True, **_figures(response)))
        return b"".join(lines)

    def failed(self, error: BullpenError) -> bytes:
        return dumped({"error": error.message}) + b"\n"

    def whole(self, responses: Sequence[InferenceResponse]) -> bytes:
        if not responses:
            return self._written({}, done=True, done_reason="unload" if self._options.unload else "load")
        response = responses[0]
        said: JsonObject = {"text": response.output or response.refusal or ""}
        if response.reasoning and self._options.thoughts:
            said["thinking"] = response.reasoning
        if calls := _calls(response):
            said["tool_calls"] = calls
        logprobs = self._logprobs(response.logprobs or ())
        return self._written(said, done=True, **logprobs, **_figures(response)).rstrip(b"\n")

    def _line(self, step: Step) -> bytes:
        if not isinstance(step, Grown) or step.block.kind == "call":
            return b""
        field = "thinking" if step.block.kind == "thought" else "text"
        return self._written({field: step.text}, done=False, **self._logprobs(step.logprobs))

    def _written(self, said: JsonObject, *, done: bool, **more: object) -> bytes:
        return dumped({**self._head, **_said(self._door, said), "done": done, **more}) + b"\n"

    def _logprobs(self, told: Sequence[TokenLogprob]) -> JsonObject:
        if not self._options.logprobs or not told:
            return {}
        return {"logprobs": [one.model_dump(exclude_none=True) for one in told]}


def _said(door: Door, said: JsonObject) -> JsonObject:
    """The words in the endpoint's form: `generate` has them at the top, `chat` in a message."""
    words = {name: value for name, value in said.items() if name != "text"}
    if door == "generate":
        return {"response": said.get("text", ""), **words}
    return {"message": {"role": "assistant", "content": said.get("text", ""), **words}}


def _calls(response: InferenceResponse) -> list[JsonObject]:
    return [
        {"id": call.id, "function": {"index": number, "name": call.name, "arguments": _arguments(call.arguments)}}
        for number, call in enumerate(calls_of(response))
    ]


def _arguments(text: str) -> JsonObject:
    try:
        found = from_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _figures(response: InferenceResponse) -> JsonObject:
    """Usage and times in nanoseconds. The time to the first token counts as reading the prompt."""
    reading = response.ttft_ms or 0.0
    return {
        "done_reason": "length" if response.finish_reason == "length" else "stop",
        "total_duration": int(response.duration_ms * NANOSECONDS),
        "load_duration": 0,
        "prompt_eval_count": response.prompt_tokens or 0,
        "prompt_eval_duration": int(reading * NANOSECONDS),
        "eval_count": response.completion_tokens,
        "eval_duration": int(max(0.0, response.duration_ms - reading) * NANOSECONDS),
    }


def tags(models: Iterable[Listed]) -> bytes:
    """The answer to `GET /api/tags`."""
    return dumped({"models": [_listed(model) for model in _tagged(models)]})


def running(models: Iterable[Listed], until: datetime) -> bytes:
    """The answer to `GET /api/ps`: every model is loaded, and none is about to be unloaded."""
    told = {"expires_at": until.astimezone(UTC).isoformat(), "size_vram": 0}
    return dumped(
        {
            "models": [
                {**_listed(model), **told, "context_length": model.card.context_window if model.card else 0}
                for model in _tagged(models)
            ]
        }
    )


def shown(model: Listed) -> bytes:
    """The answer to `POST /api/show`. Facts that the mesh does not know (template, licence) are empty."""
    architecture = "bullpen"
    card = model.card
    information: JsonObject = {"general.architecture": architecture, "general.basename": model.name}
    window = card.context_window if card is not None else None
    if window:
        information[f"{architecture}.context_length"] = window
    able = card.capabilities if card is not None else ("chat", "tools", "vision")
    return dumped(
        {
            "modelfile": f"FROM {model.name}",
            "parameters": f"num_ctx {window}" if window else "",
            "template": "",
            "license": "",
            "modified_at": _moment(model),
            "details": DETAILS,
            "model_info": information,
            "capabilities": [theirs for ours, theirs in CAPABILITIES.items() if ours in able],
        }
    )


def version() -> bytes:
    """The answer to `GET /api/version`."""
    return dumped({"version": VERSION})


DETAILS: JsonObject = {
    "parent_model": "",
    "format": "gguf",
    "family": "bullpen",
    "families": ["bullpen"],
    "parameter_size": "",
    "quantization_level": "",
}


def _tagged(models: Iterable[Listed]) -> Iterable[Listed]:
    """Each with a tag, as Ollama lists them: Open WebUI asks for `auto` as `auto:latest`, and looks it up here."""
    named = {model.name if ":" in model.name else f"{model.name}{LATEST}": model for model in models}
    return [replace(model, name=name) for name, model in named.items()]


def _listed(model: Listed) -> JsonObject:
    digest = sha256(model.name.encode(errors="replace")).hexdigest()
    named = {"name": model.name, "model": model.name, "modified_at": _moment(model)}
    return {**named, "size": 0, "digest": digest, "details": DETAILS}


def _moment(model: Listed) -> str:
    return (model.since or datetime(2026, 1, 1, tzinfo=UTC)).astimezone(UTC).isoformat()


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
