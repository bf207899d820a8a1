"""A stand-in answers only while no other model is ready that could answer the same request."""

import random
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks.routing.ours import Clocked
from bus.delivered import Delivered
from config.loader import load_config
from contracts import Capability, InferenceRequest, ModelGrades, Piece, Policy
from manager.config import DEFAULT_POLICIES
from manager.request.attempt import Attempt
from manager.request.events import Gone
from manager.request.retry_policy import Ask
from manager.request.selection import WorkerSelector
from manager.routing.estimates import Estimates
from manager.routing.filters import RejectReason
from manager.routing.grades import Grades
from manager.routing.query import Choice, Excluded, RoutingQuery
from manager.routing.ranking import Ranking, rank
from manager.routing.registry import WorkerView
from manager.routing.stand_ins import MOMENT
from tests.unit.test_costs import NOW, answer, inflight
from tests.unit.test_ranking import DEAR, ROOT, choose, winner, worker
from workers.base import ModelConfig
from workers.local.backend import LocalConfig

ABLE: tuple[Capability, ...] = ("chat", "stream", "tools")
WHY = "stands in only until another model is ready"


def toy(name: str = "toy", **changes: Any) -> WorkerView:
    """Quick, cheap, and idle: it would win by its score."""
    return worker(name, **{"model": "toy", "stand_in": True, "ewma_ms": 50, "backend": "local", **changes})


def other(**changes: Any) -> WorkerView:
    """Slow, dear, and a real model."""
    usual = {"model": "o", "price": DEAR, "local": False, "ewma_ms": 2000, "capabilities": ABLE}
    return worker("other", **{**usual, **changes})


def asked(*workers: WorkerView, **query: Any) -> Ranking:
    question = replace(RoutingQuery.of(InferenceRequest(prompt="hello")), **query)
    return rank(question, workers, Estimates(), DEFAULT_POLICIES["balanced"], now=0.0, rng=random.Random(1))


def reasons(ranking: Ranking) -> dict[str, str | None]:
    return {candidate.worker_id: candidate.passed_over for candidate in ranking.candidates}


@pytest.mark.parametrize("policy", ["balanced", "cheapest", "fastest", "best"])
def test_it_steps_back_for_any_other_model_whatever_the_policy(policy: Policy) -> None:
    assert winner(choose(toy(), worker("equal", model="e", stand_in=False, ewma_ms=5000), policy=policy)) == "equal"
    ranking = choose(toy(), other(), policy=policy)
    assert winner(ranking) == "other"
    assert reasons(ranking) == {"toy": WHY, "other": None}
    assert not ranking.stands_in


def test_alone_it_answers_and_so_does_the_better_of_two() -> None:
    assert winner(choose(toy())) == "toy"
    both = choose(toy("slow", ewma_ms=9000), toy("quick", model="t2"))
    assert winner(both) == "quick" and both.stands_in
    assert set(reasons(both).values()) == {None}


def test_who_names_its_model_or_backend_gets_it() -> None:
    for ranking in (
        choose(toy(), other(), model="toy"),
        choose(toy(), other(), model="toy-alias"),
        choose(toy(), other(), backend="local"),
    ):
        assert winner(ranking) == "toy" and not ranking.stands_in
    at_home = worker("home", model="h", ewma_ms=5000, backend="local")
    assert winner(choose(toy(), at_home, backend="local")) == "toy"
    assert choose(toy(), other(), model="o").winner is not None


@pytest.mark.parametrize(
    ("changes", "request_"),
    [
        ({"state": "draining"}, {}),
        ({"state": "starting"}, {}),
        ({"capacity": 0}, {}),
        ({"window": 10}, {"prompt": "x" * 400}),
        ({"capabilities": ("embed",)}, {}),
        ({}, {"policy": "local_only"}),
        ({}, {"max_cost_usd": 0.00005}),
        ({"price": None}, {"max_cost_usd": 1.0}),
    ],
)
def test_it_answers_where_the_other_cannot(changes: dict[str, Any], request_: dict[str, Any]) -> None:
    assert winner(choose(toy(), other(**changes), **request_)) == "toy"


def test_it_answers_again_when_the_other_is_gone_or_fails() -> None:
    gone, failing = other(), other()
    gone.gone = "disconnected"
    assert winner(choose(toy(), gone)) == "toy"
    for _ in range(5):
        failing.breaker.failed(0.0, "upstream_error", probe=False)
    assert winner(choose(toy(), failing)) == "toy"
    assert winner(choose(toy(), failing, now=60.0)) == "other"


def test_a_moment_in_the_queue_is_better_than_its_answer_but_not_a_missed_deadline() -> None:
    full = other(inflight=4)
    assert asked(toy(), full, left_s=60.0).reason is RejectReason.FULL
    assert winner(asked(toy(), full, left_s=2.0)) == "toy"
    assert winner(asked(toy(), full, left_s=60.0, waiting=1000)) == "toy"
    assert winner(asked(toy(), other(ewma_ms=30_000), left_s=10.0)) == "toy", "free, but too slow"


