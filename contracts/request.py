"""The request: what a caller may send to `infer.*`, and the one place where bytes become it.

`parse_request` is the border. A request that passes is well-formed; a refused one gets an `invalid_request` that names
the field. It reads strictly: no coercion, no unknown fields, no NaN, nothing nested deeper than 32.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import from_json

from contracts.base import JsonObject, StrictModel
from contracts.envelope import LONGEST_TASK_ID, Envelope
from contracts.heartbeat import Capability
from contracts.request_checks import (
    FieldError,
    base64_data,
    check_logit_bias,
    check_response_format,
    check_tool_choice,
    check_tools,
    data_url,
    image_data_url,
)
from contracts.request_dialects import plain
from contracts.request_form import Form, first_error
from contracts.subjects import Kind, text_of

INT64_MAX = 2**63 - 1

Role = Literal["system", "developer", "user", "assistant", "tool"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Continuation = Literal["any", "seamless"]
"""What a caller can take when a worker is lost in mid-stream: `any`, or only text that goes on after what it has."""
SYSTEM_ROLES = ("system", "developer")


Penalty = Annotated[float, Field(ge=-2, le=2)]


class TextPart(StrictModel):
    type: Literal["text"]
    text: str


class ImageUrl(StrictModel):
    url: Annotated[str, AfterValidator(image_data_url), Field(json_schema_extra={"pattern": "^data:image/"})]
    """A data URL: the mesh never fetches an address for a caller."""
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(StrictModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(StrictModel):
    data: Annotated[str, AfterValidator(base64_data)]
    """In base64."""
    format: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]
    """As `wav` or `mp3`."""


class AudioPart(StrictModel):
    type: Literal["input_audio"]
    input_audio: InputAudio


class FileData(StrictModel):
    file_data: Annotated[str, AfterValidator(data_url), Field(json_schema_extra={"pattern": "^data:"})]
    """A data URL, as with images."""
    filename: str | None = None


class FilePart(StrictModel):
    type: Literal["file"]
    file: FileData


LISTED = Field(strict=False)
"""Takes a list for a tuple: the turns in `context` are checked after JSON was parsed."""
Part = Annotated[TextPart | ImagePart | AudioPart | FilePart, Field(discriminator="type")]


class ChatMessage(StrictModel):
    role: Role
    content: str | Annotated[tuple[Part, ...], LISTED] | None = None
    name: str | None = None
    tool_calls: Annotated[tuple[JsonObject, ...], LISTED] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """The model's reasoning before this turn, as its answer had it (`reasoning`)."""
    extra: JsonObject | None = None
    """What only one kind of backend understands, under that backend's name: an answer's `extra`, given back
    unchanged.
    """

    @property
    def text(self) -> str:
        """The message's words, without its images."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[str, ...]:
        """The message's images, as data URLs."""
        if self.content is None or isinstance(self.content, str):
            return ()
        return tuple(part.image_url.url for part in self.content if isinstance(part, ImagePart))

    @property
    def attachments(self) -> tuple[AudioPart | FilePart, ...]:
        """The message's sounds and files."""
        if self.content is None or isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if isinstance(part, AudioPart | FilePart))

    @property
    def says_something(self) -> bool:
        """Whether the turn has anything but blanks. A tool's empty result counts."""
        return bool(self.text.strip() or self.images or self.attachments or self.tool_calls or self.tool_call_id)


