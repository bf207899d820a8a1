"""What the page shows of each worker and Manager. Pure: heartbeats and figures in, JSON out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from client.live import LiveFigures, ManagerFigures
from client.roster import Sighting
from contracts import JsonObject, ModelCard, RouteDecision

FOR_A_TENANT = ("id", "backend", "state", "models", "local")
"""The fields of a worker that say nothing about other tenants' requests."""
MOST_PASSED_OVER = 8
GradeOf = Mapping[tuple[str, str], JsonObject]
"""Grades by model and worker."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What the server reports about a worker's connection that ended."""

    reason: str
    connection: str


def worker_card(seen: Sighting, lost: Loss | None, silent: bool, grades: GradeOf) -> JsonObject:
    """A worker as the page shows it. `state` is the worker's own, or `lost`, or `silent`."""
    beat, resources = seen.beat, seen.beat.resources
    state: str = beat.state
    reason = beat.reason
    if lost is not None and lost.connection == beat.connection and beat.state != "stopped":
        state, reason = "lost", f"disconnected: {lost.reason}"
    elif silent:
        state, reason = "silent", "no heartbeat"
    return {
        "id": beat.worker_id,
        "backend": beat.backend,
        "state": state,
        "reason": reason,
        "models": [_model(card, grades.get((card.model_id, beat.worker_id))) for card in beat.models],
        "local": all(card.local for card in beat.models),
        "inflight": beat.inflight,
        "queued": beat.queued,
        "capacity": beat.capacity,
        "tokens_per_second": beat.tokens_per_second,
        "ewma_ms": beat.ewma_ms,
        "cpu_percent": round(resources.cpu_percent),
        "memory_used": resources.memory_used,
        "memory_limit": resources.memory_limit,
        "gpus": [gpu.model_dump() for gpu in resources.gpus],
        "host": beat.host,
        "version": beat.version,
        "started_at": beat.started_at,
    }


def _model(card: ModelCard, grade: JsonObject | None) -> JsonObject:
    price = card.price
    return {
        "id": card.model_id,
        "aliases": card.aliases,
        "context_window": card.context_window,
        "capabilities": card.capabilities,
        "input_per_mtok": None if price is None else float(price.input_per_mtok),
        "output_per_mtok": None if price is None else float(price.output_per_mtok),
        "local": card.local,
        "stand_in": card.stand_in,
        "trouble": card.trouble,
        "grade": grade and grade["grade"],
        "by_hand": bool(grade and grade["by_hand"]),
    }


def for_a_tenant(card: JsonObject) -> JsonObject:
    return {name: card[name] for name in FOR_A_TENANT}


def managers(live: LiveFigures) -> list[JsonObject]:
    return [_manager(one) for one in live.managers]


def _manager(one: ManagerFigures) -> JsonObject:
    told = one.metrics
    names = ("inflight", "waiting", "answered", "failed", "rerouted", "outbox_pending", "outbox_refusal")
    jobs = {"jobs_running": told.jobs_running, "jobs_waiting": told.jobs_waiting}
    own = {name: getattr(told, name) for name in names}
    return {
        "id": told.source,
        "per_second": round(one.per_second, 2),
        "loop_lag_ms": round(told.loop_lag_ms),
        **own,
        **jobs,
    }


def totals(live: LiveFigures, cards: Iterable[JsonObject]) -> JsonObject:
    """Totals over all Managers and workers."""
    told, workers = managers(live), list(cards)
    sums = {
        name: sum(one[name] for one in told)
        for name in ("per_second", "inflight", "waiting", "answered", "failed", "rerouted")
    }
    return {
        **sums,
        "per_second": round(sums["per_second"], 2),
        "workers": len(workers),
        "ready": sum(card["state"] in ("ready", "degraded") for card in workers),
        "capacity": sum(card["capacity"] for card in workers if card["state"] in ("ready", "degraded")),
    }


def accountants(live: LiveFigures) -> list[JsonObject]:
    return [
        {
            "id": one.source,
            "stored": one.stored,
            "per_second": round(one.per_second, 2),
            "dead": one.dead,
            "waiting": one.waiting,
            "database_away": one.database_away,
        }
        for one in live.accountants
    ]


def route(decision: RouteDecision) -> JsonObject:
    """One routing decision: its request, the winner, and why the other candidates lost."""
    passed = {
        (one.worker_id, one.passed_over): {"worker": one.worker_id, "why": one.passed_over}
        for one in decision.candidates
        if one.passed_over and one.worker_id != decision.winner
    }
    return {
        "request_id": decision.request_id,
        "attempt": decision.attempt,
        "why": decision.why,
        "policy": decision.policy,
        "winner": decision.winner,
        "model": decision.model_id,
        "passed_over": list(passed.values())[:MOST_PASSED_OVER],
        "manager": decision.manager_id,
        "at": decision.created_at,
    }
