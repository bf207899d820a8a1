"""Who is here: heartbeats and departures in, workers out."""

from datetime import UTC, datetime

from contracts import Heartbeat, ModelCard, Rate, WorkerState
from manager.routing.registry import News, Registry


def beat(
    worker: str = "w", *, seq: int = 1, epoch: str = "e1", state: WorkerState = "ready", **changes: int
) -> Heartbeat:
    card = ModelCard(model_id="m", context_window=100, local=True)
    values = {"inflight": 0, "queued": 0, "capacity": 4, "interval_ms": 1000, **changes}
    return Heartbeat(
        worker_id=worker,
        backend="b",
        models=(card,),
        state=state,
        epoch=epoch,
        seq=seq,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        **values,
    )


def obstacle(registry: Registry, worker_id: str = "w") -> str:
    worker = registry.get(worker_id)
    assert worker is not None
    return worker.obstacle


def test_a_ready_worker_has_no_obstacle_and_the_others_say_why() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0)
    assert obstacle(registry) == ""
    registry.hear(beat(seq=2, state="draining").model_copy(update={"reason": "stopping"}), 1.0, wall=0.0)
    assert obstacle(registry) == "draining: stopping"


def test_when_all_lose_the_connection_at_once_they_are_waited_for_but_one_alone_is_not() -> None:
    registry = Registry(2.5)
    registry.hear(beat("a"), 0.0, wall=0.0)
    registry.leave("a", "disconnected", back_by=5.0)
    assert not registry.all_cut_off(1.0)
    registry.hear(beat("b"), 0.0, wall=0.0)
    registry.hear(beat("c"), 0.0, wall=0.0)
    registry.leave("b", "disconnected", back_by=5.0)
    assert not registry.all_cut_off(1.0)
    registry.leave("c", "disconnected", back_by=5.0)
    assert registry.all_cut_off(1.0)
    assert not registry.all_cut_off(5.0)


def test_silence_of_two_and_a_half_intervals_is_departure() -> None:
    registry = Registry(2.5)
    registry.hear(beat("a"), 0.0, wall=0.0)
    registry.hear(beat("b"), 2.0, wall=0.0)
    assert registry.sweep(2.45, 0.1) == []
    assert registry.sweep(2.55, 0.1) == ["a"]
    assert obstacle(registry, "a").startswith("silent for 2.5")
    assert registry.sweep(2.6, 0.1) == []  # told once


def test_the_next_beat_brings_a_silent_worker_back() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0)
    registry.leave("w", "disconnected")
    assert obstacle(registry) == "disconnected"
    registry.hear(beat(seq=2), 0.5, wall=0.0)
    assert obstacle(registry) == ""


def test_a_departure_is_news_only_once() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0)
    assert registry.leave("w", "disconnected")
    assert not registry.leave("w", "disconnected")
    assert not registry.leave("stranger", "disconnected")


def test_a_restart_voids_what_ran_in_the_old_life() -> None:
    registry = Registry(2.5)
    assert registry.hear(beat(epoch="e1"), 0.0, wall=0.0) is News.NONE
    assert registry.hear(beat(epoch="e2"), 0.5, wall=0.0) is News.VOID


def test_who_was_only_cut_off_is_back_the_same() -> None:
    registry = Registry(2.5)
    registry.hear(beat(seq=1), 0.0, wall=0.0)
    registry.leave("w", "disconnected")
    assert registry.hear(beat(seq=2), 0.5, wall=0.0) is News.BACK
    assert registry.hear(beat(seq=3), 1.5, wall=0.0) is News.NONE


def test_a_worker_whose_config_changed_starts_with_a_clean_slate() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0)
    worker = registry.get("w")
    assert worker is not None
    for _ in range(10):
        worker.breaker.failed(1.0, "no", probe=False)
    worker.paused_until, failing = 100.0, worker.breaker
    registry.hear(beat(seq=2), 1.0, wall=1.0)
    assert (worker.breaker, worker.paused_until) == (failing, 100.0)
    changed = beat(seq=3).model_copy(update={"config_digest": "another"})
    assert registry.hear(changed, 2.0, wall=2.0) is News.NONE
    assert (worker.breaker is failing, worker.paused_until) == (False, 0.0)


