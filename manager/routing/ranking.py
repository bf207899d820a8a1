"""Who should answer: the four terms, their weights, the winner. Pure, and it reads like the formula.

    score = w_cost·cost + w_confidence·confidence + w_load·load + w_resources·resources

Every term is 0 at best; lower is better, and the lowest score wins. Cost, confidence and resources end at 1. So does
load, the seconds until the answer; but who would be late is worse than anybody who would not, whatever he costs.
Somebody who is full is judged too, with the wait for a place: sometimes it is better to wait for a quick worker than
to have a slow one now. Everybody considered is in the decision, with terms or with the reason for being passed over,
so that "why did this go to the expensive one?" has an answer, and anybody can work it out again.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from functools import cached_property
from math import inf
from typing import NamedTuple

from contracts import Candidate, Capability, Grade, Heartbeat, InferenceRequest, ModelCard, Terms
from contracts.tokens import prompt_tokens
from manager.routing.estimates import Estimates, ModelRecord, crowded
from manager.routing.grades import PROBATION_SHARE, Grades
from manager.routing.prefix_cache import Opening, openings
from manager.routing.registry import WorkerView

CHEAP_USD = 0.001
"""An accepted answer of this price has a cost term of one half."""
QUICK_S = 1.0
"""An answer expected in so many seconds has a load term of one half."""
UNKNOWN_COST = 1.0
"""An unknown price may be any price."""
LATE = 25.0
"""What coming after the deadline adds to the load term: no price makes up for it."""
IN_TIME, TOO_LATE = 0.6, 1.6
"""Shares of the time left: what is expected within the first is not feared to be late, after the second it is."""
IN_VAIN = LATE * (1.0 - IN_TIME) / (TOO_LATE - IN_TIME)
"""The load term of who is expected to answer when the time is over."""
UNSURE = 1.5
"""A place that is not free yet may come later than it seems."""
FADES = 30.0
"""Seconds after which a slow or failing worker that was not asked is half forgiven: it may be well again."""
HOPE = 2.0
"""So many standard deviations a model may be better than its record: who is new is tried, until it is known better."""
DOUBT = 2.0
"""The same of how reliable a worker is: before it is shunned there is to be no doubt, and the books know it too."""
WELL_KNOWN = 40
"""Answers after which a model that is not senior is left out of `best`: its grade says enough."""
DIGITS = 2
"""Scores are told and compared to so many: what differs by less is equal, and equals share the work."""
MEMORY_LIMIT = 0.95
"""A worker that uses more of its memory than this is passed over before it is killed."""


class RejectReason(Enum):
    """Why nobody can be asked."""

    NONE = "none"
    LATE = "late"
    """So many wait already that nobody would answer before the deadline."""
    FULL = "full"
    """Somebody fits but has no free place now: wait."""
    PAUSED = "paused"
    """Somebody fits but asked to be left alone for a while."""
    RESERVE = "reserve"
    """Somebody of a better grade can be asked."""
    EXHAUSTED = "exhausted"
    """Everybody who fits has been tried."""
    FAILING = "failing"
    """Who fits has failed so often that it is left alone for a while (its breaker is open)."""
    BUDGET = "budget"
    UNABLE = "unable"
    """Somebody serves this, but is not ready or cannot do what is asked."""
    TOO_LONG = "too_long"
    """The prompt fits into nobody's context window."""
    NO_SUCH_MODEL = "no_such_model"
    NOBODY = "nobody"


PRECEDENCE = (
    RejectReason.FULL,
    RejectReason.PAUSED,
    RejectReason.EXHAUSTED,
    RejectReason.FAILING,
    RejectReason.BUDGET,
    RejectReason.UNABLE,
)
"""Of several reasons the most hopeful one is told."""


EVERYBODY_IS_REGULAR = Grades()


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    worker: WorkerView
    card: ModelCard


