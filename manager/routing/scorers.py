"""How good a candidate is: the terms of the score, one function each. Pure.

    score = Σ weight · term

Every term lies between 0 (best) and 1 (worst), and the lowest score wins. `lateness` is a penalty: its weight is so
large that an answer in time beats a late one whatever the other terms say. A new term is a field of `TermValues` and
the function of its name here, a field of `Terms` in contracts/metrics.py, and its weight in manager/config.py.
"""

from operator import mul
from typing import NamedTuple

from contracts import Heartbeat, Terms
from manager.routing.forecast import Prospect

CHEAP_USD = 0.001
"""US dollars for a good answer that give the term `cost` the value one half."""
QUICK_S = 1.0
"""Expected seconds that give the term `load` the value one half."""
IN_TIME, TOO_LATE = 0.6, 1.6
"""Shares of the time left: up to the first, an expected answer has a lateness of 0; from the second on, of 1."""
IN_VAIN = (1.0 - IN_TIME) / (TOO_LATE - IN_TIME)
"""The lateness of an answer that is expected exactly at the deadline."""
HOPELESS = 0.8
"""The lateness from which an answer is not worth a wait: requests that can still be in time get the place."""
DIGITS = 2
"""Decimal places of a score: scores that differ by less are equal, and equal candidates share the work."""


class TermValues(NamedTuple):
    """The terms of one candidate, or the weights of a policy; on the wire, `Terms`."""

    cost: float
    confidence: float
    load: float
    resources: float
    lateness: float

    @classmethod
    def of(cls, told: Terms) -> "TermValues":
        return cls(*(getattr(told, name) for name in cls._fields))


def terms(prospect: Prospect) -> TermValues:
    return TermValues(
        cost=cost(prospect),
        confidence=confidence(prospect),
        load=load(prospect),
        resources=resources(prospect),
        lateness=lateness(prospect),
    )


def score(values: TermValues, weights: TermValues) -> float:
    """The weighted sum of the terms. Lower is better; of equal candidates any may win."""
    total: float = sum(map(mul, weights, values))
    return round(total, DIGITS)


def cost(prospect: Prospect) -> float:
    """The cost of a good answer; 1 when the price is unknown, because it may be high."""
    usd = prospect.usd
    return 1.0 if usd is None else usd / (usd + CHEAP_USD)


def confidence(prospect: Prospect) -> float:
    """The probability that no answer comes, or one that is not good."""
    return 1.0 - prospect.good


def load(prospect: Prospect) -> float:
    """How long the answer takes."""
    return prospect.seconds / (prospect.seconds + QUICK_S)


def resources(prospect: Prospect) -> float:
    """The used share of the worker's scarcest resource: memory, GPU memory or processor."""
    used = prospect.heartbeat.resources
    scarcest = max(memory_share(prospect.heartbeat), used.cpu_percent / 100 / (used.cpu_limit or 1.0))
    for gpu in used.gpus:
        if gpu.memory_total:
            scarcest = max(scarcest, gpu.memory_used / gpu.memory_total)
    return min(1.0, max(0.0, scarcest))


def lateness(prospect: Prospect) -> float:
    """How likely the answer is to come after the deadline."""
    share = prospect.seconds / max(prospect.left_s, 0.001)
    return min(1.0, max(0.0, (share - IN_TIME) / (TOO_LATE - IN_TIME)))


def memory_share(beat: Heartbeat) -> float:
    """The used share of the worker's memory limit; 0 without a limit."""
    resources = beat.resources
    return resources.memory_used / resources.memory_limit if resources.memory_limit else 0.0
