"""The arithmetic of `benchmarks failover`: from rounds of questions to lost, rerouted, median and maximum. Pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.failover.stage import Call, Json
from contracts import RouteDecision


@dataclass(slots=True)
class Round:
    """One fault and the questions around it."""

    calls: list[Call]
    routes: dict[str, list[RouteDecision]]
    victims: frozenset[str]
    """The workers (or Managers) that the fault hit."""
    usual: float
    """Seconds that such a question takes when nothing is wrong."""
    fault: float = 0.0
    """When it happened; 0 for a worker that was bad from the start."""
    faults: dict[str, float] = field(default_factory=dict)
    """By task, when it happened to each, where it did not happen to all at once."""
    notes: dict[str, int] = field(default_factory=dict)


def figures(played: Sequence[Round], *, everybody: bool = False) -> Json:
    """What the rounds of one row come to. Times in milliseconds; `added_ms` of the rerouted, or of everybody."""
    calls = [call for one in played for call in one.calls]
    reroutes = [ms for one in played for call in one.calls if (ms := reroute_ms(one, call)) is not None]
    added = [
        added_ms(one, call)
        for one in played
        for call in one.calls
        if call.answer and (everybody or reroute_ms(one, call) is not None)
    ]
    return {
        "requests": len(calls),
        "rounds": len(played),
        "lost": sum(1 for call in calls if not call.answer),
        "twice": sum(1 for call in calls if len(call.finals) > 1),
        "rerouted": len(reroutes),
        "reroute_ms": spread(reroutes),
        "added_ms": spread(added),
        "errors": sorted({call.error for call in calls if call.error})[:5],
        "notes": [one.notes for one in played if one.notes],
    }


def reroute_ms(one: Round, call: Call) -> float | None:
    """Milliseconds from the fault until somebody else was chosen; None when nobody had to be."""
    decisions = one.routes.get(call.task_id, [])
    for before, after in pairwise(decisions):
        if {before.winner, before.manager_id} & one.victims:
            cause = max(before.created_at.timestamp(), fault_at(one, call))
            return (after.created_at.timestamp() - cause) * 1000
    return None


def fault_at(one: Round, call: Call) -> float:
    return one.faults.get(call.task_id, one.fault)


def added_ms(one: Round, call: Call) -> float:
    """Milliseconds the caller waited longer than for a question that nothing happened to."""
    return (call.answered - max(call.sent, fault_at(one, call)) - one.usual) * 1000


def spread(values: Iterable[float]) -> Json:
    ordered = sorted(values)
    if not ordered:
        return {"median": None, "max": None}
    return {"median": round(statistics.median(ordered), 1), "max": round(ordered[-1], 1)}