def test_a_short_pause_is_waited_for_a_long_one_is_not() -> None:
    resting = other()
    resting.paused_until = MOMENT - 1
    assert choose(toy(), resting).reason is RejectReason.PAUSED
    resting.paused_until = MOMENT + 1
    assert winner(choose(toy(), resting)) == "toy"


def test_one_that_was_tried_may_only_have_been_full_the_second_look_says_so() -> None:
    tried = Excluded(workers=frozenset({"other"}))
    assert asked(toy(), other(), excluded=tried).reason is RejectReason.EXHAUSTED
    assert winner(asked(toy(), other(), excluded=tried, include_full=True)) == "toy", "it has failed this request"
    was_full = other()
    was_full.said_full = True
    assert asked(toy(), was_full, include_full=True).reason is RejectReason.FULL


def test_a_stand_in_is_not_asked_for_a_surer_answer_or_a_hedge() -> None:
    """A cascade (`min_confidence`) and a hedge, whose candidates may not even name the other model."""
    unsure = asked(toy(), other(), unsure=frozenset({"o"}), confidence=0.3, other_model_at_it=True, include_full=True)
    assert unsure.winner is None
    assert asked(toy(), other_model_at_it=True).reason is RejectReason.STAND_IN
    its_own = asked(toy(), toy("t2", model="t2"), unsure=frozenset({"toy"}), confidence=0.3)
    assert winner(its_own) == "t2"
    assert winner(asked(toy(), other(), unsure=frozenset({"toy"}), confidence=0.3)) == "other"


def test_grades_are_asked_after_it_has_stepped_back() -> None:
    """Else a new model, which gets a tenth of what it would win, would leave nine questions of ten to a toy."""
    grades = Grades()
    grades.learn(ModelGrades(model_id="toy", workers={"toy": "regular"}))
    grades.learn(ModelGrades(model_id="o", workers={"other": "probation"}))
    query, weights = RoutingQuery.of(InferenceRequest(prompt="hello")), DEFAULT_POLICIES["balanced"]
    for seed in range(50):
        rng = random.Random(seed)
        ranking = rank(query, [toy(), other()], Estimates(), weights, now=0.0, rng=rng, grades=grades)
        assert winner(ranking) == "other"


def test_among_many_workers_every_ready_model_keeps_the_stand_in_back() -> None:
    """Of so many only a few are drawn by lot; the one that is ready may be none of them."""
    shared = Clocked(random.Random(1))
    leaving = other(state="draining").heartbeat
    for number in range(40):
        shared.registry.hear(toy(f"toy-{number}").heartbeat, 0.0, wall=0.0)
        shared.registry.hear(leaving.model_copy(update={"worker_id": f"o-{number}"}), 0.0, wall=0.0)
    query = RoutingQuery.of(InferenceRequest(prompt="hello"))
    assert winner(shared.rank(query, "balanced")).startswith("toy")
    shared.registry.hear(other().heartbeat, 0.0, wall=0.0)
    assert {winner(shared.rank(query, "balanced")) for _ in range(30)} == {"other"}


def test_it_does_not_go_on_with_another_model_s_stream_that_could_start_anew() -> None:
    """Only the stand-in can go on after a begun answer; the other model's answer from the start is better."""
    shared, request = Clocked(random.Random(1)), inflight()
    delivered = Delivered()
    delivered.take(Piece("Once upon"))
    request.reply = Mock(delivered=delivered, streaming=True)
    shared.registry.hear(toy(capabilities=("chat", "stream", "prefill")).heartbeat, 0.0, wall=0.0)
    selector = WorkerSelector(shared, request)
    assert request.continuable and winner(selector.rank(Ask())) == "toy"
    shared.registry.hear(other().heartbeat, 0.0, wall=0.0)
    assert winner(selector.rank(Ask())) == "other"


@pytest.mark.parametrize(
    ("stand_in", "answers", "then"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_a_request_says_whether_another_model_is_at_it(stand_in: bool, answers: bool, then: bool) -> None:
    one = worker("w", stand_in=stand_in)
    query = RoutingQuery.of(InferenceRequest(prompt="hello"))
    tried = Attempt(1, Choice(one, one.heartbeat.models[0]), 100.0, NOW, query)
    request = inflight(tried)
    assert request.other_model_at_it is not stand_in, "while it is at it"
    tried.on(answer(10, 5, None) if answers else Gone("gone"), 102.0)
    assert request.query(Ask(), 102.0, ahead=0, has_queued=False).other_model_at_it is then


def test_only_the_bundled_model_stands_in_by_default() -> None:
    shipped = load_config(LocalConfig, "local", ROOT / "workers" / "local" / "config.yaml", {})
    for config in (shipped, LocalConfig()):
        assert config.models[0].card(local=True).stand_in
    assert not ModelConfig(name="mine").card(local=True).stand_in
