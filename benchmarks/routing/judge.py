"""What a day came to: goodput, latency, what an accepted answer cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from benchmarks.routing.simulation import Outcome


@dataclass(frozen=True)
class Figures:
    goodput: float
    """Share of the questions that were answered within their deadline."""
    accepted: float
    """Share that was answered in time and well."""
    p50_s: float
    p95_s: float
    p99_s: float
    """Of all questions; one that was never answered counts as twice its deadline."""
    cost_per_accepted: float
    """US dollars."""
    tries: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> "Figures":
        count = len(outcomes)
        accepted = sum(outcome.accepted for outcome in outcomes)
        waits = [o.answered_after if o.answered_after is not None else 2 * o.question.deadline_s for o in outcomes]
        cuts = quantiles(waits, n=100)
        return cls(
            goodput=sum(outcome.in_time for outcome in outcomes) / count,
            accepted=accepted / count,
            p50_s=cuts[49],
            p95_s=cuts[94],
            p99_s=cuts[98],
            cost_per_accepted=sum(outcome.cost for outcome in outcomes) / max(1, accepted),
            tries=fmean(outcome.tries for outcome in outcomes),
        )
