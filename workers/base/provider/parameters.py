"""Parameters that a provider refuses: which one an error names, and what is remembered for each model. Pure.

A parameter that only steers the answer (`temperature`, `seed`) is left out, and the answer says so. A parameter that
says what the caller wants (`tools`, `response_format`, `stop`) is never left out: a model that refuses it cannot answer
the request. Each backend's folder has its provider's names for parameters.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple, get_args

from contracts import BullpenError, Capability, ErrorCode, InferenceRequest, JsonObject, ModelCard
from workers.base.interface.config import Parameter
from workers.base.provider.error_body import ErrorBody

STATUSES = frozenset({400, 404, 422, 500, 501, None})
"""HTTP statuses with which servers refuse a parameter; None: inside a 200."""
STEERS: frozenset[Parameter] = frozenset(
    {
        "temperature",
        "top_p",
        "seed",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "parallel_tool_calls",
        "reasoning_effort",
    }
)
"""Parameters that can be left out, if the answer says so."""
LACKS: dict[Parameter, Capability] = {
    "tools": "tools",
    "response_format": "json",
    "stream": "stream",
    "logprobs": "logprobs",
}
"""The capability that a model lacks when it refuses a parameter."""
WHOLE = frozenset({"tools", "tool_choice", "response_format", "stop", "stream"})
"""Parameters for which an error about a part inside them is about the caller's value, not about the parameter."""

SPELLINGS: dict[Parameter, tuple[str, ...]] = {
    "tools": ("functions", "tool use", "tool calling", "tool calls", "function calling", '"auto" tool choice'),
    "tool_choice": ("tool choice",),
    "response_format": ("json mode", "structured outputs", "structured output"),
    "stream": ("streaming",),
    "logprobs": ("log probabilities", "log probs"),
    "frequency_penalty": ("frequency penalty",),
    "presence_penalty": ("presence penalty",),
    "logit_bias": ("logit bias",),
    "parallel_tool_calls": ("parallel tool calls", "parallel tool use", "parallel function calling"),
    "reasoning_effort": ("reasoning effort",),
    "seed": ("random_seed",),
    "developer_role": ("developer", "role", "roles"),
}
"""Other words for a parameter, beside its own name in snake_case, camelCase and kebab-case."""

CODES = frozenset(
    {
        "unsupported_parameter",
        "unsupported_value",
        "unknown_parameter",
        "unrecognized_parameter",
        "unsupported",
        "extra_forbidden",
        "value_error.extra",
        "unexpected_parameter",
        "literal_error",
    }
)
_REFUSES = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|deprecated|incompatible|forbidden|extra (?:inputs?|fields?)"
    r"|\bnot (?:currently |yet |be )?(?:support|permit|allow|accept|available|recogni[sz]ed|implement|enabled|one of)"
    r"|not a valid (?:parameter|argument|field|property|option|role)"
    r"|(?:n't|\bnot|\bno endpoints found that) (?:currently )?(?:support|accept|allow|permit|recogni[sz]e|have|take)"
    r"|only the default|may only be set|must be (?:unset|omitted|removed|left out)|cannot (?:both )?be"
    r"|cannot find field|no such|requires --|should be removed|please remove",
    re.IGNORECASE,
)
_A_VALUE = re.compile(
    r"unsupported value|supported values|invalid value|must be one of|does not support '", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.;!]\s|\n")
_BOTH = re.compile(r"\bboth\b", re.IGNORECASE)


class Refused(NamedTuple):
    """The sent parameters that an error complains about: those that can be left out, and those that the request
    needs.
    """

    can_go: frozenset[Parameter]
    needed: frozenset[Parameter]


NOTHING = Refused(frozenset(), frozenset())


def wants(request: InferenceRequest) -> frozenset[Parameter]:
    """The parameters without which this request cannot be answered. Every model does `tool_choice: auto`."""
    wanted: dict[Parameter, object] = {
        "tools": request.tools,
        "tool_choice": request.tool_choice not in (None, "auto"),
        "response_format": request.response_format,
        "stop": request.stops,
        "stream": request.stream,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
    }
    return frozenset(name for name, value in wanted.items() if value)


