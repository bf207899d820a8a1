"""Live figures and routing decisions, published for any subscriber."""

from datetime import datetime
from decimal import Decimal

from contracts.base import OpenModel


class Terms(OpenModel):
    """The terms by which a candidate is weighed, each from 0 (best) to 1 (worst); or the weight of each. The products
    add up to the score. An older Manager sends no `lateness`: it was a part of `load`, which could be more than 1 then.
    """

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
    """Lower is better; null when passed over."""
    passed_over: str | None = None
    """Why this candidate could not be chosen."""


class Wishes(OpenModel):
    """The part of a request that decides which worker answers it. It has none of the request's words."""

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
    """Tokens of the prompt, estimated."""
    needs: tuple[str, ...] = ()
    """What a model must be able to do."""


class RouteDecision(OpenModel):
    """`metrics.route`: the candidates for an attempt, and why the winner won."""

    manager_id: str
    request_id: str
    task_id: str
    """The task id as a digest (`veiled`): the name itself is for its caller only."""
    attempt: int
    policy: str
    weights: Terms
    winner: str | None
    """The chosen worker; null when no worker could be chosen."""
    model_id: str | None
    candidates: tuple[Candidate, ...]
    created_at: datetime
    why: str | None = None
    """The reason for the attempt: `first`, `failover`, `hedge` (beside the first) or `cascade` (for a surer answer)."""
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
    """Telemetry events in this Manager's spool on disk."""
    outbox_refused_ms: int = 0
    """Seconds since JetStream last took an event while some waited; 0 while events flow."""
    outbox_refusal: str = ""
    """Why JetStream does not take them."""
    jobs_running: int = 0
    """Durable jobs that this Manager has begun; they count among `inflight` too."""
    loop_lag_ms: float = 0.0
    """The longest standstill of the Manager since the last figures; milliseconds."""
    jobs_waiting: int | None = None
    """Durable jobs of the whole mesh that no Manager has begun; null: unknown."""


class BudgetMetrics(OpenModel):
    """`metrics.budget`: a budget is nearly spent. Published once in each window of time."""

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
    """Running mean of the confidence of its answers."""
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
    """Events in the stream that are not booked yet; null: not known."""
    database_away: str = ""
    """Why nothing can be booked now; empty when all is well."""
