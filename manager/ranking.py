"""Who should answer: the four terms, their weights, the winner. Pure, and it reads like the formula.

    score = w_cost·cost + w_confidence·confidence + w_load·load + w_resources·resources

Every term lies between 0 (best) and 1 (worst); lower is better. Everybody considered is in the
decision, with terms or with the reason for being passed over, so that "why did this go to the
expensive one?" has an answer.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from contracts import Candidate, Capability, Heartbeat, InferenceRequest, ModelCard, Terms
from manager.estimates import Estimates, prompt_tokens
from manager.registry import Member

CHEAP_USD = Decimal("0.001")
"""An answer of this price has a cost term of one half."""
QUICK_S = 1.0
"""An expected wait of so many seconds has a load term of one half."""
UNKNOWN_COST = 1.0
"""An unknown price may be any price."""
MEMORY_LIMIT = 0.95
"""A worker that uses more of its memory than this is passed over before it is killed."""
NEAR = 0.02
"""Scores closer than this are equal: then the less loaded of two random ones wins (power of two choices)."""


class Obstacle(Enum):
    """Why nobody can be asked."""

    NONE = "none"
    FULL = "full"
    """Somebody fits but has no free place now: wait."""
    PAUSED = "paused"
    """Somebody fits but asked to be left alone for a while."""
    EXHAUSTED = "exhausted"
    """Everybody who fits has been tried."""
    FAILING = "failing"
    """Who fits has failed so often that it is left alone for a while (its breaker is open)."""
    BUDGET = "budget"
    UNABLE = "unable"
    """Somebody serves this, but is not ready or cannot do what is asked."""
    NO_SUCH_MODEL = "no_such_model"
    NOBODY = "nobody"


PRECEDENCE = (Obstacle.FULL, Obstacle.PAUSED, Obstacle.EXHAUSTED, Obstacle.FAILING, Obstacle.BUDGET, Obstacle.UNABLE)
"""Of several reasons the most hopeful one is told."""


@dataclass(frozen=True, slots=True)
class Choice:
    member: Member
    card: ModelCard


@dataclass(frozen=True, slots=True)
class Ranking:
    """The outcome: a winner, or the obstacle."""

    winner: Choice | None
    obstacle: Obstacle
    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What ranking needs to know of a request."""

    request: InferenceRequest
    tokens_in: int
    needs: frozenset[Capability]
    excluded: frozenset[str] = frozenset()
    """Workers that were tried already."""
    spent: Decimal = Decimal(0)
    """US dollars, what those who were tried have probably cost."""
    unaffordable: frozenset[str] = frozenset()
    """Models for which a budget has not enough left."""

    @classmethod
    def of(cls, request: InferenceRequest, excluded: Iterable[str] = ()) -> "Question":
        return cls(request, prompt_tokens(request), request.needs, frozenset(excluded))


def rank(
    question: Question,
    members: Iterable[Member],
    estimates: Estimates,
    weights: Terms,
    *,
    now: float,
    rng: random.Random,
) -> Ranking:
    """The best worker for `question` among `members`, and how everybody was judged."""
    choices = [Choice(member, card) for member in members for card in member.heartbeat.models or (_NO_MODEL,)]
    pace = _pace(choices, estimates)
    judged = [_judge(question, choice, estimates, weights, pace=pace, now=now) for choice in choices]
    candidates = tuple(candidate for _, candidate, _ in judged)
    able = [(choice, candidate) for choice, candidate, obstacle in judged if obstacle is Obstacle.NONE]
    if able:
        return Ranking(_pick(able, rng), Obstacle.NONE, candidates)
    found = {obstacle for _, _, obstacle in judged}
    obstacle = next((o for o in PRECEDENCE if o in found), None)
    if obstacle is None:
        asked = question.request.model or question.request.backend
        obstacle = Obstacle.NO_SUCH_MODEL if judged and asked else Obstacle.NOBODY
    reasons = tuple(
        f"{candidate.worker_id}: {candidate.passed_over}"
        for _, candidate, o in judged
        if o is obstacle and candidate.passed_over
    )
    return Ranking(None, obstacle, candidates, reasons)


def terms_of(question: Question, choice: Choice, estimates: Estimates, service_ms: float) -> Terms:
    """The four terms of one candidate; `service_ms` is what one request takes there, as far as is known."""
    return Terms(
        cost=_cost_term(expected_cost(question, choice.card, estimates)),
        confidence=1.0 - estimates.of(choice.card.model_id).quality,
        load=_load_term(choice.member, service_ms),
        resources=_resources_term(choice.member.heartbeat),
    )


def expected_cost(question: Question, card: ModelCard, estimates: Estimates) -> Decimal | None:
    """US dollars, from the prompt's size and what this model's answers usually have; None: price unknown."""
    if card.price is None:
        return None
    tokens_out = estimates.of(card.model_id).output_tokens
    if question.request.max_tokens is not None:
        tokens_out = min(tokens_out, question.request.max_tokens)
    return card.price.cost(question.tokens_in, tokens_out)


def likely_cost(question: Question, card: ModelCard, estimates: Estimates) -> Decimal | None:
    """As `expected_cost`, but with as many tokens as the caller allows: what is to be set aside for it."""
    most = question.request.max_tokens
    if card.price is None or most is None:
        return expected_cost(question, card, estimates)
    return card.price.cost(question.tokens_in, most)


def score(terms: Terms, weights: Terms) -> float:
    return (
        weights.cost * terms.cost
        + weights.confidence * terms.confidence
        + weights.load * terms.load
        + weights.resources * terms.resources
    )