def test_beats_of_an_older_life_or_out_of_order_are_ignored() -> None:
    registry = Registry(2.5)
    registry.hear(beat(epoch="e2", seq=5), 0.0, wall=0.0)
    registry.hear(beat(epoch="e1", seq=9, state="draining"), 0.1, wall=0.0)
    registry.hear(beat(epoch="e2", seq=4, state="draining"), 0.2, wall=0.0)
    assert obstacle(registry) == ""


def test_load_counts_what_we_sent_since_the_last_beat() -> None:
    registry = Registry(2.5)
    registry.hear(beat(inflight=2), 0.0, wall=0.0)
    worker = registry.get("w")
    assert worker is not None
    worker.assigned = 1
    assert (worker.load, worker.free) == (3, 1)
    registry.hear(beat(seq=2, inflight=3), 1.0, wall=0.0)  # ours is among the three now
    assert (worker.load, worker.free) == (3, 1)
    worker.assigned = 0  # ours has ended since
    assert worker.load == 2


def test_when_most_fall_silent_at_once_it_is_our_ears() -> None:
    registry = Registry(2.5)
    for name in "abc":
        registry.hear(beat(name), 0.0, wall=0.0)
    assert registry.sweep(2.6, 0.1) == []
    assert registry.sweep(5.1, 2.5) == ["a", "b", "c"]  # but not for ever


def test_a_sleep_of_our_own_excuses_everybody() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0)
    registry.sweep(1.0, 0.1)
    assert registry.sweep(6.0, 0.1) == []  # we slept five seconds: nobody's silence counts
    assert registry.sweep(6.1, 0.1) == []


def test_a_stopped_worker_is_forgotten_after_a_while() -> None:
    registry = Registry(2.5)
    registry.hear(beat(state="stopped"), 0.0, wall=0.0)
    registry.sweep(30.0, 30.0)
    assert registry.get("w") is not None
    registry.sweep(61.0, 31.0)
    assert registry.get("w") is None


def rated(seq: int, left: int) -> Heartbeat:
    return beat(seq=seq).model_copy(update={"rate": Rate(rpm_limit=20, rpm_left=left, tpm_limit=1000, tpm_left=900)})


def test_a_heartbeat_that_crossed_requests_on_their_way_gives_no_more_than_the_limit() -> None:
    """It says what is left of the limit as the worker knew it before them."""
    registry = Registry(2.5)
    registry.hear(rated(1, left=2), 0.0, wall=0.0)
    worker = registry.get("w")
    assert worker is not None
    first, second = worker.spend(100.0), worker.spend(100.0)
    registry.hear(rated(2, left=2), 1.0, wall=1.0)
    assert worker.short_of(1.0) == "requests"
    first.known = True  # it said something about the first one: what it says from now on counts it
    assert worker.short_of(1.0) == "requests"
    registry.hear(rated(3, left=1), 2.0, wall=2.0)
    assert worker.short_of(1.0) == "requests"
    second.known = True
    registry.hear(rated(4, left=20), 3.0, wall=3.0)
    assert worker.short_of(900.0) == ""
    worker.spend(100.0)
    assert worker.short_of(801.0) == "tokens"


def test_a_restarted_worker_knows_nothing_of_what_was_sent_to_its_predecessor() -> None:
    registry = Registry(2.5)
    registry.hear(rated(1, left=1), 0.0, wall=0.0)
    worker = registry.get("w")
    assert worker is not None
    worker.spend(100.0)
    assert worker.short_of(1.0) == "requests"
    registry.hear(rated(2, left=1).model_copy(update={"epoch": "e2"}), 1.0, wall=1.0)
    assert worker.short_of(1.0) == ""
