"""What all requests of one Manager share: who is here, how they did, who waits, and what may be spent twice."""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace

from bus import Bus, BusError
from contracts import ANOTHER_WORKER_MAY_HELP, ErrorCode, FinalResponse, Outcome, Policy
from manager.budgets.ledger import BudgetLedger
from manager.config import ManagerConfig
from manager.metrics import Metrics
from manager.request.attempt import Attempt, Ending
from manager.request.queue import RequestQueue
from manager.request.retry_budget import DuplicateSpendCap, RetryBudget
from manager.routing.costs import limit_tokens
from manager.routing.estimates import Estimates
from manager.routing.grades import Grades
from manager.routing.prefix_cache import PrefixCache
from manager.routing.query import Choice, RoutingQuery
from manager.routing.ranking import Ranking, rank
from manager.routing.registry import Registry, UncountedRequest, WorkerView

PAUSE_UNTOLD = 0.1
"""Seconds to leave a worker alone that said it is full without saying for how long."""
LOOK_AGAIN = 0.02
"""Seconds at least until somebody is looked at again who was to be left alone."""
HEDGES_AT_ONCE = 10.0
CONVERSATION = 2
"""Messages from which on it is one."""
LOOKED_AT = 12
"""Of so many workers each is judged for every request; of more, so many are drawn by lot."""


