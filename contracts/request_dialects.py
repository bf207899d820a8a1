"""Brings requests as callers' libraries write them to the form of `InferenceRequest`.

Libraries for the common chat API dump whole objects: null fields, earlier answers as they came, parameters that ask for
what happens anyway. Two tables list what is taken; a typo is still an error. `null` is the same as a field left out.
Free-form parts (`context`, JSON schemas) stay as the caller wrote them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from contracts.base import JsonObject
from contracts.request_checks import FieldError

UNUSED = frozenset({
    *("prompt_cache_key", "prompt_cache_retention", "safety_identifier"),
    *("service_tier", "store", "stream_options", "user", "verbosity"),
})  # fmt: skip
"""Parameters that are taken and ignored: an answer without them is still the answer."""

ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "modalities": (["text"],),
    "suffix": ("",),
}
"""Parameters that the mesh does not have, with the values that change nothing: those are taken."""

ALSO_CALLED = {"max_completion_tokens": "max_tokens", "max_output_tokens": "max_tokens"}

OF_AN_ANSWER = frozenset({
    *("annotations", "citations", "created_at", "finish_reason", "id", "index", "logprobs", "model", "object"),
    *("parsed", "provider_specific_fields", "reasoning", "reasoning_details", "status"),
    *("thinking", "thinking_blocks", "usage"),
})  # fmt: skip
"""Fields of an earlier answer that mean nothing to a model; some are one provider's alone."""
OF_A_PART = frozenset({"annotations", "cache_control", "logprobs"})


def plain(body: JsonObject) -> JsonObject:
    """The request under the names of `InferenceRequest`, without what changes nothing. Raises `FieldError`."""
    found = _renamed(present(body))
    for name in UNUSED & found.keys():
        del found[name]
    for name in ONLY.keys() & found.keys():
        _only(name, found.pop(name))
    for name, change in _PARTS.items():
        if name in found:
            found[name] = change(found[name])
    return found


def present(told: Mapping[str, Any]) -> JsonObject:
    """The fields that are set: `null` counts as left out."""
    return {name: value for name, value in told.items() if value is not None}


def _renamed(found: JsonObject) -> JsonObject:
    for other, name in ALSO_CALLED.items():
        if other in found:
            value = found.pop(other)
            if found.setdefault(name, value) != value:
                raise FieldError(other, f"differs from `{name}`: give one of them")
    return found


def _only(name: str, value: Any) -> None:
    taken = ONLY[name]
    if value not in taken:
        raise FieldError(name, "is no parameter of this mesh: leave it out, or give it the value that changes nothing")


def _each(change: Callable[[JsonObject], JsonObject]) -> Callable[[Any], Any]:
    """Applies `change` to the objects of a list. Anything else in the list is refused later, by name."""

    def changed(told: Any) -> Any:
        if not isinstance(told, list):
            return told
        return [change(item) if isinstance(item, dict) else item for item in told]

    return changed


def _message(told: JsonObject) -> JsonObject:
    found = present(told)
    if found.get("tool_calls") == []:
        del found["tool_calls"]
    if found.get("role") == "assistant":
        found = {name: value for name, value in found.items() if name not in OF_AN_ANSWER}
        if isinstance(refusal := found.get("refusal"), str):
            del found["refusal"]
            found.setdefault("content", refusal)
    if "content" in found:
        found["content"] = _parts(found["content"])
    return found


def _part(told: JsonObject) -> JsonObject:
    found = {name: value for name, value in present(told).items() if name not in OF_A_PART}
    if found.get("type") == "refusal" and isinstance(found.get("refusal"), str):
        return {"type": "text", "text": found["refusal"]}
    if isinstance(found.get("image_url"), str):
        found["image_url"] = {"url": found["image_url"]}
    for name in ("image_url", "input_audio", "file"):
        if isinstance(inside := found.get(name), dict):
            found[name] = present(inside)
    return found


_parts = _each(_part)


def _tool(told: JsonObject) -> JsonObject:
    found = present(told)
    if isinstance(function := found.get("function"), dict):
        found["function"] = present(function)
    return found


def _format(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    found = present(told)
    if isinstance(described := found.get("json_schema"), dict):
        found["json_schema"] = present(described)
    return found


def _context(told: Any) -> Any:
    if isinstance(told, dict) and "messages" in told:
        return {**told, "messages": _messages(told["messages"])}
    return told


_messages = _each(_message)
_PARTS: dict[str, Callable[[Any], Any]] = {
    "messages": _messages,
    "context": _context,
    "tools": _each(_tool),
    "response_format": _format,
    "metadata": lambda told: present(told) if isinstance(told, dict) else told,
}
