"""What all requests of one Manager share: the workers and their records, the queue, and the retry budgets."""

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from bus import Bus, BusError
from bus.once import Once
from contracts import ErrorCode, Outcome, Policy
from contracts.subjects import Kind
from manager.budgets.ledger import BudgetLedger
from manager.config import ManagerConfig
from manager.metrics import Metrics
from manager.request.attempt import Attempt
from manager.request.fault import Fault, fault_of
from manager.request.lifecycle import State
from manager.request.queue import RequestQueue, Turn
from manager.request.retry_budget import DuplicateSpendCap, RetryBudget
from manager.routing.costs import limit_tokens
from manager.routing.estimates import Estimates
from manager.routing.filters import RejectReason
from manager.routing.grades import Grades
from manager.routing.prefix_cache import PrefixCache
from manager.routing.query import Choice, RoutingQuery, Wants
from manager.routing.ranking import Ranking, rank
from manager.routing.registry import Probe, Registry, UncountedRequest, WorkerView

PAUSE_UNTOLD = 0.1
"""Seconds to leave a full worker alone that did not say for how long."""
LOOK_AGAIN = 0.02
"""The shortest time, in seconds, before a worker that asked for a pause is looked at again."""
HEDGES_AT_ONCE = 10.0
CONVERSATION = 2
"""Messages of a conversation from which on its prefix is remembered."""
LOOKED_AT = 12
"""Workers that are judged for one request; of more, as many are drawn by lot."""


