"""How sure a model was of an answer, and where that figure comes from.

If the backend reports the probabilities of the chosen tokens, the confidence is their geometric mean. Otherwise it is
the model's running average, marked `prior`: it describes the model, not this answer.
"""

from collections.abc import Sequence
from math import exp

from contracts import ConfidenceSource

UNKNOWN = 0.5
"""The confidence of a model that has never reported probabilities."""
WEIGHT = 0.05
"""Weight of one answer in the running average."""


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