class ScoredCandidate(NamedTuple):
    """One candidate: four terms and a score, or an obstacle. One that is full has both."""

    choice: Choice
    reason: RejectReason
    why: str
    terms: tuple[float, float, float, float] | None
    score: float

    def told(self) -> Candidate:
        """As `metrics.route` has it."""
        return Candidate(
            worker_id=self.choice.worker.worker_id,
            backend=self.choice.worker.heartbeat.backend,
            model_id=self.choice.card.model_id,
            terms=Terms(**dict(zip(Terms.model_fields, self.terms, strict=True))) if self.terms else None,
            score=self.score if self.terms else None,
            passed_over=self.why or None,
        )


@dataclass(frozen=True)
class Ranking:
    """The outcome: a winner, or the obstacle."""

    winner: Choice | None
    reason: RejectReason
    judged: Sequence[ScoredCandidate] = ()
    reasons: tuple[str, ...] = ()
    wait_s: float = 0.0
    """How long those who wait already will have to wait."""

    @property
    def in_time(self) -> bool:
        """Whether the winner is expected to answer before the deadline."""
        won = next((j for j in self.judged if j.choice is self.winner), None)
        return won is not None and won.terms is not None and won.terms[2] < IN_VAIN

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(judged.told() for judged in self.judged)


@dataclass(frozen=True, slots=True)
class Excluded:
    """What is not asked: whole workers, and single models at a worker."""

    workers: frozenset[str] = frozenset()
    """By id."""
    models: frozenset[tuple[str, str]] = frozenset()
    """By the worker's id and the model's."""

    def has(self, worker_id: str, model_id: str) -> bool:
        return worker_id in self.workers or (worker_id, model_id) in self.models


NONE_EXCLUDED = Excluded()


@dataclass(frozen=True, slots=True)
class RoutingQuery:
    """What ranking needs to know of a request."""

    request: InferenceRequest
    tokens_in: int
    needs: frozenset[Capability]
    excluded: Excluded = NONE_EXCLUDED
    """The workers, and the models at a worker, that have had their chance."""
    left_s: float = inf
    """Seconds until its deadline."""
    waiting: int = 0
    """Requests that wait for a place before it."""
    has_queued: bool = False
    """It has waited already."""
    spent: Decimal = Decimal(0)
    """US dollars, what those who were tried have probably cost."""
    unaffordable: frozenset[str] = frozenset()
    """Models for which a budget has not enough left."""
    openings: tuple[Opening, ...] = ()
    """The conversation, by which workers that know it are known."""
    cached: Mapping[str, float] = field(default_factory=dict)
    """By worker, tokens of it that it has probably still in its cache."""
    at_least: int = 0
    """Tokens of the prompt, as a worker told for whose model they were too many."""
    include_full: bool = False
    """No other worker is left: one that had no place before is waited for."""
    include_unclaimed: bool = False
    """Nor such a one: a worker that was only slow to claim, or only refuses, is better than an error."""
    unsure: frozenset[str] = frozenset()
    """Models that have answered it, and were not sure enough."""
    confidence: float = 0.0
    """Of the surest of those answers."""

    @classmethod
    def of(cls, request: InferenceRequest, excluded: Iterable[str] = ()) -> "RoutingQuery":
        """`excluded`: workers, by id."""
        apart = Excluded(workers=frozenset(excluded))
        return cls(request, prompt_tokens(request), request.needs, apart, openings=openings(request))


def rank(
    question: RoutingQuery,
    workers: Iterable[WorkerView],
    estimates: Estimates,
    weights: Terms,
    *,
    now: float,
    rng: random.Random,
    grades: Grades = EVERYBODY_IS_REGULAR,
) -> Ranking:
    """The best worker for `question` among `workers`, and how everybody was judged."""
    choices = [Choice(worker, card) for worker in workers for card in worker.heartbeat.models or (_NO_MODEL,)]
    rng.shuffle(choices)  # of equals the first wins
    judge = Scorer(question, choices, estimates, weights, now)
    judged = _graded(question, judge.all(), estimates, grades, now=now, rng=rng)
    best = min((j for j in judged if j.reason is RejectReason.NONE), key=_score, default=None)
    later = min((j for j in judged if j.reason is RejectReason.FULL), key=_score, default=None)
    if later is not None:
        hope = min(later.score, best.score if best else inf)
        in_vain = judge.line_s >= question.left_s or question.has_queued
        if in_vain and hope >= weights.load * LATE > 0:
            return Ranking(None, RejectReason.LATE, judged, _reasons(judged, RejectReason.FULL), judge.line_s)
        if best is None or later.score < best.score:
            return Ranking(None, RejectReason.FULL, judged, _reasons(judged, RejectReason.FULL), judge.line_s)
    if best is not None:
        return Ranking(best.choice, RejectReason.NONE, judged)
    return _nobody(question, judged)


