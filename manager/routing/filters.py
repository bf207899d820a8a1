"""Which candidates can be asked: a chain of small filters, the most final reason first. Pure.

A filter returns in words why a candidate cannot be asked, or an empty text. The first filter that objects decides. Only
`_failing` and `_paused_s` read the breakers and pauses of a model at a worker.
"""

from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import NamedTuple

from contracts import ModelCard
from contracts.heartbeat import ABILITY
from manager.routing.costs import expected_cost, limit_tokens
from manager.routing.estimates import Estimates
from manager.routing.forecast import DOUBT
from manager.routing.query import Choice, RoutingQuery
from manager.routing.scorers import memory_share

MEMORY_LIMIT = 0.95
"""Share of its memory limit above which a worker gets no requests, before the system kills it."""


class RejectReason(Enum):
    """Why a candidate cannot be asked; in a ranking, why no candidate can be asked."""

    NONE = "none"
    LATE = "late"
    """So many requests are waiting that no candidate would answer before the deadline."""
    FULL = "full"
    """The candidate fits but has no free place now: the request waits."""
    PAUSED = "paused"
    """The candidate fits but asked for a pause."""
    RESERVE = "reserve"
    """A candidate of a better grade can be asked."""
    STAND_IN = "stand_in"
    """The candidate is a stand-in, and another model is ready."""
    EXHAUSTED = "exhausted"
    """The candidate was tried already."""
    FAILING = "failing"
    """The candidate has failed so often that it gets no request for a while (its breaker is open)."""
    BUDGET = "budget"
    UNABLE = "unable"
    """The candidate serves the model that is asked for, but is not ready or cannot do what is asked."""
    INCAPABLE = "incapable"
    """The model that the caller named cannot do what is asked, at any worker, ready or not."""
    TOO_LONG = "too_long"
    """The prompt does not fit into the context window of any candidate."""
    NO_SUCH_MODEL = "no_such_model"
    NOBODY = "nobody"
    """There are no candidates."""


class Situation(NamedTuple):
    """What filters look at besides the candidate."""

    query: RoutingQuery
    estimates: Estimates
    now: float
    """The loop's clock, seconds."""


class Verdict(NamedTuple):
    """Whether a candidate can be asked; if not, `why` says the reason in words."""

    reason: RejectReason
    why: str = ""


CAN_BE_ASKED = FREE, FULL = RejectReason.NONE, RejectReason.FULL
"""Reasons with which a candidate can be asked: now, or as soon as it has a free place."""
ADMITTED = Verdict(RejectReason.NONE)


def verdict(at: Situation, choice: Choice) -> Verdict:
    """The objection of the first filter that has one; `ADMITTED` when none has."""
    for reason, objection in CHAIN:
        if why := objection(at, choice):
            return Verdict(reason, why)
    return ADMITTED


# How long a model at a worker is left alone


def _paused_s(at: Situation, choice: Choice) -> float:
    """Seconds left of the pause that the candidate asked for; 0 when it asked for none."""
    return max(0.0, choice.worker.pause_left(choice.card.model_id, at.now))


def rest_s(at: Situation, choice: Choice) -> float:
    """Seconds until the candidate can be asked again: its pause must end, or a used-up limit must fill up."""
    paused_s = _paused_s(at, choice)
    return max(paused_s, choice.worker.rested_at() - at.now) if _short_of(at, choice) else paused_s


def suits(query: RoutingQuery, card: ModelCard) -> bool:
    """Whether this model can do what is asked and is allowed to, regardless of its worker's state."""
    return query.needs.issubset(card.capabilities) and (card.local or query.request.policy != "local_only")


# The filters, in the order of the chain


def _another_backend(at: Situation, choice: Choice) -> str:
    asked = at.query.request.backend
    return "" if asked is None or asked == choice.worker.heartbeat.backend else "another backend was asked for"


def _another_model(at: Situation, choice: Choice) -> str:
    asked = at.query.request.model
    return "" if asked is None or choice.card.answers_to(asked) else "another model was asked for"


def _another_kind(at: Situation, choice: Choice) -> str:
    """Checks only a model that the caller named. Of unnamed models, one that serves this kind may still appear."""
    request, able = at.query.request, choice.card.capabilities
    return f"cannot {ABILITY[request.kind]}" if request.model and able and not choice.card.serves(request.kind) else ""


def _not_ready(_at: Situation, choice: Choice) -> str:
    return choice.worker.obstacle


