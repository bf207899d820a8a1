"""How sure a model was, said honestly.

Where the backend gives the probabilities of the tokens it chose, their geometric mean. Otherwise the
model's running average, called `prior`: it says what this model is usually worth, nothing about this
answer.
"""

from collections.abc import Sequence
from math import exp

from contracts import ConfidenceSource

UNKNOWN = 0.5
"""The prior of a model that has never shown any probabilities."""
WEIGHT = 0.05
"""How much one answer moves the running average."""


class Confidence:
    """One model's confidence, answer by answer."""

    def __init__(self) -> None:
        self._average = UNKNOWN

    def of(self, logprobs: Sequence[float], told: float | None = None) -> tuple[float, ConfidenceSource]:
        """The confidence (0..1) of an answer with these token log-probabilities, and where it comes from."""
        if told is not None:
            return self._learn(told), "prior"
        if logprobs:
            return self._learn(exp(min(0.0, sum(logprobs) / len(logprobs)))), "logprobs"
        return self._average, "prior"

    def _learn(self, value: float) -> float:
        value = min(1.0, max(0.0, value))
        self._average += WEIGHT * (value - self._average)
        return value