class InferenceRequest(Envelope):
    kind: ClassVar[Kind] = "infer"

    prompt: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    context: JsonObject = Field(default_factory=dict)
    """`system` is the system text, `messages` are earlier turns; all other keys go to the books untouched."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.2
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | tuple[str, ...] | None = None
    seed: Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    """By the token's number in the model's vocabulary."""
    logprobs: bool = False
    """Return the log-probability of each token. Only models that can are asked."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Return as many of the likeliest tokens at each place as well."""
    reasoning_effort: ReasoningEffort | None = None
    stream: bool = False
    continuation: Continuation = "any"
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    response_format: JsonObject | None = None
    tools: tuple[JsonObject, ...] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    """False: the model calls one tool at a time."""
    extra: JsonObject | None = None
    """What only one kind of backend understands, under that backend's name; passed to it unread."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.prompt is not None and not self.prompt.strip():
            raise FieldError("prompt", "is empty")
        if self.messages is not None and not self.messages:
            raise FieldError("messages", "is empty")
        if self.prompt is None and self.messages is None:
            raise FieldError("prompt", "is missing: give `prompt` or `messages`")
        system = self.context.get("system")
        if system is not None and not isinstance(system, str):
            raise FieldError("context.system", "should be a string")
        self._check_turns(self._earlier_turns())
        check_tools(self.tools or ())
        check_tool_choice(self.tool_choice, self.tools or ())
        check_response_format(self.response_format)
        check_logit_bias(self.logit_bias)
        if self.top_logprobs and not self.logprobs:
            raise FieldError("top_logprobs", "needs `logprobs`: true")
        return self

    def _check_turns(self, earlier: tuple[ChatMessage, ...]) -> None:
        """Refuses conversations without a question: providers take the system text apart, and refuse what is left."""
        if self.messages is None:
            return
        if not any(message.says_something for message in self.messages):
            raise FieldError("messages", "has no content")
        spoken = (message for message in (*earlier, *self.messages) if message.role not in SYSTEM_ROLES)
        if self.prompt is None and not any(message.says_something for message in spoken):
            raise FieldError("messages", "has no user message: the system's text alone asks nothing")

    def _earlier_turns(self) -> tuple[ChatMessage, ...]:
        turns = self.context.get("messages")
        if turns is None:
            return ()
        try:
            return _TURNS.validate_python(turns)
        except ValidationError as error:
            path, message = first_error(error.errors(include_url=False))
            raise FieldError(f"context.messages.{path}".rstrip("."), message) from None

    @property
    def conversation(self) -> tuple[ChatMessage, ...]:
        """System text, earlier turns, then the question: the messages for a chat model."""
        system = self.context.get("system")
        start = (_said("system", system),) if system else ()
        question = (_said("user", self.prompt),) if self.prompt is not None else ()
        return (*start, *self._earlier_turns(), *(self.messages or ()), *question)

    @property
    def question(self) -> str:
        """What is asked, as text: the prompt, or the last user message."""
        if self.prompt is not None:
            return self.prompt
        return next((m.text for m in reversed(self.messages or ()) if m.role == "user"), "")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def context_extras(self) -> JsonObject:
        """The keys of `context` that are not sent to the model, for the books."""
        return {key: value for key, value in self.context.items() if key not in ("system", "messages")}

    @property
    def needs(self) -> frozenset[Capability]:
        """The capabilities that a model needs for this request."""
        needed: set[Capability] = {"chat"}
        if self.tools:
            needed.add("tools")
        if self.response_format and self.response_format.get("type") != "text":
            needed.add("json")
        if self.logprobs:
            needed.add("logprobs")
        for message in (*self._earlier_turns(), *(self.messages or ())):
            if message.images:
                needed.add("vision")
            for attachment in message.attachments:
                needed.add("audio" if isinstance(attachment, AudioPart) else "file")
        return frozenset(needed)


def _said(role: Role, text: str) -> ChatMessage:
    """A message whose parts were checked already."""
    return ChatMessage.model_construct(role=role, content=text)


_TURNS: TypeAdapter[tuple[ChatMessage, ...]] = TypeAdapter(tuple[ChatMessage, ...])
_FORM = Form(InferenceRequest, "prompt", plain)


def parse_request(data: bytes, *, task_id: str | None = None) -> InferenceRequest:
    """The request in `data`; its `task_id` is always set (`task_id`, or a new UUIDv7, when it has none).

    A body that does not begin like a JSON object is a bare prompt, unless it is plainly JSON of another kind.
    Raises `BullpenError(invalid_request)` with the field that is wrong.
    """
    return read_request(data, task_id=task_id)[0]


def read_request(data: bytes, *, task_id: str | None = None) -> tuple[InferenceRequest, bytes]:
    """As `parse_request`; and the same request in its canonical form, for workers that know no other."""
    return _FORM.read(data, task_id)


def told_task_id(text: str | None) -> str | None:
    """The task id in a header; None when the header has none."""
    name = text_of(text) if text is not None else ""
    return name if _is_task_id(name) else None


def salvage_task_id(data: bytes) -> str | None:
    """The caller's `task_id` from a request that was refused, so that the error can carry it."""
    try:
        value = from_json(data, allow_inf_nan=True).get("task_id")
    except (ValueError, AttributeError):
        return None
    return value if isinstance(value, str) and _is_task_id(value) else None


def salvage_stream(data: bytes) -> bool:
    """Whether the sender of a refused request waits for the end of a stream."""
    try:
        return from_json(data, allow_inf_nan=True).get("stream") is True
    except (ValueError, AttributeError):
        return False


def _is_task_id(text: str) -> bool:
    return 0 < len(text) <= LONGEST_TASK_ID and text.isprintable()