def _pace(choices: Iterable[Choice], estimates: Estimates) -> dict[str, float]:
    """By model, the milliseconds to expect of a worker that has not answered yet: those of its quickest peer.

    Hope is what lets a new worker show what it can do.
    """
    pace: dict[str, float] = {}
    for choice in choices:
        model, known = choice.card.model_id, choice.member.heartbeat.ewma_ms
        if known is not None:
            pace[model] = min(known, pace.get(model, known))
    for choice in choices:
        model = choice.card.model_id
        pace.setdefault(model, estimates.of(model).mean_ms or QUICK_S * 1000)
    return pace


def _judge(
    question: Question, choice: Choice, estimates: Estimates, weights: Terms, *, pace: dict[str, float], now: float
) -> tuple[Choice, Candidate, Obstacle]:
    obstacle, why = _obstacle(question, choice, estimates, now)
    service_ms = choice.member.heartbeat.ewma_ms or pace[choice.card.model_id]
    terms = terms_of(question, choice, estimates, service_ms) if obstacle is Obstacle.NONE else None
    candidate = Candidate(
        worker_id=choice.member.worker_id,
        backend=choice.member.heartbeat.backend,
        model_id=choice.card.model_id,
        terms=terms,
        score=score(terms, weights) if terms else None,
        passed_over=why or None,
    )
    return choice, candidate, obstacle


def _obstacle(question: Question, choice: Choice, estimates: Estimates, now: float) -> tuple[Obstacle, str]:
    """What speaks against this candidate, the most final reason first."""
    checks = (_not_meant(question, choice), _unable(question, choice), _not_now(question, choice, estimates, now))
    return next((found for found in checks if found is not None), (Obstacle.NONE, ""))


def _not_meant(question: Question, choice: Choice) -> tuple[Obstacle, str] | None:
    request = question.request
    if request.backend is not None and request.backend != choice.member.heartbeat.backend:
        return Obstacle.NO_SUCH_MODEL, "another backend was asked for"
    if request.model is not None and not choice.card.answers_to(request.model):
        return Obstacle.NO_SUCH_MODEL, "another model was asked for"
    return None


def _unable(question: Question, choice: Choice) -> tuple[Obstacle, str] | None:
    request, card = question.request, choice.card
    if obstacle := choice.member.obstacle:
        return Obstacle.UNABLE, obstacle
    if request.policy == "local_only" and not card.local:
        return Obstacle.UNABLE, "not local"
    if missing := question.needs.difference(card.capabilities):
        return Obstacle.UNABLE, f"cannot do {', '.join(sorted(missing))}"
    if question.tokens_in > card.context_window:
        return Obstacle.UNABLE, f"about {question.tokens_in} tokens do not fit into {card.context_window}"
    if _memory_share(choice.member.heartbeat) > MEMORY_LIMIT:
        return Obstacle.UNABLE, "near its memory limit"
    return None


def _not_now(question: Question, choice: Choice, estimates: Estimates, now: float) -> tuple[Obstacle, str] | None:
    member = choice.member
    if member.worker_id in question.excluded:
        return Obstacle.EXHAUSTED, "tried already"
    if dear := _too_dear(question, choice.card, estimates):
        return Obstacle.BUDGET, dear
    if not member.breaker.admits(now):
        rest = member.breaker.rest(now)
        return Obstacle.FAILING, f"failing ({member.breaker.why}), tried again in {rest:.1f} s"
    if member.paused_until > now:
        return Obstacle.PAUSED, f"asked to wait {member.paused_until - now:.1f} s"
    if not member.free:
        return Obstacle.FULL, f"full ({member.load} of {member.heartbeat.capacity})"
    return None


def _too_dear(question: Question, card: ModelCard, estimates: Estimates) -> str:
    """Why it costs too much; empty when it does not."""
    if card.model_id in question.unaffordable:
        return "its budget is spent"
    if question.request.max_cost_usd is None:
        return ""
    cost = expected_cost(question, card, estimates)
    if cost is None:
        return "price unknown"
    left = Decimal(str(question.request.max_cost_usd)) - question.spent
    return f"would cost about {cost:.6f} USD" if cost > left else ""


def _pick(able: list[tuple[Choice, Candidate]], rng: random.Random) -> Choice:
    best = min(_score(candidate) for _, candidate in able)
    near = [choice for choice, candidate in able if _score(candidate) <= best + NEAR]
    if len(near) == 1:
        return near[0]
    one, other = rng.sample(near, 2)
    return min(one, other, key=lambda choice: choice.member.load / choice.member.heartbeat.capacity)


def _score(candidate: Candidate) -> float:
    return float("inf") if candidate.score is None else candidate.score


def _cost_term(usd: Decimal | None) -> float:
    return UNKNOWN_COST if usd is None else float(usd / (usd + CHEAP_USD))


def _load_term(member: Member, service_ms: float) -> float:
    """From the expected seconds until an answer: one service time, stretched by how full the worker is."""
    expected = service_ms / 1000 * (1 + member.load / member.heartbeat.capacity)
    return expected / (expected + QUICK_S)


def _resources_term(beat: Heartbeat) -> float:
    """The scarcer of memory, GPU memory and processor."""
    resources = beat.resources
    cores = resources.cpu_limit or 1.0
    gpus = [gpu.memory_used / gpu.memory_total for gpu in resources.gpus if gpu.memory_total]
    return min(1.0, max(_memory_share(beat), resources.cpu_percent / 100 / cores, *gpus, 0.0))


def _memory_share(beat: Heartbeat) -> float:
    resources = beat.resources
    return resources.memory_used / resources.memory_limit if resources.memory_limit else 0.0


_NO_MODEL = ModelCard(model_id="", context_window=0, capabilities=(), local=True)
"""Stands for a worker that has not said yet what it serves."""
