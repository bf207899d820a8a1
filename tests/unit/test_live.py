"""What Managers and accountants tell, put together."""

from datetime import UTC, datetime, timedelta

import pytest

from client import LiveFigures
from contracts import MeshMetrics, ModelMetrics, TelemetryMetrics

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def mesh(source: str, at: float, answered: int, failed: int = 0) -> bytes:
    told = {"workers": 2, "ready": 2, "inflight": 1, "waiting": 0, "rerouted": 0}
    when = NOON + timedelta(seconds=at)
    return MeshMetrics(source=source, created_at=when, answered=answered, failed=failed, **told).to_bytes()


def model(source: str, answered: int, mean_ms: float | None, confidence: float | None) -> bytes:
    told = {"created_at": NOON, "model_id": "m", "workers": 2, "failed": 1}
    return ModelMetrics(source=source, answered=answered, mean_ms=mean_ms, confidence=confidence, **told).to_bytes()


def test_how_many_a_manager_does_in_a_second_is_seen_from_two_tellings() -> None:
    live = LiveFigures()
    live.hear_mesh(mesh("m-1", 0, 10), 0.0)
    live.hear_mesh(mesh("m-2", 0, 500), 0.1)
    assert [one.per_second for one in live.managers] == [0.0, 0.0]
    live.hear_mesh(mesh("m-1", 2, 28, failed=2), 2.0)
    assert [(one.metrics.source, one.per_second) for one in live.managers] == [("m-1", 10.0), ("m-2", 0.0)]
    live.hear_mesh(mesh("m-1", 4, 3), 4.0)  # it was restarted: its count began anew
    assert live.managers[0].per_second == 0.0


def test_a_model_is_what_all_managers_know_of_it_each_as_much_as_it_has_seen() -> None:
    live = LiveFigures()
    live.hear_model(model("m-1", 30, 100.0, 0.8), 0.0)
    live.hear_model(model("m-2", 10, 300.0, None), 0.0)
    live.hear_model(model("m-3", 0, None, None), 0.0)
    (one,) = live.models
    assert (one.workers, one.answered, one.failed, one.mean_ms) == (2, 40, 3, 150.0)
    assert one.confidence == pytest.approx(0.8)


def test_who_is_silent_is_forgotten_and_rubbish_is_not_heard() -> None:
    live = LiveFigures()
    live.hear_mesh(mesh("m-1", 0, 10), 0.0)
    live.hear_mesh(TelemetryMetrics(source="t-1", created_at=NOON, stored=3, per_second=1.5, dead=0).to_bytes(), 1.0)
    live.hear_model(model("m-1", 1, None, None), 0.0)
    live.hear_mesh(b"rubbish", 2.0)
    live.hear_model(b"{}", 2.0)
    assert ([one.stored for one in live.accountants], len(live.models)) == ([3], 1)
    live.forget(heard_before=0.5)
    assert (live.managers, [one.source for one in live.accountants], live.models) == ([], ["t-1"], [])
