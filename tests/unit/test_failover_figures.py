"""The arithmetic of `benchmarks failover`: what its table says follows from the answers and the decisions."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.failover import Row, judged
from benchmarks.failover.faults import killed
from benchmarks.failover.figures import Round, figures, spread
from benchmarks.failover.stage import Call
from contracts import RouteDecision, Terms

START = 1_800_000_000.0
ROW = Row("killed", killed, 50, "added median")


def decision(task_id: str, at: float, winner: str, *, attempt: int = 1, manager: str = "manager-1") -> RouteDecision:
    weights = Terms(cost=1, confidence=1, load=1, resources=1)
    when = datetime.fromtimestamp(START + at, UTC)
    return RouteDecision(
        manager_id=manager,
        request_id=task_id,
        task_id=task_id,
        attempt=attempt,
        policy="balanced",
        weights=weights,
        winner=winner,
        model_id="m",
        candidates=(),
        created_at=when,
    )


def call(task_id: str, sent: float, answered: float | None = None, *, finals: int = 1, **told: Any) -> Call:
    asked = Call(task_id, START + sent)
    if answered is not None:
        asked.answered = START + answered
        asked.finals = [told or {"output": "well"}] * finals
    return asked


def a_round(calls: list[Call], decisions: list[RouteDecision], *, fault: float | None = None) -> Round:
    routes: dict[str, list[RouteDecision]] = {}
    for one in decisions:
        routes.setdefault(one.task_id, []).append(one)
    return Round(calls, routes, frozenset(["victim"]), 0.4, START + fault if fault is not None else 0.0)


def test_times_count_from_the_fault_and_only_for_what_was_at_the_victim() -> None:
    calls = [call("a", 0, 0.62), call("b", 0, 0.64), call("c", 0, 0.40)]
    decisions = [
        *(decision("a", 0.0, "victim"), decision("a", 0.21, "other", attempt=2)),
        *(decision("b", 0.0, "victim"), decision("b", 0.23, "other", attempt=2)),
        decision("c", 0.0, "other"),
    ]
    found = figures([a_round(calls, decisions, fault=0.2)])
    assert (found["requests"], found["lost"], found["rerouted"]) == (3, 0, 2)
    assert found["reroute_ms"] == {"median": pytest.approx(20.0), "max": pytest.approx(30.0)}
    assert found["added_ms"] == {"median": pytest.approx(30.0), "max": pytest.approx(40.0)}


def test_a_worker_that_was_bad_from_the_start_counts_from_the_question() -> None:
    decisions = [decision("a", 0.001, "victim"), decision("a", 0.256, "other", attempt=2)]
    found = figures([a_round([call("a", 0, 0.7)], decisions)])
    assert found["reroute_ms"]["max"] == pytest.approx(255.0)
    assert found["added_ms"]["max"] == pytest.approx(300.0)


def test_a_question_asked_after_the_fault_does_not_count_the_time_before_it() -> None:
    decisions = [decision("a", 0.5, "victim"), decision("a", 0.503, "other", attempt=2)]
    found = figures([a_round([call("a", 0.5, 0.91)], decisions, fault=0.1)])
    assert found["reroute_ms"]["max"] == pytest.approx(3.0)
    assert found["added_ms"]["max"] == pytest.approx(10.0)


def test_a_manager_is_a_victim_too() -> None:
    decisions = [
        decision("a", 0.0, "worker", manager="victim"),
        decision("a", 1.7, "worker", manager="manager-2"),
    ]
    found = figures([a_round([call("a", 0, 2.1)], decisions, fault=0.2)])
    assert found["rerouted"] == 1
    assert found["reroute_ms"]["max"] == pytest.approx(1500.0)


def test_an_error_and_silence_are_lost_and_a_second_answer_is_told() -> None:
    calls = [
        call("a", 0, 0.4),
        call("b", 0, 0.4, error={"code": "no_worker", "message": "nobody"}),
        call("c", 0),
        call("d", 0, 0.4, finals=2),
    ]
    found = figures([a_round(calls, [])])
    assert (found["lost"], found["twice"]) == (2, 1)
    assert found["errors"] == ["no_worker: nobody", "silence"]


def test_each_may_have_its_own_fault() -> None:
    decisions = [decision("a", 0.0, "victim"), decision("a", 0.034, "other", attempt=2)]
    one = a_round([call("a", 0, 0.45)], decisions)
    one.faults["a"] = START + 0.03
    found = figures([one])
    assert found["reroute_ms"]["max"] == pytest.approx(4.0)
    assert found["added_ms"]["max"] == pytest.approx(20.0)


def test_every_request_is_counted_only_when_asked_for() -> None:
    one = a_round([call("a", 0, 0.41), call("b", 0, 0.43)], [decision("a", 0, "other"), decision("a", 0.1, "victim")])
    assert figures([one])["added_ms"] == figures([one])["reroute_ms"] == {"median": None, "max": None}
    found = figures([one], everybody=True)
    assert found["rerouted"] == 0
    assert found["added_ms"] == {"median": pytest.approx(20.0), "max": pytest.approx(30.0)}


def test_rounds_are_taken_together() -> None:
    quick = a_round([call("a", 0, 0.41)], [])
    slow = a_round([call("b", 0, 0.50), call("c", 0, 0.60)], [])
    found = figures([quick, slow], everybody=True)
    assert (found["requests"], found["rounds"]) == (3, 2)
    assert found["added_ms"] == {"median": pytest.approx(100.0), "max": pytest.approx(200.0)}


def test_median_and_maximum() -> None:
    assert spread([]) == {"median": None, "max": None}
    assert spread([5.0]) == {"median": 5.0, "max": 5.0}
    assert spread([9.0, 1.0, 2.0, 4.0]) == {"median": 3.0, "max": 9.0}


def test_a_row_holds_only_within_its_bound_with_nothing_lost_nothing_twice_and_no_trouble() -> None:
    decisions = [decision("a", 0.0, "victim"), decision("a", 0.02, "other", attempt=2)]
    good = figures([a_round([call("a", 0, 0.45)], decisions)])
    assert good["added_ms"]["median"] == pytest.approx(50.0)
    assert judged(ROW, good)["holds"]
    assert not judged(ROW, {**good, "added_ms": {"median": 50.1, "max": 50.1}})["holds"]
    assert not judged(ROW, {**good, "lost": 1})["holds"]
    assert not judged(ROW, {**good, "twice": 1})["holds"]
    assert not judged(ROW, good, "it did not start")["holds"]
    assert not judged(ROW, figures([]))["holds"]


def test_a_row_without_reroutes_shows_nothing_unless_none_is_expected() -> None:
    spared = figures([a_round([call("a", 0, 0.41)], [])], everybody=True)
    assert not judged(ROW, spared)["holds"]
    assert judged(replace(ROW, gentle=True), spared)["holds"]
