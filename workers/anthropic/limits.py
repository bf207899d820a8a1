"""What the API refuses, for a model or together with thinking. Pure: it gets what was asked for and returns what the
API accepts.

A caller's token limit covers thoughts and answer together, so that no answer costs more than the caller allowed. A
thinking budget that leaves no room is reduced to half of the limit; if that is less than the API's minimum, the model
does not think. It does not think either where the API forbids it: before a function that must be called, after a begun
answer, and after tool results without the thoughts that led to their calls.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from contracts import Capability, JsonObject, ModelCard, ReasoningEffort

SAMPLING = frozenset({"temperature", "top_p", "top_k"})
HIGH = 0.95
"""From this value on the API accepts `top_p` together with thinking."""
LEAST_BUDGET = 1024
"""The fewest tokens that the API accepts as a thinking budget."""
THINKS = ("enabled", "adaptive")
FORCED = ("any", "tool")
_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")


class Since(NamedTuple):
    """Parameters that models refuse from a version on."""

    version: tuple[int, int]
    refused: frozenset[str]
    beside: frozenset[str] = frozenset()
    """Parameters with which the refusal applies; empty: it always applies."""


REFUSED = (
    Since((4, 1), frozenset({"top_p"}), beside=frozenset({"temperature"})),
    Since((4, 7), SAMPLING),
)
"""The refusals, by version; a model name without a version refuses nothing."""
ADAPTIVE_SINCE = (4, 7)
"""From this version on, models set their own budget."""
THINKS_SINCE = (3, 7)
BUDGETS: dict[ReasoningEffort, int] = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768}
"""Thinking budget in tokens at each effort, for models that need one."""
EFFORTS: dict[ReasoningEffort, str] = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
}
"""The API's words for an effort, for models that set their own budget."""
REASONING: Capability = "reasoning"


def thinking_at(effort: ReasoningEffort | None, card: ModelCard) -> tuple[JsonObject | None, str | None]:
    """The API's `thinking` field and the effort, where the model takes one; None for a model that cannot think."""
    version = version_of(card.model_id)
    able = REASONING in card.capabilities if version is None else version >= THINKS_SINCE
    if effort is None or effort == "none" or not able:
        return None, None
    if version is not None and version >= ADAPTIVE_SINCE:
        return {"type": "adaptive", "display": "summarized"}, EFFORTS[effort]
    return {"type": "enabled", "budget_tokens": BUDGETS[effort]}, None


def version_of(model: str) -> tuple[int, int] | None:
    """The version in a model's name, as in `claude-sonnet-4-5-20250929`; None when it has no version."""
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def accepted(told: JsonObject, model: str, turns: Sequence[JsonObject], *, own_limit: bool) -> JsonObject:
    """The parameters without those that the API would refuse.

    `own_limit`: `max_tokens` is Bullpen's default, and the thinking budget is added to it.
    """
    version = version_of(model)
    if version is not None:
        told = _without(told, _refused_by(version, told))
    return _beside_thinking(told, version, turns, own_limit=own_limit) if _kind(told) in THINKS else told


def _refused_by(version: tuple[int, int], told: JsonObject) -> set[str]:
    rules = [rule for rule in REFUSED if version >= rule.version and (not rule.beside or rule.beside & told.keys())]
    return {name for rule in rules for name in rule.refused}


def _beside_thinking(
    told: JsonObject, version: tuple[int, int] | None, turns: Sequence[JsonObject], *, own_limit: bool
) -> JsonObject:
    thinking = _thinking(told, version)
    budget, limit = thinking.get("budget_tokens"), told["max_tokens"]
    if isinstance(budget, int):
        if own_limit:
            limit += budget
        elif budget >= limit:
            budget = limit // 2
        thinking = {**thinking, "budget_tokens": budget}
    if _may_not_think(thinking["type"], told, turns) or (isinstance(budget, int) and budget < LEAST_BUDGET):
        return _without(told, {"thinking"})
    refused = {"temperature", "top_k", *(["top_p"] if (told.get("top_p") or 1) < HIGH else [])}
    return {**_without(told, refused), "thinking": thinking, "max_tokens": limit}


def _thinking(told: JsonObject, version: tuple[int, int] | None) -> JsonObject:
    """The `thinking` field for the model: the newest models set their own budget, and refuse one."""
    thinking: JsonObject = told["thinking"]
    if thinking["type"] == "enabled" and version is not None and version >= ADAPTIVE_SINCE:
        return {**_without(thinking, {"budget_tokens"}), "type": "adaptive"}
    return thinking


def _may_not_think(kind: str, told: JsonObject, turns: Sequence[JsonObject]) -> bool:
    last: JsonObject = turns[-1] if turns else {"role": "user", "content": []}
    results = kind == "enabled" and any(block["type"] == "tool_result" for block in last["content"])
    results = results and not _brings_thoughts(turns[-2] if len(turns) > 1 else last)
    return last["role"] == "assistant" or results or (told.get("tool_choice") or {}).get("type") in FORCED


def _brings_thoughts(turn: JsonObject) -> bool:
    return bool(turn["content"]) and turn["content"][0]["type"] in ("thinking", "redacted_thinking")


def _kind(told: JsonObject) -> object:
    thinking = told.get("thinking")
    return thinking.get("type") if isinstance(thinking, dict) else None


def _without(told: JsonObject, names: set[str]) -> JsonObject:
    return {key: value for key, value in told.items() if key not in names}
