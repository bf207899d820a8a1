"""Averages that forget: sums that decay, no windows. Pure."""

from dataclasses import dataclass
from math import sqrt

MEMORY = 0.98
"""What an old answer still counts after each new one: the last fifty count most."""
PRIOR_WEIGHT = 4.0
"""As if so many answers of the prior quality had been seen before the first."""


@dataclass(slots=True)
class Mean:
    """A mean that forgets."""

    total: float = 0.0
    weight: float = 0.0

    def learn(self, value: float, memory: float, weight: float = 1.0) -> None:
        self.total = self.total * memory + value
        self.weight = self.weight * memory + weight

    @property
    def value(self) -> float:
        return self.total / self.weight


@dataclass(slots=True)
class Share:
    """How often something goes well, 0..1, and how sure that is: a Beta posterior that forgets."""

    prior: float
    sum: float = 0.0
    weight: float = 0.0

    def learn(self, good: float) -> None:
        self.sum = self.sum * MEMORY + good
        self.weight = self.weight * MEMORY + 1.0

    @property
    def mean(self) -> float:
        return self._mean(1.0)

    def hoped(self, deviations: float, kept: float = 1.0) -> float:
        """So many standard deviations of the posterior better than its mean, 1 at most.

        `kept`: what is left of the record, 0..1, when nothing was added to it for long.
        """
        mean = self._mean(kept)
        return min(1.0, mean + deviations * sqrt(mean * (1 - mean) / (self.weight * kept + PRIOR_WEIGHT + 1)))

    def _mean(self, kept: float) -> float:
        return (self.sum * kept + self.prior * PRIOR_WEIGHT) / (self.weight * kept + PRIOR_WEIGHT)