class SharedState:
    def __init__(self, bus: Bus, config: ManagerConfig, manager_id: str, metrics: Metrics) -> None:
        self.bus = bus
        self.config = config
        self.manager_id = manager_id
        self.metrics = metrics
        self.registry = Registry(config.silent_after_beats)
        self.estimates = Estimates()
        self.affinity = PrefixCache()
        self.grades = Grades()
        self.queue = RequestQueue(config.max_waiting)
        retries, hedging = config.retries, config.hedging
        self.retries = RetryBudget(
            retries.share, per_second=retries.per_second, burst=max(1.0, retries.burst), filled=retries.burst >= 1.0
        )
        self.hedges = RetryBudget(hedging.share, burst=HEDGES_AT_ONCE, filled=False)
        self.budgets = BudgetLedger(bus, config.budgets, manager_id, metrics)
        self.spending = DuplicateSpendCap(retries.duplicate_spend_share, retries.duplicate_spend_floor_usd)
        self.warm_at = 0.0
        """Until then (loop's clock) an empty registry means "not heard yet", not "nobody"."""
        self.reconnected_at = 0.0
        """When our connection was last made anew (loop's clock): what was under way then may be lost."""
        self._rng = random.Random()  # noqa: S311 — breaks ties, guards no secret

    def reconfigure(self, config: ManagerConfig) -> None:
        """From the next decision on."""
        self.config = config
        self.registry.silent_after = config.silent_after_beats
        self.queue.limit = config.max_waiting
        retries = config.retries
        self.retries.reconfigure(retries.share, per_second=retries.per_second, burst=max(1.0, retries.burst))
        self.hedges.reconfigure(config.hedging.share, burst=HEDGES_AT_ONCE)
        self.spending.reconfigure(retries.duplicate_spend_share, retries.duplicate_spend_floor_usd)
        self.budgets.reconfigure(config.budgets)

    def now(self) -> float:
        """The loop's clock, seconds."""
        return asyncio.get_running_loop().time()

    async def hears(self) -> bool:
        """Whether our own connection lives. A server that leaves tells workers before us, and then they seem gone."""
        try:
            await self.bus.flush(1.0)
        except BusError:
            return False
        return True

    def asked(self) -> None:
        """A request came: it widens a little what may be tried twice."""
        self.retries.asked()
        self.hedges.asked()

    def rank(self, question: RoutingQuery, policy: Policy, among: Iterable[WorkerView] | None = None) -> Ranking:
        """How everybody is judged for this question (or only those `among`), and who wins.

        Of very many a few are drawn by lot. When none of them can be asked, a few of those who have a free place. All
        are looked at before a stand-in is asked: another model may be ready that was not drawn.
        """
        question = self.remember(question)
        if among is None and len(self.registry) > LOOKED_AT:
            holders = [worker for name in question.cached if (worker := self.registry.get(name)) is not None]
            for draw in (self._drawn, self._drawn_of_the_free):
                ranking = self._rank(question, policy, {*draw(), *holders})
                if ranking.winner is not None and not ranking.stands_in:
                    return ranking
        return self._rank(question, policy, self.registry if among is None else among)

    def remember(self, question: RoutingQuery) -> RoutingQuery:
        """With what workers have of it in their caches."""
        if len(question.openings) < CONVERSATION:
            return question
        return replace(question, cached=self.affinity.cached(question.openings, self.now()))

    def _rank(self, question: RoutingQuery, policy: Policy, workers: Iterable[WorkerView]) -> Ranking:
        weights = self.config.policies[policy]
        return rank(question, workers, self.estimates, weights, now=self.now(), rng=self._rng, grades=self.grades)

    def _drawn(self) -> list[WorkerView]:
        return self.registry.drawn(LOOKED_AT, self._rng)

    def _drawn_of_the_free(self) -> list[WorkerView]:
        free = [worker for worker in self.registry if worker.free and not worker.obstacle]
        return self._rng.sample(free, min(LOOKED_AT, len(free)))

    def served(self) -> list[str]:
        """The models that somebody here serves."""
        return sorted({card.model_id for m in self.registry if not m.gone for card in m.heartbeat.models})

    def pause_left(self) -> float:
        """Seconds until the first of those who are to be left alone may be asked again, as far as we know."""
        now = self.now()
        asked = [m.paused_until for m in self.registry if m.paused_until > now]
        limited = [m.rested_at() for m in self.registry if m.heartbeat.rate is not None and not m.obstacle]
        return max(LOOK_AGAIN, min((*asked, *limited), default=now) - now)

    def took(self, choice: Choice, question: RoutingQuery) -> tuple[UncountedRequest, bool]:
        """A worker was given a request. True: it is the probe of its breaker."""
        uncounted = choice.worker.spend(limit_tokens(question, choice.card, self.estimates))
        choice.worker.assigned += 1
        return uncounted, choice.worker.breaker.sent()

    def learn(self, attempt: Attempt) -> None:
        """An attempt has ended: what that says of its worker and model, and a place for the next in line."""
        attempt.choice.worker.assigned -= 1
        attempt.uncounted.known = True
        attempt.choice.worker.said_full = attempt.said_full
        attempt.pay()
        if isinstance(attempt.ended, FinalResponse):
            self._answered(attempt, attempt.ended)
        elif isinstance(attempt.ended, Ending):
            self._failed(attempt, attempt.ended)
        self.queue.call(1)

    def learn_late(self, attempt: Attempt, answer: FinalResponse) -> None:
        """Somebody given up on has answered, and that counts: it was slow, but is not ill."""
        attempt.choice.worker.breaker.forgiven(self.now(), probe=attempt.probe)
        self._took_answer(attempt, answer)

    def _answered(self, attempt: Attempt, answer: FinalResponse) -> None:
        attempt.choice.worker.breaker.succeeded(self.now(), probe=attempt.probe)
        self._took_answer(attempt, answer)

    def _took_answer(self, attempt: Attempt, answer: FinalResponse) -> None:
        worker = attempt.choice.worker
        worker.answered += 1
        now, service_ms = self.now(), attempt.duration_ms - answer.queue_ms
        others = (attempt.others + worker.load) / 2 / max(1, worker.heartbeat.capacity)
        self.estimates.answered(answer, service_ms, attempt.prompt_tokens, now, cached=attempt.cached, others=others)
        self.affinity.answered(attempt.worker_id, attempt.openings, answer.output, now)

    def _failed(self, attempt: Attempt, ending: Ending) -> None:
        worker, breaker = attempt.choice.worker, attempt.choice.worker.breaker
        if ending.outcome not in (Outcome.CANCELLED, Outcome.HEDGED_LOSER):
            worker.failed += 1
        if _blames_worker(attempt, ending):
            # The code alone: a provider may quote the question in what it says, and everybody is told of this.
            breaker.failed(self.now(), ending.error.code.value, probe=attempt.probe)
        else:
            breaker.withdrawn(probe=attempt.probe)
        if attempt.said_all and ending.error.code in (ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED):
            told = ending.error.retry_after_ms
            worker.paused_until = self.now() + (PAUSE_UNTOLD if told is None else told / 1000)
        its_own = ending.error.code in ANOTHER_WORKER_MAY_HELP  # and not the request's, which nobody could answer
        if ending.outcome in (Outcome.FAILED, Outcome.TRUNCATED) and its_own:
            self.estimates.failed(attempt.worker_id, attempt.model_id, self.now())


def _blames_worker(attempt: Attempt, ending: Ending) -> bool:
    """Whether this failure says that the worker is not well.

    Not when it was refused in words (full, limited, draining), when the request itself was wrong or called off,
    and not when the worker is gone: the registry knows that already.
    """
    if attempt.choice.worker.gone or ending.died or ending.outcome in (Outcome.CANCELLED, Outcome.HEDGED_LOSER):
        return False
    if ending.outcome is Outcome.REFUSED and attempt.said_all:
        return False
    return ending.error.code in ANOTHER_WORKER_MAY_HELP