def _graded(
    question: RoutingQuery,
    judged: list[ScoredCandidate],
    estimates: Estimates,
    grades: Grades,
    *,
    now: float,
    rng: random.Random,
) -> list[ScoredCandidate]:
    """Passes over those whose grade gives them no part in this decision, as long as somebody else can be asked."""
    free = {j.choice: _grade(j.choice, grades) for j in judged if _is_free(j)}
    if len(set(free.values())) <= 1:
        return judged
    benched = (choice for choice, grade in free.items() if grade == "benched")
    canary = next((c for c in benched if grades.is_canary(c.card.model_id, c.worker.worker_id, now, rng)), None)
    if canary is not None:
        kept, why = {canary}, f"it is the turn of {canary.worker.worker_id}, which is benched, to be tried"
    elif question.request.policy == "best" and "senior" in free.values():
        kept, why = _answer_best(free, estimates, rng), "not senior"
    else:
        kept, why = {choice for choice, grade in free.items() if grades.may_compete(grade, rng)}, ""
    if not kept:
        return judged
    return [
        j._replace(reason=RejectReason.RESERVE, why=why or f"{free[j.choice]}: not its turn")
        if _is_free(j) and j.choice not in kept
        else j
        for j in judged
    ]


def _grade(choice: Choice, grades: Grades) -> Grade:
    return grades.of(choice.card.model_id, choice.worker.worker_id, choice.worker.serves_since)


def _answer_best(free: Mapping[Choice, Grade], estimates: Estimates, rng: random.Random) -> set[Choice]:
    """Seniors; and now and then a model that is hardly known, or nobody would ever learn that it is the better one."""
    seniors = {choice for choice, grade in free.items() if grade == "senior"}
    known = {choice.card.model_id for choice in seniors}
    others = (choice for choice, grade in free.items() if grade != "benched" and choice.card.model_id not in known)
    unknown = {choice for choice in others if estimates.of(choice.card.model_id).answered < WELL_KNOWN}
    return seniors | {choice for choice in unknown if rng.random() < PROBATION_SHARE}


def _is_free(judged: ScoredCandidate) -> bool:
    return judged.reason is RejectReason.NONE


def score(terms: Terms, weights: Terms) -> float:
    """Lower is better; of equals any may win."""
    total = (
        weights.cost * terms.cost
        + weights.confidence * terms.confidence
        + weights.load * terms.load
        + weights.resources * terms.resources
    )
    return round(total, DIGITS)


def expected_cost(question: RoutingQuery, card: ModelCard, estimates: Estimates, cached: float = 0.0) -> Decimal | None:
    """US dollars, from the prompt's size and what this model's answers to such a prompt have; None: price unknown.

    `cached`: tokens that the worker need not read again.
    """
    if card.price is None:
        return None
    return card.price.cost(question.tokens_in, _tokens_out(question, estimates.of(card.model_id)), cached)


def likely_cost(question: RoutingQuery, card: ModelCard, estimates: Estimates) -> Decimal | None:
    """As `expected_cost`, but with as many tokens as the caller allows: what is to be set aside for it."""
    most = question.request.max_tokens
    if card.price is None or most is None:
        return expected_cost(question, card, estimates)
    return card.price.cost(question.tokens_in, most)


def limit_tokens(question: RoutingQuery, card: ModelCard, estimates: Estimates) -> float:
    """What a request may use of a limit of tokens per minute: the prompt, and as long an answer as it may get."""
    most = question.request.max_tokens
    return question.tokens_in + (_tokens_out(question, estimates.of(card.model_id)) if most is None else most)