class SharedState:
    def __init__(
        self,
        bus: Bus,
        config: ManagerConfig,
        manager_id: str,
        metrics: Metrics,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`clock`: seconds; the running loop's, unless time is simulated."""
        self.now = clock or asyncio.get_running_loop().time
        """Seconds."""
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
        """Until then (loop's clock) an empty registry means "not heard yet", not "no worker"."""
        self.reconnected_at = 0.0
        """When our connection was last made anew (loop's clock): what was under way then may be lost."""
        self.told = Once()
        """Implausible fields of workers that were logged already."""
        self._rng = random.Random()  # noqa: S311 — breaks ties, guards no secret

    def reconfigure(self, config: ManagerConfig) -> None:
        """Takes over a changed config from the next decision on."""
        self.config = config
        self.registry.silent_after = config.silent_after_beats
        self.queue.limit = config.max_waiting
        retries = config.retries
        self.retries.reconfigure(retries.share, per_second=retries.per_second, burst=max(1.0, retries.burst))
        self.hedges.reconfigure(config.hedging.share, burst=HEDGES_AT_ONCE)
        self.spending.reconfigure(retries.duplicate_spend_share, retries.duplicate_spend_floor_usd)
        self.budgets.reconfigure(config.budgets)

    async def hears(self) -> bool:
        """Whether our own connection lives. A server that leaves drops workers before us, and then they seem gone."""
        try:
            await self.bus.flush(1.0)
        except BusError:
            return False
        return True

    def asked(self) -> None:
        """A request came: it adds a little to the retry budget."""
        self.retries.asked()
        self.hedges.asked()

    def rank(self, question: RoutingQuery, policy: Policy, among: Iterable[WorkerView] | None = None) -> Ranking:
        """Scores all workers (or those in `among`) for this query, and picks one.

        Of very many workers a few are drawn by lot; when none of those can be asked, a few of those with a free place.
        All are looked at before a stand-in is asked, because a better model may not have been drawn.
        """
        question = self.remember(question)
        if among is not None:
            return self._rank(question, policy, among)
        pool = self.registry.pool(self._rng)
        if len(pool) > LOOKED_AT:
            holders = [worker for name in question.cached if (worker := self.registry.get(name)) is not None]
            few = [worker for worker in pool if worker.stranger] if self.registry.is_crowded else []
            for draw in (self._drawn, self._drawn_of_the_free):
                ranking = self._rank(question, policy, {*draw(pool), *few, *holders})
                if ranking.winner is not None and not ranking.stands_in:
                    return ranking
        ranking = self._rank(question, policy, pool)
        if ranking.winner is None and ranking.reason is not RejectReason.FULL and len(pool) < len(self.registry):
            return self._rank(question, policy, self.registry)
        return ranking

    def remember(self, question: RoutingQuery) -> RoutingQuery:
        """The query, with the part of the prompt that each worker probably has in its cache."""
        if len(question.openings) < CONVERSATION:
            return question
        return replace(question, cached=self.affinity.cached(question.openings, self.now()))

    def _rank(self, question: RoutingQuery, policy: Policy, workers: Iterable[WorkerView]) -> Ranking:
        weights = self.config.policies[policy]
        return rank(question, workers, self.estimates, weights, now=self.now(), rng=self._rng, grades=self.grades)

    def _drawn(self, _pool: Sequence[WorkerView]) -> list[WorkerView]:
        return self.registry.drawn(LOOKED_AT, self._rng)

    def _drawn_of_the_free(self, pool: Sequence[WorkerView]) -> list[WorkerView]:
        free = [worker for worker in pool if worker.free and not worker.obstacle]
        return self._rng.sample(free, min(LOOKED_AT, len(free)))

    def served(self, kind: Kind | None = None) -> list[str]:
        """The models that are served; with `kind`, those for that kind of request."""
        cards = (card for worker in self.registry if not worker.gone for card in worker.heartbeat.models)
        return sorted({card.model_id for card in cards if kind is None or card.serves(kind)})

    def pause_left(self, ranking: Ranking) -> float:
        """Seconds until the first of the workers that asked for a pause may be asked again."""
        now = self.now()
        resting = {s.choice for s in ranking.scored if s.reason is RejectReason.PAUSED}
        pauses = [choice.worker.pause_left(choice.card.model_id, now) for choice in resting]
        limited = [choice.worker.rested_at() - now for choice in resting if choice.worker.heartbeat.rate is not None]
        return max(LOOK_AGAIN, min((*(pause for pause in pauses if pause > 0), *limited), default=0.0))

    # Budgets of a second try

    def may_retry(self, now: float) -> bool:
        return self.retries.allows(now)

    def may_spend_twice(self, usd: Decimal, now: float) -> bool:
        return self.spending.allows(now, usd)

    # What an attempt teaches

    def took(self, choice: Choice, query: RoutingQuery) -> tuple[UncountedRequest, Probe]:
        """A request was sent to a worker. Returns its part of the worker's limits, and the breakers that it probes."""
        uncounted = choice.worker.spend(limit_tokens(query, choice.card, self.estimates))
        choice.worker.assigned += 1
        self.call_to(choice.worker, 1)  # there may be more places than requests were called to
        return uncounted, choice.worker.sent(choice.card.model_id)

    def learn(self, attempt: Attempt) -> None:
        """An attempt has ended: updates the record of its worker and model, and calls the next request in line."""
        worker = attempt.choice.worker
        worker.assigned -= 1
        if attempt.claimed or attempt.state is State.ANSWERED:
            self.registry.took_request(worker)
        attempt.uncounted.known = True
        worker.said_full = attempt.found_no_place
        if attempt.state is State.ANSWERED:
            worker.succeeded(attempt.model_id, self.now(), attempt.probe)
            self._took_answer(attempt)
        else:
            self._failed(attempt)
        self.call_to(worker, 1)

    def call_to(self, worker: WorkerView, places: int) -> None:
        """So many places have become free at a worker: calls requests that wait for what it serves."""
        if not len(self.queue):
            return
        served: dict[Wants, bool] = {}

        def is_free_for(wants: Wants) -> bool:
            if not self._takes(worker):
                return False
            if wants not in served:
                served[wants] = wants.are_served_by(worker)
            return served[wants]

        self.queue.call(places, is_free_for)

    def wake(self, turn: Turn | None) -> None:
        """Has a request look again, if it waits: something else than a free place concerns it."""
        if turn is not None:
            self.queue.wake(turn)

    def call_stranded(self) -> None:
        """Has requests look again that wait for what no worker serves any more; one that was lost may come back."""
        if not len(self.queue):
            return
        serving = [worker for worker in self.registry if worker.is_lost or not worker.obstacle]
        self.queue.call_all(lambda wants: not any(wants.are_served_by(worker) for worker in serving))

    def _takes(self, worker: WorkerView) -> bool:
        """Whether it has a free place, and may be asked now."""
        return bool(
            worker.free and not worker.obstacle and worker.paused_until <= self.now() and not worker.short_of(1)
        )

    def learn_late(self, attempt: Attempt) -> None:
        """An answer that came late was accepted: its worker was slow, but is well."""
        attempt.choice.worker.forgiven(attempt.model_id, self.now(), attempt.probe)
        self._took_answer(attempt)

    def learn_of_refusals(self, attempts: Sequence[Attempt]) -> None:
        """A request is over: a model that declined what another one answered has failed; otherwise the request was
        wrong.
        """
        answered = any(attempt.state is State.ANSWERED for attempt in attempts)
        for attempt in attempts:
            if fault_of(attempt) is not Fault.OPEN:
                continue
            if answered:
                self._blame(attempt, Fault.MODEL)
            else:
                attempt.choice.worker.nothing_learned(attempt.model_id, attempt.probe)

    def _took_answer(self, attempt: Attempt) -> None:
        worker, answer = attempt.choice.worker, attempt.answer
        assert answer is not None
        worker.answered += 1
        now, service_ms = self.now(), attempt.duration_ms - answer.queue_ms
        others = (attempt.others + worker.load) / 2 / max(1, worker.heartbeat.capacity)
        self.estimates.answered(answer, service_ms, attempt.prompt_tokens, now, cached=attempt.cached, others=others)
        self.affinity.answered(attempt.worker_id, attempt.openings, answer.output, now)

    def _failed(self, attempt: Attempt) -> None:
        if attempt.outcome not in (Outcome.CANCELLED, Outcome.HEDGED_LOSER):
            attempt.choice.worker.failed += 1
        fault = fault_of(attempt)
        if fault is not Fault.OPEN:
            self._blame(attempt, fault)
        if attempt.final is not None and attempt.error_code in (ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED):
            self._pause(attempt)

    def _blame(self, attempt: Attempt, fault: Fault) -> None:
        worker, model, now = attempt.choice.worker, attempt.model_id, self.now()
        # The code alone: a provider may quote the prompt in its message, and `metrics.route` is open to all.
        why = attempt.error_code.value if attempt.error_code else ""
        match fault:
            case Fault.MODEL:
                worker.model_failed(model, now, why, attempt.probe)
            case Fault.WORKER:
                worker.worker_failed(model, now, why, attempt.probe)
            case Fault.NONE | Fault.OPEN:
                worker.nothing_learned(model, attempt.probe)
            case _:
                assert_never(fault)
        if fault in (Fault.MODEL, Fault.WORKER) and (attempt.state is State.FAILED or attempt.declined):
            self.estimates.failed(attempt.worker_id, model, now)

    def _pause(self, attempt: Attempt) -> None:
        """Leaves a full worker, or one whose account is used up, alone as a whole; otherwise only the model."""
        error = attempt.error
        assert error is not None
        seconds = PAUSE_UNTOLD if error.retry_after_ms is None else error.retry_after_ms / 1000
        whole = error.code is ErrorCode.OVERLOADED or error.fault in ("account", "worker")
        attempt.choice.worker.leave_alone(None if whole else attempt.model_id, self.now() + seconds)
