"""Who is here: heartbeats and departures in, workers out."""

import random
from datetime import UTC, datetime

from contracts import Heartbeat, ModelCard, Rate, WorkerState
from manager.routing.registry import MOST_STRANGERS, STRANGERS_BELIEVED, News, Registry


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


# Whose id it is


def test_a_worker_with_a_subject_of_its_own_is_heard_there_only() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0, named=True)
    assert registry.hear(beat(epoch="zzz", seq=10**9, state="stopped"), 0.5, wall=0.0) is News.NONE
    assert obstacle(registry) == ""
    assert registry.hear(beat(seq=2), 1.0, wall=0.0, named=True) is News.NONE
    assert registry.get("w") is not None


def test_what_was_said_in_a_worker_s_name_before_it_spoke_itself_counts_for_nothing() -> None:
    registry = Registry(2.5)
    registry.hear(beat(epoch="zzz", seq=10**9, capacity=0), 0.0, wall=0.0)
    registry.hear(beat(epoch="e1", seq=1), 0.1, wall=0.0, named=True)
    assert obstacle(registry) == ""
    assert registry.hear(beat(epoch="zzzz", seq=10**9 + 1), 0.2, wall=0.0) is News.NONE
    found = registry.get("w")
    assert found is not None
    assert found.heartbeat.epoch == "e1"


def test_an_older_worker_that_speaks_on_the_open_subject_only_is_heard_after_the_one_with_its_id_has_left() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0, named=True)
    registry.leave("w", "disconnected")
    registry.hear(beat(epoch="e2", seq=1), 1.0, wall=0.0)
    assert obstacle(registry) == ""


def test_an_id_belongs_to_one_backend_as_long_as_its_worker_lives() -> None:
    registry = Registry(2.5)
    registry.hear(beat(), 0.0, wall=0.0, named=True)
    rival = beat(epoch="zzz").model_copy(update={"backend": "rival"})
    assert registry.hear(rival, 0.5, wall=0.0, named=True) is News.REFUSED
    assert obstacle(registry) == ""
    registry.leave("w", "disconnected")
    assert registry.hear(rival, 1.0, wall=0.0, named=True) is News.VOID


# Workers that no one knows


def crowd(registry: Registry, count: int) -> list[News]:
    return [registry.hear(beat(f"fake-{n}"), 0.0, wall=0.0, connected=False) for n in range(count)]


def test_ten_thousand_made_up_ids_take_little_room_and_no_worker_s_place() -> None:
    registry, rng = Registry(2.5), random.Random(1)
    registry.hear(beat("real"), 0.0, wall=0.0)
    heard = crowd(registry, 10_000)
    assert heard.count(News.REFUSED) == 10_000 - MOST_STRANGERS
    assert len(registry) == MOST_STRANGERS + 1
    pools = [registry.pool(rng) for _ in range(1000)]
    alone = sum([worker.worker_id for worker in pool] == ["real"] for pool in pools)
    assert 850 < alone < 950
    assert max(map(len, pools)) == STRANGERS_BELIEVED + 1
    assert [worker.worker_id for worker in registry.drawn(12, rng)] == ["real"]


def test_a_few_workers_without_a_name_at_the_server_are_taken_at_their_word() -> None:
    registry = Registry(2.5)
    registry.hear(beat("real"), 0.0, wall=0.0)
    crowd(registry, STRANGERS_BELIEVED)
    assert len(registry.pool(random.Random(1))) == STRANGERS_BELIEVED + 1


def test_a_crowd_is_asked_when_no_worker_is_known() -> None:
    registry = Registry(2.5)
    crowd(registry, 100)
    assert len(registry.pool(random.Random(1))) == STRANGERS_BELIEVED


def test_a_stranger_becomes_known_by_its_connection_or_by_a_request_that_it_takes() -> None:
    registry = Registry(2.5)
    crowd(registry, 100)
    registry.vouch({"worker:b:fake-1", "worker:other:fake-2", "client"})
    third = registry.get("fake-3")
    assert third is not None
    registry.took_request(third)
    registry.hear(beat("fake-4", seq=2), 1.0, wall=0.0, connected=True)
    known = {worker.worker_id for worker in registry if not worker.stranger}
    assert known == {"fake-1", "fake-3", "fake-4"}


def test_strangers_that_are_silent_make_room_for_others() -> None:
    registry = Registry(2.5)
    crowd(registry, MOST_STRANGERS)
    for at in (10.0, 80.0):
        registry.sweep(at, every=70.0)
    assert len(registry) == 0
    assert registry.hear(beat("late"), 81.0, wall=0.0, connected=False) is News.NONE


def test_what_is_known_of_a_model_goes_with_it() -> None:
    registry = Registry(2.5)
    for seq in range(1, 200):
        card = ModelCard(model_id=f"m{seq}", context_window=100, local=True)
        registry.hear(beat(seq=seq).model_copy(update={"models": (card,)}), 0.0, wall=0.0)
        found = registry.get("w")
        assert found is not None
        found.model(f"m{seq}")
        assert len(found.models) <= 2