@dataclass
class Scorer:
    """Judges all candidates for one question."""

    question: RoutingQuery
    choices: Sequence[Choice]
    estimates: Estimates
    weights: Terms
    now: float
    hoped: dict[str, float] = field(default_factory=dict)
    """By model, the seconds to expect of a worker that never answered: those of its quickest peer.

    Hope is what lets a new worker show what it can do.
    """
    quickest: float = inf
    """The same of the quickest of all: hope for a model that nobody has answered with."""
    told: dict[str, float] = field(default_factory=dict)
    """The same by what workers say of themselves."""
    seen: dict[Choice, float | None] = field(default_factory=dict)
    """By candidate, the seconds as we have seen them; None: it has never answered us."""
    confidence: dict[str, float] = field(default_factory=dict)
    """By model, how sure of its answers it is hoped to be."""
    line_s: float = 0.0
    """Seconds until those who wait already have found places."""

    def all(self) -> list[ScoredCandidate]:
        for choice in self.choices:
            model = choice.card.model_id
            seconds = self.seen[choice] = self._seen_s(choice)
            if seconds is not None:
                self.hoped[model] = min(seconds, self.hoped.get(model, inf))
                self.quickest = min(seconds, self.quickest)
            elif (told := _told_s(choice.worker.heartbeat)) is not None:
                self.told[model] = min(told, self.told.get(model, inf))
            if model not in self.confidence:
                self.confidence[model] = self.estimates.of(model).confidence.hoped(HOPE)
        if self.question.waiting:
            self.line_s = self._line_s()
        return [self._judge(choice) for choice in self.choices]

    def _judge(self, choice: Choice) -> ScoredCandidate:
        obstacle, why = self._obstacle(choice)
        if obstacle is not RejectReason.NONE and obstacle is not RejectReason.FULL:
            return ScoredCandidate(choice, obstacle, why, None, inf)
        terms = self._terms(choice)
        weights = self.weights
        total = (
            weights.cost * terms[0]
            + weights.confidence * terms[1]
            + weights.load * terms[2]
            + weights.resources * terms[3]
        )
        return ScoredCandidate(choice, obstacle, why, terms, round(total, DIGITS))

    def _terms(self, choice: Choice) -> tuple[float, float, float, float]:
        """The four terms: cost, confidence, load, resources."""
        worker, card = choice.worker, choice.card
        record = self.estimates.at(worker.worker_id, card.model_id)
        success = record.success.hoped(DOUBT, self._kept_since(record.at))
        good = success * self.confidence[card.model_id]
        usd = expected_cost(self.question, card, self.estimates, self._kept(choice))
        return (
            _cost_term(None if usd is None else float(usd) / good),
            1.0 - good,
            self._load_term(choice, success),
            _resources_term(worker.heartbeat),
        )

    # Time

    def _load_term(self, choice: Choice, success: float) -> float:
        """From the expected seconds until an answer, another try included; and whether that is too late."""
        worker = choice.worker
        capacity, load = worker.heartbeat.capacity, worker.load
        service_s = self._service_s(choice)
        busy_s = service_s * crowded(1.0)
        wait_s = 0.0 if load < capacity else self.line_s + busy_s * (load - capacity + 1) / capacity
        expected = UNSURE * wait_s + service_s * crowded(load / capacity) / success
        share = expected / max(self.question.left_s, 0.001)
        late = min(1.0, max(0.0, (share - IN_TIME) / (TOO_LATE - IN_TIME)))
        return expected / (expected + QUICK_S) + LATE * late

    def _service_s(self, choice: Choice) -> float:
        """Seconds that this request takes there, once it is begun."""
        seconds = self._service_anew_s(choice)
        if not (kept := self._kept(choice)):
            return seconds
        reading = self.estimates.at(choice.worker.worker_id, choice.card.model_id).first
        return max(0.0, seconds - kept * reading.value) if reading.weight else seconds

    def _kept(self, choice: Choice) -> float:
        """Tokens of the conversation that this worker need not read again."""
        cached = self.question.cached.get(choice.worker.worker_id)
        if not cached:
            return 0.0
        return cached * self.estimates.at(choice.worker.worker_id, choice.card.model_id).kept.mean

    def _service_anew_s(self, choice: Choice) -> float:
        """The same for somebody who has never seen this conversation."""
        model, worker = choice.card.model_id, choice.worker
        hoped, seen = self.hoped.get(model), self.seen[choice]
        if hoped is None:  # nobody with this model has answered us: each is as quick as it says
            told = _told_s(worker.heartbeat)
            unknown = QUICK_S if self.quickest == inf else self.quickest
            return self.told.get(model, unknown) if told is None else told
        if seen is None:
            return hoped
        return hoped + (seen - hoped) * self._kept_since(self.estimates.at(worker.worker_id, model).at)

    def _kept_since(self, at: float) -> float:
        """What an experience of that time still counts."""
        return float(0.5 ** (max(0.0, self.now - at) / FADES))

    def _seen_s(self, choice: Choice) -> float | None:
        model = choice.card.model_id
        tokens_out = _tokens_out(self.question, self.estimates.of(model))
        return self.estimates.at(choice.worker.worker_id, model).seconds(self.question.tokens_in, tokens_out)

    def _line_s(self) -> float:
        """Those who wait are waiting for all the full workers together."""
        full = [c for c in self.choices if c.worker.load >= c.worker.heartbeat.capacity and not c.worker.obstacle]
        rate = sum(choice.worker.heartbeat.capacity / self._service_s(choice) for choice in full) / crowded(1.0)
        return self.question.waiting / rate if rate else 0.0

    # Obstacles

    def _obstacle(self, choice: Choice) -> tuple[RejectReason, str]:
        """What speaks against this candidate, the most final reason first."""
        return self._not_meant(choice) or self._unable(choice) or self._not_now(choice) or _FINE

    def _not_meant(self, choice: Choice) -> tuple[RejectReason, str] | None:
        request = self.question.request
        if request.backend is not None and request.backend != choice.worker.heartbeat.backend:
            return RejectReason.NO_SUCH_MODEL, "another backend was asked for"
        if request.model is not None and not choice.card.answers_to(request.model):
            return RejectReason.NO_SUCH_MODEL, "another model was asked for"
        return None

    def _unable(self, choice: Choice) -> tuple[RejectReason, str] | None:
        question, card = self.question, choice.card
        if obstacle := choice.worker.obstacle:
            return RejectReason.UNABLE, obstacle
        if question.request.policy == "local_only" and not card.local:
            return RejectReason.UNABLE, "not local"
        if missing := question.needs.difference(card.capabilities):
            return RejectReason.UNABLE, f"cannot do {', '.join(sorted(missing))}"
        if too_long := self._too_long(choice):
            return RejectReason.UNABLE, too_long
        if _memory_share(choice.worker.heartbeat) > MEMORY_LIMIT:
            return RejectReason.UNABLE, "near its memory limit"
        return None

    def _not_now(self, choice: Choice) -> tuple[RejectReason, str] | None:
        question, worker, now = self.question, choice.worker, self.now
        if tried := self._tried(choice):
            return RejectReason.EXHAUSTED, tried
        if dear := _too_dear(question, choice.card, self.estimates):
            return RejectReason.BUDGET, dear
        if failing := worker.failing(choice.card.model_id, now, include_unclaimed=question.include_unclaimed):
            return RejectReason.FAILING, failing
        if resting := self._resting(choice):
            return RejectReason.PAUSED, resting
        if not worker.free or (question.include_full and worker.said_full):
            return RejectReason.FULL, f"full ({worker.load} of {worker.heartbeat.capacity})"
        return None

    def _tried(self, choice: Choice) -> str:
        """Why it, or its model, has had its chance; empty: it may still help."""
        question, model = self.question, choice.card.model_id
        if question.excluded.has(choice.worker.worker_id, model):
            return "tried already"
        if not question.unsure:
            return ""
        if model in question.unsure:
            return f"{model} has answered, and was not sure enough"
        hoped = self.estimates.of(model).confidence.hoped(DOUBT)
        return f"hardly surer than {question.confidence:.2f}" if hoped <= question.confidence else ""

    def _resting(self, choice: Choice) -> str:
        """Why it is to be left alone for a while; empty: it is not."""
        worker = choice.worker
        if (pause := worker.pause_left(choice.card.model_id, self.now)) > 0:
            return f"asked to wait {pause:.1f} s"
        if worker.heartbeat.rate is None:
            return ""
        short = worker.short_of(limit_tokens(self.question, choice.card, self.estimates))
        return short and f"its {short} per minute are used up"

    def _too_long(self, choice: Choice) -> str:
        """Why the question is too long for it; empty: it is not."""
        question, card, rate = self.question, choice.card, choice.worker.heartbeat.rate
        if max(question.tokens_in, question.at_least) > card.context_window:
            about = f"about {question.tokens_in}" if question.tokens_in > question.at_least else str(question.at_least)
            return f"{about} tokens do not fit into {card.context_window}"
        if rate is None or rate.tpm_limit is None:
            return ""
        needed = round(limit_tokens(question, card, self.estimates))
        return f"may need {needed} tokens, of {rate.tpm_limit} a minute" if needed > rate.tpm_limit else ""


