"""A question in the form of the Gemini API: turns, parts, and the parameters of the answer."""

import re
from base64 import b64decode
from collections.abc import Sequence

from google.genai import types

from contracts import AudioPart, BullpenError, ChatMessage, ErrorCode, FilePart, JsonObject, ReasoningEffort
from workers.base import Job
from workers.base.interface.config import Parameter
from workers.base.provider.call_forms import CallRule
from workers.base.provider.chat import (
    BEGIN,
    calls_made,
    conversation,
    function_answered,
    json_wanted,
    split_data_url,
    temperature_wanted,
)
from workers.base.provider.connection import UNUSABLE
from workers.gemini.schema import plain

CALLS = CallRule(ids=".*", names="[A-Za-z_][A-Za-z0-9_.:-]{0,63}", keeps=frozenset({"extra_content"}))
"""The API matches calls by name and place, and requires its own signed thoughts back."""
SIGNS_ITS_CALLS = re.compile(r"gemini-(?:[3-9]|\d\d)")
"""Models that refuse one of their own calls without the thoughts that they signed."""
THINKS = re.compile(r"gemini-(?:2\.5|[3-9]|\d\d)")
BUDGETS: dict[ReasoningEffort, int] = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576}
"""Thinking budget in tokens at each effort, for models that need one."""
LEAST_BUDGET = 128
"""Thinking budget in tokens for effort `none`, of a model that always thinks."""
LEVELS: dict[ReasoningEffort, str] = {
    "none": "LOW",
    "minimal": "LOW",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
}
STEERED: frozenset[Parameter] = frozenset(
    {"temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "reasoning_effort"}
)
"""The steering parameters that the API takes."""
UNSIGNED = b"skip_thought_signature_validator"
"""What the API accepts instead of signed thoughts, for calls that another provider's model made."""
CHOICES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
SEEDS = 1 << 31
SYSTEM = ("system", "developer")


def generation_of(job: Job, options: JsonObject) -> types.GenerateContentConfig:
    """Everything but the conversation; the operator's `options` override the caller's parameters."""
    request = job.request
    system = "\n\n".join(message.text for message in request.conversation if message.role in SYSTEM)
    is_json, schema = json_wanted(request.response_format)
    wanted: JsonObject = {
        "system_instruction": system or None,
        "temperature": temperature_wanted(request),
        "top_p": request.top_p,
        "max_output_tokens": job.max_tokens,
        "stop_sequences": [stop for stop in request.stops if stop] or None,
        "seed": None if request.seed is None else request.seed % SEEDS,
        "response_mime_type": "application/json" if is_json else None,
        "response_json_schema": None if schema is None else plain(schema),
        "response_logprobs": True if request.logprobs or "logprobs" in job.model.capabilities else None,
        "logprobs": request.top_logprobs or None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "thinking_config": thinking_at(request.reasoning_effort, job),
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_config": _tool_config(request.tool_choice) if request.tools else None,
        "automatic_function_calling": {"disable": True},
    }
    return types.GenerateContentConfig.model_validate({**wanted, **options})


def thinking_at(effort: ReasoningEffort | None, job: Job) -> JsonObject | None:
    """The API's `thinking_config`: a budget, or a level from Gemini 3 on. None: the model cannot think, or decides
    itself.
    """
    model = job.model.model_id
    able = THINKS.search(model) or "reasoning" in job.model.capabilities
    if effort is None or not able:
        return None
    if SIGNS_ITS_CALLS.search(model):
        return {"thinking_level": LEVELS[effort], **({} if effort == "none" else {"include_thoughts": True})}
    if effort == "none":
        return {"thinking_budget": LEAST_BUDGET if "pro" in model else 0}
    return {"thinking_budget": BUDGETS[effort], "include_thoughts": True}


def contents_of(job: Job) -> list[types.Content]:
    """The conversation. Messages of the same side in a row become one turn. Raises `BullpenError`."""
    messages = conversation(job)
    turns: list[types.Content] = []
    for message in messages:
        parts = [] if message.role in SYSTEM else _parts(message, messages)
        role = "model" if message.role == "assistant" else "user"
        if turns and turns[-1].role == role:
            turns[-1].parts = [*(turns[-1].parts or []), *parts]
        elif parts:
            turns.append(types.Content(role=role, parts=parts))
    if turns and turns[0].role == "model":
        turns.insert(0, types.Content(role="user", parts=[types.Part(text=BEGIN)]))
    if SIGNS_ITS_CALLS.search(job.model.model_id):
        _sign(turns)
    return turns


def _sign(turns: Sequence[types.Content]) -> None:
    """Marks the first call of each turn if it has no signed thoughts: another provider's model made it, and the API
    requires a signature.
    """
    for turn in turns:
        first = next((part for part in turn.parts or () if part.function_call), None)
        if first is not None and first.thought_signature is None:
            first.thought_signature = UNSIGNED


def _parts(message: ChatMessage, messages: Sequence[ChatMessage]) -> list[types.Part]:
    if message.role == "tool":
        name = function_answered(message, messages)
        return [types.Part.from_function_response(name=name, response={"result": message.text})]
    parts = [types.Part(text=message.text, thought_signature=_own(message))] if message.text.strip() else []
    parts += [_image(url) for url in message.images]
    parts += [_attachment(part) for part in message.attachments]
    for (name, arguments), call in zip(calls_made(message), message.tool_calls or (), strict=True):
        part = types.Part.from_function_call(name=name, args=arguments)
        part.thought_signature = _signature(call)
        parts.append(part)
    return parts


def _image(url: str) -> types.Part:
    mime_type, data = split_data_url(url)
    return _inline(data, mime_type)


def _attachment(part: AudioPart | FilePart) -> types.Part:
    if isinstance(part, AudioPart):
        return _inline(part.input_audio.data, f"audio/{part.input_audio.format}")
    mime_type, data = split_data_url(part.file.file_data)
    return _inline(data, mime_type)


def _inline(data: str, mime_type: str) -> types.Part:
    try:
        return types.Part.from_bytes(data=b64decode(data, validate=True), mime_type=mime_type)
    except ValueError:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "an image is not valid base64", field="messages") from None


def _own(message: ChatMessage) -> bytes | None:
    """The signature of the thoughts that led to an earlier answer's text, which the model requires back."""
    try:
        return b64decode((message.extra or {})["gemini"]["thought_signature"]) if message.role == "assistant" else None
    except UNUSABLE:
        return None


def _signature(call: JsonObject) -> bytes | None:
    try:
        return b64decode(call["extra_content"]["google"]["thought_signature"])
    except UNUSABLE:
        return None


def _tool(tool: JsonObject) -> JsonObject:
    function = tool.get("function", {})
    declaration = {
        "name": function.get("name"),
        "description": function.get("description"),
        "parameters_json_schema": plain(function["parameters"]) if function.get("parameters") else None,
    }
    return {"function_declarations": [declaration]}


def _tool_config(choice: str | JsonObject | None) -> JsonObject | None:
    """The API's form of `tool_choice`: a word, or the one function to call."""
    if isinstance(choice, dict):
        only = {"mode": "ANY", "allowed_function_names": [choice.get("function", {}).get("name")]}
        return {"function_calling_config": only}
    mode = CHOICES.get(choice or "auto", "AUTO")
    return None if mode == "AUTO" else {"function_calling_config": {"mode": mode}}
