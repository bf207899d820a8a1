"""Who is asked next for one request; and when nobody can be, whether waiting helps or what is told instead."""

from dataclasses import replace

from contracts import Policy, RouteDecision, Wishes, utc_now
from contracts.subjects import METRICS_ROUTE
from manager.request import retry_policy as failover
from manager.request.queue import Turn
from manager.request.shared_state import SharedState
from manager.request.state import PREFILL, RequestState
from manager.routing.filters import RejectReason
from manager.routing.ranking import Ranking

LOOK_AGAIN = 0.1
"""Seconds between two looks whether our own connection is back."""


class WorkerSelector:
    def __init__(self, shared: SharedState, inflight: RequestState) -> None:
        self._shared = shared
        self._inflight = inflight
        self._turn: Turn | None = None
        """Its last turn in the waiting room."""

    def rank(self) -> Ranking:
        """Everybody; but when a stream has begun, those who can go on with it come first."""
        inflight, shared = self._inflight, self._shared
        ahead = len(shared.queue) if self._turn is None else 0
        question = inflight.question(shared.reconnected_at, shared.now(), ahead, waited=self._turn is not None)
        if inflight.continuable:
            ranking = shared.rank(replace(question, needs=question.needs | PREFILL), self._policy)
            if ranking.winner is not None and not ranking.stands_in:
                return ranking
        return shared.rank(question, self._policy)

    def rank_again(self, *, last_resort: bool) -> Ranking:
        """The same when nobody was found: those who had no place before, or (`last_resort`) were only slow to claim."""
        now, waited = self._shared.now(), self._turn is not None
        question = self._inflight.question(self._shared.reconnected_at, now, waited=waited, again=True)
        return self._shared.rank(replace(question, include_unclaimed=last_resort), self._policy)

    @property
    def _policy(self) -> Policy:
        """Who was not sure enough is followed by the best there is."""
        return self._inflight.request.policy if self._inflight.best is None else "best"

    async def wait_for_somebody(self, ranking: Ranking) -> None:
        """Waits when waiting can help. Raises `BullpenError` saying why nobody can be asked when it can't."""
        shared, inflight = self._shared, self._inflight
        now = shared.now()
        remaining = inflight.remaining(now)
        match ranking.obstacle:
            case RejectReason.FULL:
                await self._wait(remaining, line_s=ranking.wait_s)
            case RejectReason.PAUSED if shared.pause_left() < remaining:
                await self._wait(shared.pause_left())
            case RejectReason.BUDGET if inflight.unaffordable:
                self.explain(ranking)
                raise next(iter(inflight.unaffordable.values()))
            case _ if now < shared.warm_at and ranking.obstacle is not RejectReason.BUDGET:
                await self._wait(shared.warm_at - now)
            case _ if shared.registry.all_cut_off(now) or not await shared.hears():
                await self._wait(min(remaining, LOOK_AGAIN))
            case RejectReason.EXHAUSTED | RejectReason.UNABLE | RejectReason.TOO_LONG if (
                refusal := inflight.too_long
            ) is not None:
                self.explain(ranking)
                raise refusal
            case RejectReason.EXHAUSTED:
                self.explain(ranking)
                raise failover.exhausted(inflight.attempts)
            case _:
                self.explain(ranking)
                request = inflight.request
                raise failover.nobody(ranking, request.model or request.backend, shared.served())

    async def _wait(self, seconds: float, line_s: float = 0.0) -> None:
        request, room = self._inflight.request, self._shared.queue
        if self._turn is None:
            room.line_s = line_s
        self._turn = await room.wait(request.priority, request.tenant, last=self._turn, seconds=seconds)

    def explain(self, ranking: Ranking) -> None:
        """Says on `metrics.route` who was considered, and why the winner won."""
        winner, inflight, shared = ranking.winner, self._inflight, self._shared
        decision = RouteDecision(
            manager_id=shared.manager_id,
            request_id=inflight.request_id,
            task_id=inflight.task_id,
            attempt=len(inflight.attempts) + 1,
            policy=self._policy,
            weights=shared.config.policies[self._policy],
            winner=winner.worker.worker_id if winner else None,
            model_id=winner.card.model_id if winner else None,
            candidates=ranking.candidates,
            created_at=utc_now(),
            why=self._why,
            wishes=self._wishes(),
        )
        shared.metrics.tell(METRICS_ROUTE, decision)

    @property
    def _why(self) -> str:
        inflight = self._inflight
        if not inflight.attempts:
            return "first"
        if inflight.running:
            return "hedge"
        return "failover" if inflight.best is None else "cascade"

    def _wishes(self) -> Wishes:
        request, inflight = self._inflight.request, self._inflight
        return Wishes(
            policy=request.policy,
            model=request.model,
            backend=request.backend,
            priority=request.priority,
            left_ms=round(inflight.remaining(self._shared.now()) * 1000),
            min_confidence=request.min_confidence,
            max_cost_usd=request.max_cost_usd,
            max_tokens=request.max_tokens,
            prompt_tokens=inflight.asked.tokens_in,
            needs=tuple(sorted(inflight.asked.needs)),
        )