def _too_dear(question: RoutingQuery, card: ModelCard, estimates: Estimates) -> str:
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


def _nobody(question: RoutingQuery, judged: Sequence[ScoredCandidate]) -> Ranking:
    """Nobody can be asked: why."""
    found = {one.reason for one in judged}
    obstacle = next((o for o in PRECEDENCE if o in found), None)
    if obstacle is RejectReason.UNABLE and _fits_nowhere(question, judged):
        return Ranking(None, RejectReason.TOO_LONG, judged, _reasons(judged, obstacle))
    if obstacle is None:
        asked = question.request.model or question.request.backend
        obstacle = RejectReason.NO_SUCH_MODEL if judged and asked else RejectReason.NOBODY
    return Ranking(None, obstacle, judged, _reasons(judged, obstacle))


def _fits_nowhere(question: RoutingQuery, judged: Sequence[ScoredCandidate]) -> bool:
    """Whether the prompt is too long for everybody who serves what is asked for, whether he can be asked now or not."""
    meant = [one.choice.card for one in judged if one.reason is not RejectReason.NO_SUCH_MODEL]
    return all(card is not _NO_MODEL and question.tokens_in > card.context_window for card in meant)


def _reasons(judged: Sequence[ScoredCandidate], reason: RejectReason) -> tuple[str, ...]:
    return tuple(f"{one.choice.worker.worker_id}: {one.why}" for one in judged if one.reason is reason and one.why)


