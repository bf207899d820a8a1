"""How long a provider may be silent during an answer and still be well. Pure: it gets configs and figures, and reads no
clock.

The base is the time-outs of the config, or the model's own. They grow for a model that reasons or has to be loaded
first, and for a long prompt, which is read before the first token. They also grow when the model's recent answers were
silent for longer. What is learned only extends the time, so that a few quick answers never make a slow one look dead.
The worker keeps exactly this time, and sends it to the Manager with its claim.
"""

from collections import OrderedDict
from dataclasses import dataclass

from config.recent import RecentValues
from contracts import SilenceOk
from workers.base.interface.config import BackendConfig, ModelConfig

REASONING, LOADING = 5, 5
"""Factors on the time-outs: for a model that reasons, and, before the first token, for one that has to be loaded."""
LONG_PROMPT = 8192
"""Tokens of a prompt up to which the time-out stays as it is; twice as many tokens double it before the first token."""
LEARNED = 4.0
"""Factor on the longest silence of 99 of 100 recent answers."""
MOST = 10.0
"""The largest factor on a time-out, learned or for a long prompt: a provider that gets ever slower is given up in the
end.
"""
ANSWERS, MODELS = 200, 64
"""Answers remembered for each model, and models remembered."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest silences of one answer, in seconds."""

    first_token: float = 0.0
    """The silence before the first token."""
    next_token: float = 0.0
    """The longest silence between tokens."""


NOTHING_LEARNED = Silence()


def silence_ok(
    config: BackendConfig,
    model: ModelConfig,
    *,
    loads: bool = False,
    usual: Silence = NOTHING_LEARNED,
    prompt_tokens: int = 0,
) -> SilenceOk:
    """How long an answer may be silent. `loads`: the model has to be loaded first. `usual`: silences learned from
    earlier answers. `prompt_tokens`: tokens to be read.
    """
    reasoning = REASONING if model.reasons else 1
    first = model.first_token_timeout or config.first_token_timeout * max(reasoning, LOADING if loads else 1)
    following = model.next_token_timeout or config.next_token_timeout * reasoning
    reading = min(MOST, max(1.0, prompt_tokens / LONG_PROMPT))
    return SilenceOk(
        first_token=max(_milliseconds(first, usual.first_token), round(1000 * first * reading)),
        next_token=_milliseconds(following, usual.next_token),
    )


class SilenceHistory:
    """The silences of each model's recent answers."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[RecentValues, RecentValues]] = OrderedDict()
        """By model, the silences before the first token, and between tokens (seconds)."""

    def learn(self, model: str, silence: Silence) -> None:
        if model not in self._answers:
            self._answers[model] = RecentValues(ANSWERS), RecentValues(ANSWERS)
        first, following = self._answers[model]
        first.add(silence.first_token)
        following.add(silence.next_token)
        self._answers.move_to_end(model)
        if len(self._answers) > MODELS:
            self._answers.popitem(last=False)

    def usual(self, model: str) -> Silence:
        """The silences that 99 of 100 recent answers stayed within; zeros for a model without answers."""
        if model not in self._answers:
            return NOTHING_LEARNED
        first, following = self._answers[model]
        return Silence(_p99(first), _p99(following))


def _milliseconds(allowed: float, learned: float) -> int:
    return round(1000 * max(allowed, min(LEARNED * learned, MOST * allowed)))


def _p99(values: RecentValues) -> float:
    return values.below((99 * len(values) - 1) // 100)