def _not_local(at: Situation, choice: Choice) -> str:
    return "not local" if at.query.request.policy == "local_only" and not choice.card.local else ""


def _incapable(at: Situation, choice: Choice) -> str:
    missing = at.query.needs.difference(choice.card.capabilities)
    return f"cannot do {', '.join(sorted(missing))}" if missing else ""


def _prompt_too_long(at: Situation, choice: Choice) -> str:
    query, window = at.query, choice.card.context_window
    if max(query.read_at_once, query.at_least) <= window:
        return ""
    about = f"about {query.read_at_once}" if query.read_at_once > query.at_least else str(query.at_least)
    return f"{about} tokens do not fit into {window}"


def _beyond_its_limit(at: Situation, choice: Choice) -> str:
    rate = choice.worker.heartbeat.rate
    if rate is None or rate.tpm_limit is None:
        return ""
    needed = round(limit_tokens(at.query, choice.card, at.estimates))
    return f"may need {needed} tokens, of {rate.tpm_limit} a minute" if needed > rate.tpm_limit else ""


def _short_of_memory(_at: Situation, choice: Choice) -> str:
    return "near its memory limit" if memory_share(choice.worker.heartbeat) > MEMORY_LIMIT else ""


def _tried(at: Situation, choice: Choice) -> str:
    apart = at.query.excluded.has(choice.worker.worker_id, choice.card.model_id)
    return "tried already" if apart else ""


def _no_surer(at: Situation, choice: Choice) -> str:
    query, model = at.query, choice.card.model_id
    if not query.unsure:
        return ""
    if model in query.unsure:
        return f"{model} has answered, and was not sure enough"
    hoped = at.estimates.look(model).confidence.hoped(DOUBT)
    return f"hardly surer than {query.confidence:.2f}" if hoped <= query.confidence else ""


def _budget_spent(at: Situation, choice: Choice) -> str:
    return "its budget is spent" if choice.card.model_id in at.query.unaffordable else ""


def _too_dear(at: Situation, choice: Choice) -> str:
    ceiling = at.query.request.max_cost_usd
    if ceiling is None:
        return ""
    cost = expected_cost(at.query, choice.card, at.estimates)
    if cost is None:
        return "price unknown"
    return f"would cost about {cost:.6f} USD" if cost > Decimal(str(ceiling)) - at.query.spent else ""


def _stranger(at: Situation, choice: Choice) -> str:
    return "has never taken a request" if at.query.known_only and choice.worker.stranger else ""


def _failing(at: Situation, choice: Choice) -> str:
    return choice.worker.failing(choice.card.model_id, at.now, include_unclaimed=at.query.include_unclaimed)


def _resting(at: Situation, choice: Choice) -> str:
    if paused_s := _paused_s(at, choice):
        return f"asked to wait {paused_s:.1f} s"
    short = _short_of(at, choice)
    return short and f"its {short} per minute are used up"


def _short_of(at: Situation, choice: Choice) -> str:
    """Which of the worker's limits does not allow the request now: "requests" or "tokens"; empty when all allow it."""
    if choice.worker.heartbeat.rate is None:
        return ""
    return choice.worker.short_of(limit_tokens(at.query, choice.card, at.estimates))


def _full(at: Situation, choice: Choice) -> str:
    worker = choice.worker
    if worker.free and not (at.query.include_full and worker.said_full):
        return ""
    return f"full ({worker.load} of {worker.heartbeat.capacity})"


CHAIN: tuple[tuple[RejectReason, Callable[[Situation, Choice], str]], ...] = (
    (RejectReason.NO_SUCH_MODEL, _another_backend),
    (RejectReason.NO_SUCH_MODEL, _another_model),
    (RejectReason.NO_SUCH_MODEL, _another_kind),
    (RejectReason.UNABLE, _not_ready),
    (RejectReason.UNABLE, _not_local),
    (RejectReason.UNABLE, _incapable),
    (RejectReason.UNABLE, _prompt_too_long),
    (RejectReason.UNABLE, _beyond_its_limit),
    (RejectReason.UNABLE, _short_of_memory),
    (RejectReason.EXHAUSTED, _tried),
    (RejectReason.EXHAUSTED, _no_surer),
    (RejectReason.BUDGET, _budget_spent),
    (RejectReason.BUDGET, _too_dear),
    (RejectReason.FAILING, _stranger),
    (RejectReason.FAILING, _failing),
    (RejectReason.PAUSED, _resting),
    (RejectReason.FULL, _full),
)
