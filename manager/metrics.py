"""Live figures for every listener: published, never waited for."""

from collections import Counter

import structlog

from bus import Bus
from contracts import MeshMetrics, ModelMetrics, OpenModel, WorkerMetrics, utc_now
from contracts.subjects import METRICS_MESH, metrics_model, metrics_worker
from manager.routing.estimates import Estimates
from manager.routing.registry import Registry
from outbox.outbox import Outbox

log = structlog.get_logger(__name__)

LONGEST_REASON = 500
"""Characters of the longest reason that is published."""


class Metrics:
    EVERY = 2.0

    def __init__(self, bus: Bus, source: str) -> None:
        self._bus = bus
        self._source = source
        self._answered = 0
        self._failed = 0
        self._rerouted = 0

    def count(self, *, failed: bool, rerouted: bool) -> None:
        self._answered += not failed
        self._failed += failed
        self._rerouted += rerouted

    def tell(self, subject: str, message: OpenModel) -> None:
        """Publishes figures; those that cannot be sent are dropped."""
        self._bus.publish_soon(subject, message.to_bytes())

    def tell_all(
        self,
        registry: Registry,
        estimates: Estimates,
        *,
        inflight: int,
        waiting: int,
        outbox: Outbox,
        jobs: tuple[int, int | None],
        lag_s: float = 0.0,
    ) -> None:
        """The figures of the mesh, of each model and of each worker. `jobs`: in hand here, and waiting in all.

        `lag_s`: the longest standstill of this process of late.
        """
        now = utc_now()
        mesh = MeshMetrics(
            source=self._source,
            created_at=now,
            workers=len(registry),
            ready=sum(1 for worker in registry if not worker.obstacle),
            inflight=inflight,
            waiting=waiting,
            answered=self._answered,
            failed=self._failed,
            rerouted=self._rerouted,
            outbox_pending=outbox.pending,
            outbox_spooled_bytes=outbox.spooled_bytes,
            outbox_refused_ms=round(1000 * outbox.refused_for),
            outbox_refusal=outbox.trouble[:LONGEST_REASON],
            jobs_running=jobs[0],
            jobs_waiting=jobs[1],
            loop_lag_ms=round(lag_s * 1000, 1),
        )
        self.tell(METRICS_MESH, mesh)
        for worker in registry:
            beat = worker.heartbeat
            figures = WorkerMetrics.built(
                {
                    "source": self._source,
                    "created_at": now,
                    "worker_id": beat.worker_id,
                    "backend": beat.backend,
                    "state": worker.gone or ("failing" if worker.is_failing else beat.state),
                    "inflight": beat.inflight,
                    "queued": beat.queued,
                    "capacity": beat.capacity,
                    "answered": worker.answered,
                    "failed": worker.failed,
                    "ewma_ms": beat.ewma_ms,
                }
            )
            self.tell(metrics_worker(beat.worker_id), figures)
        serving = Counter(card.model_id for m in registry if not m.gone for card in m.heartbeat.models)
        for model_id, record in estimates.items():
            model = ModelMetrics(
                source=self._source,
                created_at=now,
                model_id=model_id,
                workers=serving[model_id],
                answered=record.answered,
                failed=record.failed,
                confidence=record.quality if record.answered else None,
                mean_ms=record.mean_ms,
            )
            self.tell(metrics_model(model_id), model)
