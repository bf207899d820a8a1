"""A Manager's figures for `/metrics`: what became of its requests, and how it sees the workers now.

Names from outside never make the page grow without end: workers and models are named while they are few and the server
knows them, tenants only up to the number in the config.
"""

from collections import Counter as Tally
from collections.abc import Iterator
from itertools import pairwise

from bus.measures import OPERATION, SECONDS, TOKENS, counters, histograms
from bus.role_status import Figure, Labels
from contracts import Answer, BullpenError, ErrorCode, Grade, Outcome
from contracts.errors import STATUS
from manager.request.attempt import Attempt
from manager.request.shared_state import SharedState
from manager.request.state import RequestState
from manager.routing.registry import WorkerView

MOST_WORKERS = 200
"""Workers that are named."""
MOST_PAIRS = 500
"""Models at workers that are named."""
GRADES: dict[Grade, int] = {"benched": 0, "probation": 1, "regular": 2, "senior": 3}


class RequestCounts:
    """Outcomes of requests and attempts since the start."""

    def __init__(self) -> None:
        model, provider = "gen_ai_response_model", "gen_ai_provider_name"
        self._durations = histograms(
            "gen_ai_client_operation_duration_seconds",
            "From a request's arrival to its end, whatever was asked for it",
            SECONDS,
            *(model, provider, "gen_ai_operation_name", "error_type"),
        )
        self._tokens = histograms(
            "gen_ai_client_token_usage",
            "Tokens of an answer and its prompt",
            TOKENS,
            *(model, provider, "gen_ai_operation_name", "gen_ai_token_type"),
        )
        self._errors = counters("errors_total", "Requests that ended with an error", "code", "status")
        self._attempts = counters("attempts_total", "Workers asked, by how that ended", "model", "outcome")
        self._reroutes = counters("reroutes_total", "Attempts after one that failed, by its error", "reason")
        self._cost = counters("cost_usd_total", "US dollars that attempts have cost", "model")
        self._unknown = counters("cost_unknown_total", "Attempts whose cost nobody knows", "model")
        self._of_tenants = counters("tenant_requests_total", "Requests of a tenant", "tenant", "error")
        self._cost_of_tenants = counters("tenant_cost_usd_total", "US dollars that a tenant's attempts cost", "tenant")
        for code in ErrorCode:  # at 0 from the start: what appears with 1 has no rate
            self._errors.of(code, str(STATUS[code]))
            self._reroutes.of(code)

    def ended(self, state: RequestState, response: Answer | None, failure: BullpenError | None, now: float) -> None:
        """Counts a request that has its final message."""
        operation = OPERATION[state.request.kind]
        if failure is not None:
            self._errors.of(failure.code, str(STATUS[failure.code])).add()
            self._durations.of("", "", operation, failure.code).observe(now - state.arrived)
        elif response is not None:
            model, backend = response.model_id, response.backend
            self._durations.of(model, backend, operation, "").observe(now - state.arrived)
            if response.replayed:
                return  # nothing was computed for it
            if state.request.kind == "infer":
                self._tokens.of(model, backend, operation, "output").observe(response.completion_tokens)
            if response.prompt_tokens is not None:
                self._tokens.of(model, backend, operation, "input").observe(response.prompt_tokens)

    def settled(self, state: RequestState, failure: BullpenError | None, tenants: int) -> None:
        """Counts the attempts of a settled request. `tenants`: how many are named; 0: none."""
        for attempt in state.attempts:
            model = attempt.model_id
            self._attempts.of(model, attempt.outcome).add()
            self._unknown.of(model).add(attempt.cost is None)
            self._cost.of(model).add(float(attempt.cost or 0))
        if len(state.attempts) > 1:
            for before, _ in pairwise(state.attempts):
                self._rerouted(before)
        if tenants:
            self._count_tenant(state, failure, tenants)

    def figures(self) -> Iterator[Figure]:
        yield from self._durations.figures()
        yield from self._tokens.figures()
        counts = (self._errors, self._attempts, self._reroutes, self._cost, self._unknown)
        for family in (*counts, self._of_tenants, self._cost_of_tenants):
            yield from family.figures()

    def _rerouted(self, before: Attempt) -> None:
        if before.error_code is not None and before.outcome not in (Outcome.HEDGED_LOSER, Outcome.CANCELLED):
            self._reroutes.of(before.error_code).add()

    def _count_tenant(self, state: RequestState, failure: BullpenError | None, tenants: int) -> None:
        self._of_tenants.most = self._cost_of_tenants.most = tenants
        tenant = state.request.tenant
        self._of_tenants.of(tenant, failure.code if failure else "").add()
        if cost := state.cost:
            self._cost_of_tenants.of(tenant).add(float(cost))


