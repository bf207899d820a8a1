"""What OpenAI's dialects have in common: fields of a request, the form of errors, usage, events."""

from collections.abc import Iterable, Mapping
from typing import Any

from contracts import BullpenError, InferenceResponse, JsonObject
from gateway.dialects import Refused
from gateway.dialects.events import dumped

NEVER: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "continue_final_message": (False,),
    "echo": (False,),
    "grammar": ("",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "guided_json": (),
    "guided_regex": ("",),
    "structured_outputs": ({},),
    "suffix": ("",),
}
"""Fields that would change the answer in a way that the mesh cannot honour, with the values that are harmless. All
other unknown fields are passed over, and named in the answer: without them the answer's text is the same.
"""
SAMPLING = frozenset({
    *("temperature", "top_p", "stop", "seed", "frequency_penalty", "presence_penalty", "logit_bias", "max_tokens"),
})  # fmt: skip
OURS = frozenset({
    *("backend", "content", "context", "deadline_ms", "hedge", "max_cost_usd", "metadata", "min_confidence"),
    *("policy", "priority"),
})  # fmt: skip
"""Fields that only the mesh has. SDKs send them with `extra_body`."""
MOST_COPIES = 128
ENDLESS = -1
"""The `max_tokens` by which some clients mean no limit."""
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    499: "invalid_request_error",
}
SERVER_ERROR = "server_error"


def present(body: Mapping[str, Any]) -> JsonObject:
    """The fields that are set; `null` counts as missing."""
    return {name: value for name, value in body.items() if value is not None}


def only(fields: JsonObject, allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Removes fields whose value is harmless. Raises `Refused` for any other value."""
    for name, values in allowed.items():
        if name in fields and (value := fields.pop(name)) not in values:
            cure = f", only {' or '.join(repr(one) for one in values)} is" if values else ""
            raise Refused(f"{name}: {value!r:.200} is not supported here{cure}", name, code="unsupported_value")


def model_of(fields: JsonObject) -> str:
    """The model's name; `auto` when it is missing. Raises `Refused`."""
    model = fields.pop("model", "auto")
    if not isinstance(model, str) or not 0 < len(model) <= 256:
        raise Refused("model should be a string of 1 to 256 characters", "model")
    return model


def flag(fields: JsonObject, name: str) -> bool:
    """Raises `Refused`."""
    value = fields.pop(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name} should be true or false", name)
    return value


def copies_of(fields: JsonObject) -> int:
    """The number of answers (`n`). Raises `Refused`."""
    copies = fields.pop("n", 1)
    if not isinstance(copies, int) or isinstance(copies, bool) or not 1 <= copies <= MOST_COPIES:
        raise Refused(f"n should be a whole number from 1 to {MOST_COPIES}", "n")
    return copies


def includes_usage(fields: JsonObject) -> tuple[bool, list[str]]:
    """Whether `stream_options` ask for the usage, and the unknown options in it. Raises `Refused`."""
    options = fields.pop("stream_options", {})
    if not isinstance(options, dict):
        raise Refused("stream_options should be an object", "stream_options")
    options = present(options)
    wanted = options.pop("include_usage", False)
    if not isinstance(wanted, bool):
        raise Refused("stream_options.include_usage should be true or false", "stream_options.include_usage")
    return wanted, [f"stream_options.{name}" for name in options]


def settle_max_tokens(fields: JsonObject) -> None:
    """Renames `max_completion_tokens` to `max_tokens`. Raises `Refused` when they differ."""
    told = {name: fields.pop(name) for name in ("max_completion_tokens", "max_tokens") if name in fields}
    wanted = [(name, value) for name, value in told.items() if value != ENDLESS]
    for name, value in wanted:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refused(f"{name} should be a whole number, 1 at least", name)
        if value != wanted[0][1]:
            raise Refused(f"{name} differs from {wanted[0][0]}: give one of them", name)
        fields["max_tokens"] = value


def without_empty(fields: JsonObject, *names: str) -> None:
    """Removes empty lists and objects from these fields."""
    for name in names:
        if fields.get(name) in ([], {}, ""):
            del fields[name]


def error_object(status: int, code: str, message: str, param: str | None) -> JsonObject:
    kind = TYPES.get(status, SERVER_ERROR if status >= 500 else TYPES[400])
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_event(error: BullpenError) -> bytes:
    return event(error_object(error.status, error.code, error.message, error.field))


def event(told: JsonObject) -> bytes:
    return b"data: " + dumped(told) + b"\n\n"


def usage(responses: Iterable[InferenceResponse]) -> JsonObject:
    """The usage of all answers together: each was computed."""
    answers = list(responses)
    prompt = sum(answer.prompt_tokens or 0 for answer in answers)
    completion = sum(answer.completion_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens or 0 for answer in answers)},
        "completion_tokens_details": {"reasoning_tokens": sum(answer.reasoning_tokens or 0 for answer in answers)},
    }
