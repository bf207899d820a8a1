"""Reads settings as people write them, in Ollama's form: how long a model stays loaded, and how it thinks."""

import re
from math import isfinite

from contracts import JsonObject

LEVELS = ("low", "medium", "high", "max")
TOP_LEVEL = ("think", "keep_alive", "format", "logprobs", "top_logprobs")
"""Fields that stand beside `options` in a question instead of inside."""
_DURATION = re.compile(r"[-+]?(?:\d+(?:\.\d*)?(?:ns|us|µs|ms|s|m|h))+")
_WORDS = {"true": True, "false": False, "on": True, "off": False}


def keep_alive(told: object) -> float | str | None:
    """Seconds, or a duration such as `1h30m`; below 0 is for ever. Raises `ValueError` with the expected form."""
    if isinstance(told, str):
        text = told.strip().lower()
        if _DURATION.fullmatch(text):
            return text
        told = _number(text)
    if told is None or (isinstance(told, int | float) and not isinstance(told, bool) and isfinite(told)):
        return told
    raise ValueError("should be seconds (-1: for ever, 0: not at all) or a duration such as 10m or 1h30m")


def think(told: object) -> bool | str | None:
    """Whether a model thinks, or how much. Raises `ValueError` with the expected form."""
    if isinstance(told, str):
        told = _WORDS.get(told.strip().lower(), told.strip().lower())
    if told is None or isinstance(told, bool) or (isinstance(told, str) and told in LEVELS):
        return told
    raise ValueError(f"should be true, false or one of {', '.join(LEVELS)}")


def checked(options: JsonObject) -> JsonObject:
    """A model's options with `keep_alive` and `think` in Ollama's form. Raises `ValueError` naming the wrong one."""
    told = dict(options)
    for name, read in (("keep_alive", keep_alive), ("think", think)):
        if name in told:
            try:
                told[name] = read(told[name])
            except ValueError as error:
                raise ValueError(f"options.{name} {error}") from None
    return told


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