def refused(status: int | None, error: ErrorBody, sent: Iterable[Parameter], wanted: Collection[Parameter]) -> Refused:
    """The parameters that an error refuses as such; a wrong value or a wrong schema does not refuse the parameter.

    `wanted`: the parameters that the request needs.
    """
    if status not in STATUSES:
        return NOTHING
    named = [name for name in sent if _is_named(name, error) or _is_in_words(name, error)]
    if len(named) > 1 and _BOTH.search(error.words):
        named = named[1:]
    named = [name for name in named if name != "stream" or len(named) == 1]
    can_go = frozenset(name for name in named if name not in wanted)
    if can_go:  # "temperature is not supported with tools" may be about the temperature: that is tried first
        return Refused(can_go, frozenset())
    return Refused(can_go, frozenset(named))


def _is_named(name: Parameter, error: ErrorBody) -> bool:
    """Whether the error names this field. An error about a part inside `tools` does not refuse the tools."""
    if not error.codes & CODES and not _REFUSES.search(error.words):
        return False
    named = {_plain(step) for step in error.parameters} - {"body", "query"}
    if name == "developer_role":
        return "role" in named
    return named == {_plain(name)} if name in WHOLE else _plain(name) in named


def _is_in_words(name: Parameter, error: ErrorBody) -> bool:
    """Whether a sentence of refusal names this parameter."""
    sentences = (one for one in _SENTENCE.split(error.words) if _REFUSES.search(one))
    words = "|".join(re.escape(word) for word in (name, *_spelt(name), *SPELLINGS.get(name, ())))
    pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-]|\[|\.[\w\[])", re.IGNORECASE)
    return any(pattern.search(one) for one in sentences)


def _spelt(name: str) -> tuple[str, str]:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others), name.replace("_", "-")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def switched_off(options: JsonObject) -> frozenset[Parameter]:
    """The parameters that a model's `options` switch off with null."""
    return frozenset(name for name in get_args(Parameter) if name in options and options[name] is None)


class Refusals:
    """The parameters that the provider has refused so far, by model."""

    def __init__(self) -> None:
        self._learned: dict[str, frozenset[Parameter]] = {}

    def of(self, model: str) -> frozenset[Parameter]:
        return self._learned.get(model, frozenset())

    def learn(self, model: str, names: Collection[Parameter]) -> frozenset[Parameter]:
        """Remembers refused parameters. Returns those that were not known before."""
        new = frozenset(names) - self.of(model)
        if new:
            self._learned[model] = self.of(model) | new
        return new


def limited(card: ModelCard, unsupported: Collection[Parameter]) -> ModelCard:
    """The model's card as the heartbeat shows it: with its unsupported parameters, and without the capabilities that it
    lacks.
    """
    if not unsupported:
        return card
    lacks = {LACKS.get(name) for name in unsupported}
    able = tuple(one for one in card.capabilities if one not in lacks)
    return card.model_copy(update={"unsupported": tuple(sorted(unsupported)), "capabilities": able})


def asked_in_vain(request: InferenceRequest, unsupported: Collection[Parameter]) -> tuple[Parameter, ...]:
    """The parameters that the caller set and the model does not take: the answer is made without them."""
    return tuple(sorted(name for name in STEERS & set(unsupported) if is_set(request, name) and _asks(request, name)))


def _asks(request: InferenceRequest, name: Parameter) -> bool:
    """Whether the caller's value differs from what happens without it."""
    value = getattr(request, name)
    match name:
        case "frequency_penalty" | "presence_penalty" | "logit_bias":
            return bool(value)
        case "parallel_tool_calls":
            return value is False and bool(request.tools)
        case "reasoning_effort":
            return value not in (None, "none")
        case _:
            return value is not None


def is_set(request: InferenceRequest, name: str) -> bool:
    """Whether the caller set the parameter; a default does not count."""
    return name in request.model_fields_set


def check_takes(request: InferenceRequest, model: str, unsupported: Collection[Parameter]) -> None:
    """Raises `BullpenError(invalid_request)` when the request needs a parameter that the model does not take."""
    if missing := wants(request) & set(unsupported):
        raise cannot_take(model, missing)


def cannot_take(model: str, names: Collection[Parameter], why: str = "") -> BullpenError:
    """The error for a request that needs parameters this model does not take; another model may take them."""
    listed = ", ".join(sorted(names))
    told_why = f": {why}" if why else ""
    return BullpenError(
        ErrorCode.INVALID_REQUEST, f"{model} does not take {listed}{told_why}", field=min(names), fault="model"
    )


def may_learn(names: Collection[Parameter], error: ErrorBody) -> bool:
    """Whether the model refuses the parameters for every value. One kind of `response_format`, or one effort, does not
    show that.
    """
    if "reasoning_effort" in names and ("unsupported_value" in error.codes or _A_VALUE.search(error.words)):
        return False
    return "response_format" not in names or "json_schema" not in error.words
