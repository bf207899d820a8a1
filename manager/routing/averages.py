"""Averages in which old values fade: sums that decay, no windows. Pure."""

from dataclasses import dataclass
from math import sqrt

MEMORY = 0.98
"""Weight that an old answer keeps with each new one: the last fifty answers count most."""
PRIOR_WEIGHT = 4.0
"""Weight of the prior, in answers: a record starts as if it had this many answers of the prior quality."""


@dataclass(slots=True)
class Mean:
    """A mean in which old values fade."""

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
    """How often something succeeds, 0..1, and how sure that estimate is: a Beta posterior in which old results fade."""

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
        """The mean plus this many standard deviations of the posterior, 1 at most.

        `kept`: the weight, 0..1, that the record still has after a time without new results.
        """
        mean = self._mean(kept)
        return min(1.0, mean + deviations * sqrt(mean * (1 - mean) / (self.weight * kept + PRIOR_WEIGHT + 1)))

    def _mean(self, kept: float) -> float:
        return (self.sum * kept + self.prior * PRIOR_WEIGHT) / (self.weight * kept + PRIOR_WEIGHT)
