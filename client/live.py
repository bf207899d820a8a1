"""Live figures, as Managers and accountants publish them every two seconds. Pure; the clock is passed in.

Each Manager reports the requests that it served. Counts are added up over the Managers; figures such as the requests
that wait belong to one Manager.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from contracts import MeshMetrics, ModelMetrics, TelemetryMetrics

SILENT_AFTER = 6.0
"""Seconds after which figures are out of date: three messages were missed."""

_SOURCES: TypeAdapter[MeshMetrics | TelemetryMetrics] = TypeAdapter(MeshMetrics | TelemetryMetrics)


@dataclass(slots=True)
class ManagerFigures:
    """One Manager's newest figures."""

    metrics: MeshMetrics
    heard: float
    per_second: float = 0.0
    """Requests answered or failed per second, between the last two messages."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    """One model's figures, over all Managers."""

    model_id: str
    workers: int
    answered: int
    failed: int
    mean_ms: float | None
    confidence: float | None


@dataclass(slots=True)
class LiveFigures:
    _managers: dict[str, ManagerFigures] = field(default_factory=dict)
    _accountants: dict[str, tuple[TelemetryMetrics, float]] = field(default_factory=dict)
    _models: dict[tuple[str, str], tuple[ModelMetrics, float]] = field(default_factory=dict)

    def hear_mesh(self, body: bytes, now: float) -> None:
        """Takes a message on `metrics.mesh`; one that cannot be read changes nothing."""
        try:
            metrics = _SOURCES.validate_json(body)
        except ValidationError:
            return
        if isinstance(metrics, MeshMetrics):
            self._managers[metrics.source] = ManagerFigures(metrics, now, self._pace(metrics))
        else:
            self._accountants[metrics.source] = metrics, now

    def hear_model(self, body: bytes, now: float) -> None:
        """Takes a message on `metrics.model.<model>`; one that cannot be read changes nothing."""
        try:
            metrics = ModelMetrics.model_validate_json(body)
        except ValidationError:
            return
        self._models[metrics.source, metrics.model_id] = metrics, now

    def forget(self, heard_before: float) -> None:
        """Drops the figures that came before that time."""
        self._managers = {name: one for name, one in self._managers.items() if one.heard >= heard_before}
        self._accountants = {name: one for name, one in self._accountants.items() if one[1] >= heard_before}
        self._models = {name: one for name, one in self._models.items() if one[1] >= heard_before}

    @property
    def managers(self) -> list[ManagerFigures]:
        """The Managers' figures, by id."""
        return sorted(self._managers.values(), key=lambda one: one.metrics.source)

    @property
    def accountants(self) -> list[TelemetryMetrics]:
        """The accountants' figures, by id."""
        return sorted((metrics for metrics, _ in self._accountants.values()), key=lambda one: one.source)

    @property
    def models(self) -> list[LiveModel]:
        """The models' figures, by id."""
        by_model: dict[str, list[ModelMetrics]] = {}
        for metrics, _ in self._models.values():
            by_model.setdefault(metrics.model_id, []).append(metrics)
        return [_together(model_id, by_model[model_id]) for model_id in sorted(by_model)]

    def _pace(self, metrics: MeshMetrics) -> float:
        before = self._managers.get(metrics.source)
        if before is None:
            return 0.0
        seconds = (metrics.created_at - before.metrics.created_at).total_seconds()
        done = metrics.answered + metrics.failed - before.metrics.answered - before.metrics.failed
        return done / seconds if seconds > 0 and done > 0 else 0.0


def _together(model_id: str, metrics: Iterable[ModelMetrics]) -> LiveModel:
    metrics = list(metrics)
    return LiveModel(
        model_id=model_id,
        workers=max(one.workers for one in metrics),
        answered=sum(one.answered for one in metrics),
        failed=sum(one.failed for one in metrics),
        mean_ms=_mean((one.mean_ms, one.answered) for one in metrics),
        confidence=_mean((one.confidence, one.answered) for one in metrics),
    )


def _mean(figures: Iterable[tuple[float | None, int]]) -> float | None:
    """The mean of the known values, each weighted by its number of answers."""
    known = [(figure, weight) for figure, weight in figures if figure is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(figure * weight for figure, weight in known) / total if total else None
