"""Which candidate should answer: filter, grade, score, then pick the best one or wait. Pure.

`filters` say which candidates can be asked, `stand_ins` which of them step back, `grades` whose turn it is, and
`scorers` how good each is; the lowest score wins. A full candidate is scored too, including the wait for a place:
sometimes waiting for a fast worker is better than asking a slow one now. The decision lists every candidate, with its
terms or with the reason why it was passed over. So an operator can see why a request went to the expensive model, and
can compute the decision again.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import NamedTuple

from contracts import Candidate, ModelCard, Terms
from manager.routing import scorers
from manager.routing.estimates import Estimates
from manager.routing.filters import (
    CAN_BE_ASKED,
    FREE,
    FULL,
    RejectReason,
    Situation,
    Verdict,
    suits,
    verdict,
)
from manager.routing.forecast import Forecast
from manager.routing.grades import Grades
from manager.routing.query import NO_MODEL, Choice, RoutingQuery, choices
from manager.routing.registry import WorkerView
from manager.routing.scorers import HOPELESS, IN_VAIN, TermValues
from manager.routing.stand_ins import is_stand_in, step_back

MOST_CANDIDATES = 500
"""Models at workers that one decision looks at: one worker may announce a thousand models."""

PRECEDENCE = (
    RejectReason.FULL,
    RejectReason.PAUSED,
    RejectReason.EXHAUSTED,
    RejectReason.FAILING,
    RejectReason.BUDGET,
    RejectReason.UNABLE,
    RejectReason.STAND_IN,
)
"""The reasons, the most hopeful first: the ranking reports the first one that any candidate has."""

UNGRADED = Grades()
"""Every worker is regular."""


class ScoredCandidate(NamedTuple):
    """One candidate with its terms and score, or with the reason why it cannot be asked. A full candidate has both."""

    choice: Choice
    reason: RejectReason
    why: str
    terms: TermValues | None = None
    score: float = inf

    def told(self) -> Candidate:
        """The candidate as `metrics.route` shows it."""
        beat = self.choice.worker.heartbeat
        return Candidate.built(
            {
                "worker_id": beat.worker_id,
                "backend": beat.backend,
                "model_id": self.choice.card.model_id,
                "terms": Terms.built(self.terms._asdict()) if self.terms else None,
                "score": self.score if self.terms else None,
                "passed_over": self.why or None,
            }
        )


@dataclass(frozen=True)
class Ranking:
    """The result of a decision: a winner, or the reason why there is none."""

    winner: Choice | None
    reason: RejectReason
    scored: Sequence[ScoredCandidate] = ()
    reasons: tuple[str, ...] = ()
    wait_s: float = 0.0
    """Seconds until all requests that wait already have found places."""
    stands_in: bool = False
    """The winner is a stand-in that the caller did not ask for."""

    @property
    def in_time(self) -> bool:
        """Whether the winner is expected to answer before the deadline."""
        won = next((one for one in self.scored if one.choice is self.winner), None)
        return won is not None and won.terms is not None and won.terms.lateness < IN_VAIN

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(one.told() for one in self.scored)


def rank(
    query: RoutingQuery,
    workers: Iterable[WorkerView],
    estimates: Estimates,
    weights: Terms,
    *,
    now: float,
    rng: random.Random,
    grades: Grades = UNGRADED,
) -> Ranking:
    """The best candidate for `query` among the models of `workers`, and how every candidate was judged."""
    candidates = _looked_at(query, choices(workers), rng)
    rng.shuffle(candidates)  # of equals the first wins
    at = Situation(query, estimates, now)
    forecast = Forecast(query, candidates, estimates, now)
    verdicts = step_back(
        at,
        {choice: verdict(at, choice) for choice in candidates},
        in_time=lambda choice: scorers.lateness(forecast.of(choice)) < IN_VAIN,
    )
    verdicts = _graded(at, verdicts, grades, rng)
    return _picked(query, _scored(verdicts, forecast, TermValues.of(weights)), forecast.line_s)


def _looked_at(query: RoutingQuery, candidates: list[Choice], rng: random.Random) -> list[Choice]:
    """All candidates. Of more than `MOST_CANDIDATES`, only those that the caller named; if these are still too many, a
    random sample.
    """
    if len(candidates) <= MOST_CANDIDATES:
        return candidates
    asked = query.request.model
    named = [choice for choice in candidates if choice.card.answers_to(asked)] if asked is not None else []
    few = named or candidates
    return few if len(few) <= MOST_CANDIDATES else rng.sample(few, MOST_CANDIDATES)


def _graded(
    at: Situation, verdicts: Mapping[Choice, Verdict], grades: Grades, rng: random.Random
) -> Mapping[Choice, Verdict]:
    """The verdicts, changed for the candidates whose grade keeps them out of this decision."""
    free = [choice for choice, one in verdicts.items() if one.reason is FREE]
    reserve = grades.reserve(free, at.query.request.policy, at.estimates, at.now, rng)
    if not reserve:
        return verdicts
    return {**verdicts, **{choice: Verdict(RejectReason.RESERVE, why) for choice, why in reserve.items()}}


def _scored(verdicts: Mapping[Choice, Verdict], forecast: Forecast, weights: TermValues) -> list[ScoredCandidate]:
    scored = []
    for choice, (reason, why) in verdicts.items():
        if reason in CAN_BE_ASKED:
            terms = scorers.terms(forecast.of(choice))
            scored.append(ScoredCandidate(choice, reason, why, terms, scorers.score(terms, weights)))
        else:
            scored.append(ScoredCandidate(choice, reason, why))
    return scored


def _picked(query: RoutingQuery, scored: Sequence[ScoredCandidate], line_s: float) -> Ranking:
    """The best free candidate, unless a full one has a better score including its wait."""
    best = min((one for one in scored if one.reason is FREE), key=_score, default=None)
    later = min((one for one in scored if one.reason is FULL), key=_score, default=None)
    if later is not None and (line_s >= query.left_s or query.has_queued) and _hopeless(scored):
        return Ranking(None, RejectReason.LATE, scored, _reasons(scored, RejectReason.FULL), line_s)
    if later is not None and (best is None or later.score < best.score):
        return Ranking(None, RejectReason.FULL, scored, _reasons(scored, RejectReason.FULL), line_s)
    if best is not None:
        return Ranking(best.choice, RejectReason.NONE, scored, stands_in=is_stand_in(query, best.choice))
    return _nobody(query, scored)


def _score(one: ScoredCandidate) -> float:
    return one.score


def _hopeless(scored: Sequence[ScoredCandidate]) -> bool:
    """Whether no candidate that can be asked would answer before the deadline."""
    return all(one.terms is None or one.terms.lateness >= HOPELESS for one in scored)


def _nobody(query: RoutingQuery, scored: Sequence[ScoredCandidate]) -> Ranking:
    """The ranking when no candidate can be asked, with the reason."""
    found = {one.reason for one in scored}
    reason = next((one for one in PRECEDENCE if one in found), None)
    if reason is RejectReason.UNABLE and _fits_nowhere(query, scored):
        return Ranking(None, RejectReason.TOO_LONG, scored, _reasons(scored, reason))
    if reason is RejectReason.UNABLE and query.names_its_model and _suits_nowhere(query, scored):
        return Ranking(None, RejectReason.INCAPABLE, scored, _reasons(scored, reason))
    if reason is None:
        reason = RejectReason.NO_SUCH_MODEL if scored and query.names_its_model else RejectReason.NOBODY
    return Ranking(None, reason, scored, _reasons(scored, reason))


def _fits_nowhere(query: RoutingQuery, scored: Sequence[ScoredCandidate]) -> bool:
    """Whether the prompt is too long for every model that is asked for, ready or not."""
    return all(card is not NO_MODEL and query.tokens_in > card.context_window for card in _meant(scored))


def _suits_nowhere(query: RoutingQuery, scored: Sequence[ScoredCandidate]) -> bool:
    return all(card is not NO_MODEL and not suits(query, card) for card in _meant(scored))


def _meant(scored: Sequence[ScoredCandidate]) -> list[ModelCard]:
    """The models that are asked for, ready or not."""
    return [one.choice.card for one in scored if one.reason is not RejectReason.NO_SUCH_MODEL]


def _reasons(scored: Sequence[ScoredCandidate], reason: RejectReason) -> tuple[str, ...]:
    return tuple(f"{one.choice.worker.worker_id}: {one.why}" for one in scored if one.reason is reason and one.why)
