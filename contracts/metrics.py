"""Live figures and routing decisions, published for any subscriber."""

from datetime import datetime
from decimal import Decimal

from contracts.base import OpenModel


class Terms(OpenModel):
    """What a candidate is weighed by, each from 0 (best) to 1 (worst); or what each counts. The products add up to the
    score. An older Manager tells no `lateness`: it was a part of `load`, which could be more than 1 then."""

    cost: float
    confidence: float
    """How little the model may be relied on: 0 is the surest."""
    load: float
    """How long the answer is expected to take."""
    resources: float
    lateness: float = 0.0
    """How much the answer is feared to come after the deadline."""


class Candidate(OpenModel):
    worker_id: str
    backend: str
    model_id: str
    terms: Terms | None = None
    score: float | None = None
    """Lower is better; None when passed over."""
    passed_over: str | None = None
    """Why this candidate could not be chosen."""


class Wishes(OpenModel):
    """The part of a request that decides which worker answers it. None of its words."""

    policy: str
    model: str | None = None
    backend: str | None = None
    priority: str
    left_ms: float | None = None
    """Milliseconds until its deadline."""
    min_confidence: float | None = None
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    prompt_tokens: int
    """About so many."""
    needs: tuple[str, ...] = ()
    """What a model must be able to do."""


class RouteDecision(OpenModel):
    """`metrics.route`: the candidates for an attempt, and why the winner won."""

    manager_id: str
    request_id: str
    task_id: str
    """Its digest (`veiled`): a task's own name is for its caller."""
    attempt: int
    policy: str
    weights: Terms
    winner: str | None
    """The chosen worker; None when there was none to choose."""
    model_id: str | None
    candidates: tuple[Candidate, ...]
    created_at: datetime
    why: str | None = None
    """What it was for: `first`, `failover`, `hedge` (a second one beside the first) or `cascade` (a surer answer)."""
    wishes: Wishes | None = None


class MeshMetrics(OpenModel):
    """`metrics.mesh`, every 2 s from each Manager."""

    source: str
    created_at: datetime
    workers: int
    ready: int
    inflight: int
    waiting: int
    answered: int
    """Since the Manager's start."""
    failed: int
    rerouted: int
    outbox_pending: int = 0
    """Telemetry events that JetStream has not acknowledged yet."""
    outbox_spooled_bytes: int = 0
    """Events that wait on this Manager's disk."""
    outbox_refused_ms: int = 0
    """For how long no event has been taken; 0 while they flow."""
    outbox_refusal: str = ""
    """Why not."""
    jobs_running: int = 0
    """Durable jobs that this Manager has begun; they count among `inflight` too."""
    loop_lag_ms: float = 0.0
    """The longest time since the last figures in which the Manager did not run; milliseconds."""
    jobs_waiting: int | None = None
    """Durable jobs of the whole mesh that no Manager has begun; None: unknown."""


class BudgetMetrics(OpenModel):
    """`metrics.budget`: a budget is nearly spent. Said once in each window of time."""

    source: str
    created_at: datetime
    tenant: str | None
    model_id: str | None
    window: str
    """`2026-11-23` for a day, `2026-11` for a month."""
    limit_usd: Decimal
    spent_usd: Decimal


class WorkerMetrics(OpenModel):
    """`metrics.worker.<worker_id>`."""

    source: str
    created_at: datetime
    worker_id: str
    backend: str
    state: str
    inflight: int
    queued: int
    capacity: int
    answered: int
    failed: int
    ewma_ms: float | None


class ModelMetrics(OpenModel):
    """`metrics.model.<model>`."""

    source: str
    created_at: datetime
    model_id: str
    workers: int
    answered: int
    failed: int
    confidence: float | None
    """Running mean of its answers' confidence."""
    mean_ms: float | None


class TelemetryMetrics(OpenModel):
    """`metrics.mesh`, every 2 s from each accountant."""

    source: str
    created_at: datetime
    stored: int
    """Events booked since its start."""
    per_second: float
    dead: int
    waiting: int | None = None
    """Events in the stream that are not booked yet; None: not known."""
    database_away: str = ""
    """Why nothing can be booked now; empty when all is well."""
