"""How long a provider may be silent about an answer and still be well. Pure: told configs and figures, asks no clock.

The config's time-outs, or the model's own; longer for a model that reasons or that has to be loaded first, and for a
long prompt, which is read before the first token; longer still where its answers were silent for longer of late. What
was learned only ever extends it, so that a few quick answers never make a slow one look dead. The worker keeps to
exactly this, and tells it to the Manager with its claim.
"""

from collections import OrderedDict
from dataclasses import dataclass

from config.recent import RecentValues
from contracts import SilenceOk
from workers.base.interface.config import BackendConfig, ModelConfig

REASONING, LOADING = 5, 5
"""Times the usual, for a model that reasons, and before the first token for one that has to be loaded."""
LONG_PROMPT = 8192
"""Tokens. Before the first token, a prompt of twice as many gets twice the usual, and so on."""
LEARNED = 4.0
"""Times the longest silence that 99 of 100 answers had of late."""
MOST = 10.0
"""Times the usual that may be learned, or that a long prompt gets: a provider that gets slower and slower is given up
in the end."""
ANSWERS, MODELS = 200, 64
"""How many answers of how many models are remembered."""


@dataclass(frozen=True, slots=True)
class Silence:
    """How long one answer was silent at most, in seconds."""

    first_token: float = 0.0
    """Before its first token."""
    next_token: float = 0.0
    """Between tokens."""


NOTHING_LEARNED = Silence()


def silence_ok(
    config: BackendConfig,
    model: ModelConfig,
    *,
    loads: bool = False,
    usual: Silence = NOTHING_LEARNED,
    prompt_tokens: int = 0,
) -> SilenceOk:
    """`loads`: the model has to be loaded first. `usual`: what was learned of it. `prompt_tokens`: to be read."""
    reasoning = REASONING if model.reasons else 1
    first = model.first_token_timeout or config.first_token_timeout * max(reasoning, LOADING if loads else 1)
    following = model.next_token_timeout or config.next_token_timeout * reasoning
    reading = min(MOST, max(1.0, prompt_tokens / LONG_PROMPT))
    return SilenceOk(
        first_token=max(_milliseconds(first, usual.first_token), round(1000 * first * reading)),
        next_token=_milliseconds(following, usual.next_token),
    )


class SilenceHistory:
    """The silences of each model's answers of late."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[RecentValues, RecentValues]] = OrderedDict()
        """Before the first token, and between tokens."""

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
        """What 99 of 100 answers kept to; of nothing, nothing."""
        if model not in self._answers:
            return NOTHING_LEARNED
        first, following = self._answers[model]
        return Silence(_p99(first), _p99(following))


def _milliseconds(allowed: float, learned: float) -> int:
    return round(1000 * max(allowed, min(LEARNED * learned, MOST * allowed)))


def _p99(values: RecentValues) -> float:
    return values.below((99 * len(values) - 1) // 100)
