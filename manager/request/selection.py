"""Which worker is asked next for one request, and how the workers stand when none can be."""

from collections.abc import Iterable
from dataclasses import replace

from contracts import Policy, RouteDecision, Wishes, utc_now
from contracts.privacy import veiled
from contracts.subjects import METRICS_ROUTE
from manager.request.queue import Turn
from manager.request.retry_policy import Ask, Look, excluded
from manager.request.shared_state import SharedState
from manager.request.state import PREFILL, RequestState
from manager.routing.filters import RejectReason
from manager.routing.query import RoutingQuery
from manager.routing.ranking import Ranking
from manager.routing.registry import WorkerView


class WorkerSelector:
    def __init__(self, shared: SharedState, state: RequestState) -> None:
        self._shared = shared
        self._state = state

    def rank(self, ask: Ask) -> Ranking:
        """Ranks all workers; once a stream has begun, those that can go on with it come first."""
        query = self._query(ask)
        if self._state.continuable and not ask.include_full:
            ranking = self._shared.rank(replace(query, needs=query.needs | PREFILL), self._policy)
            if ranking.winner is not None and not ranking.stands_in:
                return ranking
        ranking = self._shared.rank(query, self._policy)
        if ask.in_time_only and ranking.winner is not None and not ranking.in_time:
            return replace(ranking, winner=None, reason=RejectReason.LATE)
        return ranking

    def rank_to_hedge(self, idle: Iterable[WorkerView]) -> Ranking:
        """Ranks idle workers only, for a second attempt beside the first."""
        return self._shared.rank(self._query(self._unasked(), ahead=0), self._state.request.policy, idle)

    def has_another(self) -> bool:
        """Whether another worker could be asked now."""
        return self.rank(self._unasked()).winner is not None

    def _unasked(self) -> Ask:
        return Ask(exclude=excluded(self._state.attempts, self._shared.reconnected_at))

    def _query(self, ask: Ask, ahead: int | None = None) -> RoutingQuery:
        if ahead is None:
            ahead = self._ahead() if self._state.turn is None and not ask.include_full else 0
        return self._state.query(ask, self._shared.now(), ahead=ahead, has_queued=self._state.turn is not None)

    def _ahead(self) -> int:
        """Requests that wait for the same places."""
        queue = self._shared.queue
        return queue.ahead_of(self._state.asked.wants) if len(queue) else 0

    @property
    def _policy(self) -> Policy:
        """The policy for this request: after an answer below the wanted confidence, the best model there is."""
        return self._state.request.policy if self._state.best is None else "best"

    async def look(self, ask: Ask, ranking: Ranking) -> Look:
        """How the workers stand when `ranking` has no winner."""
        shared, request, now = self._shared, self._state.request, self._shared.now()
        return Look(
            ask=ask,
            ranking=ranking,
            pause_s=shared.pause_left(ranking),
            warm_s=shared.warm_at - now,
            cut_off=ranking.reason is not RejectReason.FULL and await self._is_cut_off(),
            unaffordable=next(iter(self._state.unaffordable.values()), None),
            wanted=self._wanted(),
            served=shared.served(request.kind),
        )

    def _wanted(self) -> str | None:
        """The model or backend that the caller named; of a model that serves another kind of request, also which
        kind.
        """
        request = self._state.request
        known = (card for worker in self._shared.registry for card in worker.heartbeat.models)
        if request.model and any(card.answers_to(request.model) and card.capabilities for card in known):
            return f"{request.model} for {'embeddings' if request.kind == 'embed' else 'chat'}"
        return request.model or request.backend

    async def _is_cut_off(self) -> bool:
        return self._shared.registry.all_cut_off(self._shared.now()) or not await self._shared.hears()

    async def wait(self, seconds: float, ranking: Ranking) -> None:
        """Waits up to `seconds` to be called to a place. Raises `BullpenError(overloaded)` when the queue is full."""
        state, queue, last = self._state, self._shared.queue, self._state.turn
        if last is None:
            queue.line_s = ranking.wait_s
            state.turn = Turn(state.request.tenant, state.asked.wants, state.request.priority)
        else:
            state.turn = last.again()
        await queue.wait(state.turn, last=last, seconds=seconds)

    def explain_failure(self, look: Look | None) -> None:
        """Publishes why no worker could be chosen."""
        if look is not None:
            self.explain(look.ranking)

    def explain(self, ranking: Ranking) -> None:
        """Publishes on `metrics.route` which candidates were considered, and why the winner won."""
        winner, state, shared = ranking.winner, self._state, self._shared
        policy = self._policy
        if state.trace is not None and winner is not None:
            state.trace.chosen(ranking, self._why)
        decision = RouteDecision.built(
            {
                "manager_id": shared.manager_id,
                "request_id": state.request_id,
                "task_id": veiled(state.task_id),
                "attempt": len(state.attempts) + 1,
                "policy": policy,
                "weights": shared.config.policies[policy],
                "winner": winner.worker.worker_id if winner else None,
                "model_id": winner.card.model_id if winner else None,
                "candidates": ranking.candidates,
                "created_at": utc_now(),
                "why": self._why,
                "wishes": self._wishes(),
            }
        )
        shared.metrics.tell(METRICS_ROUTE, decision)

    @property
    def _why(self) -> str:
        state = self._state
        if not state.attempts:
            return "first"
        if state.running:
            return "hedge"
        return "failover" if state.best is None else "cascade"

    def _wishes(self) -> Wishes:
        request, state = self._state.request, self._state
        return Wishes.built(
            {
                "policy": request.policy,
                "model": request.model,
                "backend": request.backend,
                "priority": request.priority,
                "left_ms": round(state.remaining(self._shared.now()) * 1000),
                "min_confidence": request.min_confidence,
                "max_cost_usd": request.max_cost_usd,
                "max_tokens": request.max_tokens,
                "prompt_tokens": state.asked.tokens_in,
                "needs": tuple(sorted(state.asked.needs)),
            }
        )
