"""How a Manager tells of workers and budgets in `/metrics`: by name only what is known, and few enough."""

from types import SimpleNamespace
from typing import Any, cast

from contracts import Heartbeat, ModelCard, new_id, utc_now
from manager.figures import MOST_WORKERS, figures_of_workers
from manager.request.shared_state import SharedState
from manager.routing.grades import Grades
from manager.routing.registry import LATE, Registry


def beat(worker_id: str, model: str = "m", **changes: Any) -> Heartbeat:
    card = ModelCard(model_id=model, context_window=1000, local=True)
    told: dict[str, Any] = {"backend": "fake", "models": (card,), "state": "ready", "capacity": 4, "epoch": new_id()}
    return Heartbeat(**{"worker_id": worker_id, "seq": 1, "started_at": utc_now(), **told, **changes})


def shared(registry: Registry, now: float = 100.0) -> SharedState:
    return cast("SharedState", SimpleNamespace(registry=registry, grades=Grades(), now=lambda: now))


def told(registry: Registry, name: str, now: float = 100.0) -> dict[str, float]:
    """The values of a figure, by the label that tells them apart; without one, by nothing."""
    figures = [figure for figure in figures_of_workers(shared(registry, now)) if figure.name == name]
    return {dict(figure.labels).get("worker", dict(figure.labels).get("model", "")): figure.value for figure in figures}


def test_what_the_server_does_not_know_is_counted_and_not_named() -> None:
    registry = Registry(2.5)
    registry.hear(beat("known", "real"), 100.0, wall=0.0)
    for number in range(150):
        registry.hear(beat(f"stranger-{number}", f"made-up-{number}"), 100.0, wall=0.0, connected=False)
    assert told(registry, "worker_ready") == {"known": 1}
    assert told(registry, "model_capacity") == {"real": 4}
    assert told(registry, "model_grade") == {"known": 2}
    assert told(registry, "workers") == {"": 151}
    assert told(registry, "workers_untold") == {"": 150}


def test_of_thousands_of_workers_only_some_are_named() -> None:
    registry = Registry(2.5)
    for number in range(2000):
        registry.hear(beat(f"w-{number}"), 100.0, wall=0.0)
    assert len(told(registry, "worker_ready")) == MOST_WORKERS
    assert told(registry, "workers_ready") == {"": 2000}
    assert told(registry, "model_capacity") == {"m": 8000}


def test_a_worker_that_left_in_order_is_not_lost_and_one_that_died_is() -> None:
    registry = Registry(2.5)
    first = beat("w-1")
    for one in (first, beat("w-2")):
        registry.hear(one, 100.0, wall=0.0)
    registry.hear(first.model_copy(update={"state": "stopped", "seq": 2}), 100.5, wall=0.0)
    registry.leave("w-2", "disconnected")
    assert told(registry, "worker_lost") == {"w-1": 0, "w-2": 1}
    assert told(registry, "workers_ready") == {"": 0}
    assert told(registry, "model_capacity") == {}


def test_a_late_heartbeat_is_counted_and_its_age_shown() -> None:
    registry = Registry(2.5)
    first = beat("w-1")
    for seq, now in enumerate((100.0, 101.0, 102.0 + LATE, 103.0 + LATE), start=1):
        registry.hear(first.model_copy(update={"seq": seq}), now, wall=0.0)
    assert told(registry, "heartbeats_late_total", 110.0) == {"": 1}
    assert told(registry, "worker_heartbeat_age_seconds", 110.0) == {"w-1": 7.0 - LATE}