def figures_of_workers(shared: SharedState) -> Iterator[Figure]:
    """How this Manager sees the workers and their models."""
    now, registry = shared.now(), shared.registry
    ready = [worker for worker in registry if not worker.obstacle]
    yield Figure("workers", "Workers that this Manager knows", len(registry))
    yield Figure("workers_ready", "Workers that take requests", len(ready))
    yield Figure("workers_lost", "Workers that went without a word", sum(worker.is_lost for worker in registry))
    yield Figure("heartbeats_late_total", "Heartbeats that came later than they should", registry.late, "counter")
    named = [worker for worker in registry if not worker.stranger][:MOST_WORKERS]
    yield Figure("workers_untold", "Workers that are too many, or not known to the server", len(registry) - len(named))
    for worker in named:
        yield from _of_worker(worker, now)
    yield from _of_pairs(named, shared, now)
    yield from _of_models([worker for worker in ready if not worker.stranger])


def figures_of_budgets(shared: SharedState) -> Iterator[Figure]:
    """What is left of the budgets, as far as this Manager knows. The config says how many single tenants are named."""
    tenants = shared.config.tenants_in_metrics
    for state in shared.budgets.known_states(tenants):
        told = (("tenant", state.tenant or ""), ("model", state.model_id or ""), ("per", state.per))
        limit = float(state.limit_usd)
        yield Figure("budget_limit_usd", "US dollars that may be spent in a window of time", limit, labels=told)
        if state.spent_usd is not None:
            left = max(0.0, limit - float(state.spent_usd))
            yield Figure("budget_left_usd", "US dollars that are left of it", left, labels=told)


def _of_worker(worker: WorkerView, now: float) -> Iterator[Figure]:
    beat = worker.heartbeat
    told = (("worker", worker.worker_id), ("backend", beat.backend))
    yield Figure("worker_ready", "1: it takes requests", not worker.obstacle, labels=told)
    yield Figure("worker_lost", "1: it went without a word: silent, or disconnected", worker.is_lost, labels=told)
    yield Figure("worker_heartbeat_age_seconds", "Since its last heartbeat", max(0.0, now - worker.heard), labels=told)
    yield Figure("worker_running", "Requests that it computes", beat.inflight, labels=told)
    yield Figure("worker_waiting", "Requests that wait inside it", beat.queued, labels=told)
    yield Figure("worker_capacity", "Requests that it computes at once", beat.capacity, labels=told)
    yield Figure("worker_breaker_open", "1: it is left alone after failures", worker.breaker.is_open, labels=told)
    yield Figure("worker_answered_total", "Answers of it that counted", worker.answered, "counter", told)
    yield Figure("worker_failed_total", "Attempts that failed there", worker.failed, "counter", told)


def _of_pairs(named: list[WorkerView], shared: SharedState, now: float) -> Iterator[Figure]:
    pairs = [(worker, card.model_id) for worker in named for card in worker.heartbeat.models][:MOST_PAIRS]
    for worker, model in pairs:
        told = (("worker", worker.worker_id), ("model", model))
        grade = GRADES[shared.grades.of(model, worker.worker_id, worker.serves_since)]
        view = worker.models.get(model)
        yield Figure("model_grade", "0 benched, 1 probation, 2 regular, 3 senior", grade, labels=told)
        opened = view is not None and view.breaker.is_open
        yield Figure("model_breaker_open", "1: the model is left alone there after failures", opened, labels=told)


def _of_models(ready: list[WorkerView]) -> Iterator[Figure]:
    """Free places for each model: all models of one worker share its places."""
    capacity, free = Tally[str](), Tally[str]()
    for worker in ready:
        for card in worker.heartbeat.models:
            capacity[card.model_id] += worker.heartbeat.capacity
            free[card.model_id] += worker.free
    for model in list(capacity)[:MOST_PAIRS]:
        told: Labels = (("model", model),)
        yield Figure("model_capacity", "Requests that workers compute at once", capacity[model], labels=told)
        yield Figure("model_free", "Places that are free for it", free[model], labels=told)