def _told_s(beat: Heartbeat) -> float | None:
    """What a worker says of how long it takes, as if it had nothing else to do; None: it has not answered yet."""
    return None if beat.ewma_ms is None else beat.ewma_ms / 1000 / crowded(beat.inflight / max(1, beat.capacity))


def _tokens_out(question: RoutingQuery, record: ModelRecord) -> float:
    """How long this model's answer will be."""
    tokens = record.output_tokens(question.tokens_in)
    most = question.request.max_tokens
    return tokens if most is None else min(tokens, most)


def _score(judged: ScoredCandidate) -> float:
    return judged.score


def _cost_term(usd: float | None) -> float:
    """`usd`: what an answer costs that is worth having, those that are not included."""
    return UNKNOWN_COST if usd is None else usd / (usd + CHEAP_USD)


def _resources_term(beat: Heartbeat) -> float:
    """The scarcer of memory, GPU memory and processor."""
    resources = beat.resources
    cores = resources.cpu_limit or 1.0
    gpus = [gpu.memory_used / gpu.memory_total for gpu in resources.gpus if gpu.memory_total]
    return min(1.0, max(_memory_share(beat), resources.cpu_percent / 100 / cores, *gpus, 0.0))


def _memory_share(beat: Heartbeat) -> float:
    resources = beat.resources
    return resources.memory_used / resources.memory_limit if resources.memory_limit else 0.0


_FINE = (RejectReason.NONE, "")
_NO_MODEL = ModelCard(model_id="", context_window=0, capabilities=(), local=True)
"""Stands for a worker that has not said yet what it serves."""
