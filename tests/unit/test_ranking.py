"""Who should answer: the terms, the obstacles, and that the explanation adds up."""

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from config.loader import load_config
from contracts import (
    Candidate,
    Gpu,
    Heartbeat,
    InferenceRequest,
    InferenceResponse,
    ModelCard,
    ModelGrades,
    Policy,
    Price,
    Resources,
    Terms,
    utc_now,
)
from manager.config import DEFAULT_POLICIES, Weights
from manager.routing import scorers
from manager.routing.estimates import Estimates
from manager.routing.filters import RejectReason
from manager.routing.forecast import Prospect
from manager.routing.grades import Grades
from manager.routing.query import RoutingQuery
from manager.routing.ranking import Ranking, rank
from manager.routing.registry import WorkerView
from manager.routing.scorers import TermValues, score
from tests.unit.test_registry import beat
from workers.local.backend import LocalConfig

ROOT = Path(__file__).resolve().parents[2]

CHEAP = Price(input_per_mtok=Decimal("0.01"), output_per_mtok=Decimal("0.05"))
DEAR = Price(input_per_mtok=Decimal(5), output_per_mtok=Decimal(25))


def worker(
    name: str, *, model: str = "m", price: Price | None = CHEAP, local: bool = True, **changes: Any
) -> WorkerView:
    card = ModelCard(
        model_id=model,
        aliases=(f"{model}-alias",),
        context_window=changes.pop("window", 1000),
        capabilities=changes.pop("capabilities", ("chat", "stream")),
        price=price,
        local=local,
        stand_in=changes.pop("stand_in", False),
    )
    heartbeat: Heartbeat = beat(name).model_copy(update={"models": (card,), **changes})
    return WorkerView(heartbeat, 0.0)


def choose(*workers: WorkerView, estimates: Estimates | None = None, now: float = 0.0, **asked: Any) -> Ranking:
    request = InferenceRequest(**{"prompt": "hello", **asked})
    weights = DEFAULT_POLICIES[request.policy]
    return rank(RoutingQuery.of(request), workers, estimates or Estimates(), weights, now=now, rng=random.Random(1))


def winner(ranking: Ranking) -> str:
    assert ranking.winner is not None, ranking.reasons
    return ranking.winner.worker.worker_id


def test_a_worker_without_capacity_is_passed_over() -> None:
    closed = worker("closed", capacity=0)
    assert winner(choose(closed, worker("open"))) == "open"
    alone = choose(closed)
    assert (alone.winner, alone.reason) == (None, RejectReason.UNABLE)
    assert alone.reasons == ("closed: takes nothing now (capacity 0)",)


@pytest.mark.parametrize(
    "field",
    [{"capacity": -1}, {"inflight": -1}, {"queued": -1}, {"ewma_ms": -1.0}, {"interval_ms": 0}, {"pause_ms": -1}],
)
def test_a_heartbeat_with_impossible_figures_is_invalid(field: dict[str, float]) -> None:
    told = beat("w").model_dump(mode="json")
    with pytest.raises(ValidationError, match=next(iter(field))):
        Heartbeat.model_validate({**told, **field})


def test_an_older_config_means_what_it_meant_lateness_counts_by_the_weight_of_load() -> None:
    four = {"cost": 10.0, "confidence": 0.3, "load": 2.0, "resources": 0.1}
    assert Weights.model_validate(four).lateness == 50.0
    assert Weights.model_validate({**four, "load": 0}).lateness == 0.0
    assert Weights.model_validate({**four, "lateness": 7}).lateness == 7.0
    for wrong in ({"lateness": -1}, {"cost": -0.1}, {"speed": 1}, {"load": "much"}, {"cost": None}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Weights.model_validate({**four, **wrong})


def test_the_score_of_an_older_event_can_still_be_worked_out() -> None:
    """Lateness was a part of load then, and had neither a term nor a weight of its own."""
    terms = Terms.model_validate_json('{"cost": 0.5, "confidence": 0.2, "load": 13.4, "resources": 0.0}')
    weights = Terms.model_validate_json('{"cost": 1.0, "confidence": 1.0, "load": 1.0, "resources": 0.3}')
    assert score(TermValues.of(terms), TermValues.of(weights)) == 14.1
    today = Terms(cost=0.5, confidence=0.2, load=0.9, resources=0.0, lateness=0.5)
    assert score(TermValues.of(today), TermValues.of(DEFAULT_POLICIES["balanced"])) == 14.1


def test_the_terms_are_named_alike_on_the_wire_and_in_the_code() -> None:
    assert TermValues._fields == tuple(Terms.model_fields) == tuple(Weights.model_fields)
    assert all(callable(getattr(scorers, name)) for name in TermValues._fields)


@given(
    usd=st.none() | st.floats(0, 1e6),
    good=st.floats(0.01, 1),
    seconds=st.floats(0, 1e6),
    left_s=st.floats(-10, 1e6) | st.just(inf),
    percent=st.floats(0, 10_000),
    used=st.integers(0, 2**50),
)
def test_every_term_lies_between_0_and_1(
    usd: float | None, good: float, seconds: float, left_s: float, percent: float, used: int
) -> None:
    gpus = tuple(Gpu(name="g", memory_used=used, memory_total=total, utilization=0.0) for total in (0, 2**40))
    resources = Resources(cpu_percent=percent, memory_used=used, memory_limit=2**40, gpus=gpus)
    heartbeat = beat("w").model_copy(update={"resources": resources})
    terms = scorers.terms(Prospect(usd, good, seconds, left_s, heartbeat))
    assert all(0 <= term <= 1 for term in terms)


def test_cheapest_takes_the_cheap_one_and_best_the_proven_one() -> None:
    estimates = Estimates()
    for _ in range(30):
        estimates.of("good").learn(0.95)
        estimates.of("poor").learn(0.3)
    good, poor = worker("g", model="good", price=DEAR, local=False), worker("p", model="poor", price=CHEAP)
    assert winner(choose(good, poor, estimates=estimates, policy="cheapest")) == "p"
    assert winner(choose(good, poor, estimates=estimates, policy="best")) == "g"


def test_fastest_takes_the_quick_one() -> None:
    assert winner(choose(worker("slow", ewma_ms=4000), worker("quick", ewma_ms=100), policy="fastest")) == "quick"


def test_a_new_worker_is_hoped_to_be_as_quick_as_its_quickest_peer() -> None:
    known, new = worker("known", ewma_ms=200, inflight=1), worker("new")
    assert winner(choose(known, new, policy="fastest")) == "new"


def answered(estimates: Estimates, worker: str, service_ms: float, others: float = 0.0) -> None:
    answer = InferenceResponse(
        task_id="t",
        request_id="r",
        model_id="m",
        backend="simulated",
        worker_id=worker,
        output="Paris",
        prompt_tokens=2,
        completion_tokens=32,
        tokens_used=34,
        duration_ms=service_ms,
        ttft_ms=10.0,
        confidence=0.8,
        confidence_source="logprobs",
        finish_reason="stop",
        cost_usd=None,
        created_at=utc_now(),
    )
    for _ in range(20):
        estimates.answered(answer, service_ms, 2, 0.0, others=others)


def burst(estimates: Estimates, *, count: int = 50, capacity: int = 64) -> Counter[str]:
    """So many questions in the same instant for two workers: who gets how many."""
    workers = [worker(name, capacity=capacity) for name in ("a", "b")]
    question, weights, rng = (
        RoutingQuery.of(InferenceRequest(prompt="hello")),
        DEFAULT_POLICIES["balanced"],
        random.Random(1),
    )
    won: Counter[str] = Counter()
    for _ in range(count):
        ranking = rank(question, workers, estimates, weights, now=0.0, rng=rng)
        assert ranking.winner is not None
        ranking.winner.worker.assigned += 1
        won[ranking.winner.worker.worker_id] += 1
    return won


def test_equals_share_a_burst_before_anything_is_known_of_them() -> None:
    assert min(burst(Estimates()).values()) >= 15


def test_equal_workers_share_a_burst() -> None:
    """Who was busy took longer for that; it must not be left out of the next burst, and the other one after that."""
    estimates = Estimates()
    answered(estimates, "a", 100.0)
    answered(estimates, "b", 175.0, others=0.75)
    assert min(burst(estimates).values()) >= 15


def test_who_is_a_little_quicker_does_not_get_all_of_a_burst() -> None:
    estimates = Estimates()
    answered(estimates, "a", 100.0)
    answered(estimates, "b", 130.0)
    assert burst(estimates)["b"] >= 10


def test_the_less_loaded_of_equals_wins() -> None:
    assert winner(choose(worker("busy", inflight=3), worker("idle"))) == "idle"


def test_an_unknown_price_counts_as_dear_where_a_bill_may_come() -> None:
    unknown = worker("unknown", price=None, local=False)
    assert winner(choose(unknown, worker("known", price=DEAR, local=False), policy="cheapest")) == "known"


def test_a_local_model_without_a_price_is_cheap() -> None:
    unpriced = worker("unpriced", model="unpriced", price=None)
    assert winner(choose(unpriced, worker("dear", price=DEAR, local=False), policy="cheapest")) == "unpriced"
    assert winner(choose(unpriced, max_cost_usd=0.01)) == "unpriced"
    assert choose(worker("remote", price=None, local=False), max_cost_usd=0.01).reason is RejectReason.BUDGET


@pytest.mark.parametrize("policy", ["cheapest", "best", "balanced"])
def test_a_price_never_decides_between_the_bundled_model_and_a_local_one_without(policy: Policy) -> None:
    card = load_config(LocalConfig, "local", ROOT / "workers" / "local" / "config.yaml", {}).models[0].card(local=True)
    ranking = choose(worker("unpriced", price=None), worker("bundled", model="toy", price=card.price), policy=policy)
    costs = {candidate.worker_id: candidate.terms and candidate.terms.cost for candidate in ranking.candidates}
    assert costs["unpriced"] == costs["bundled"] and costs["bundled"] != 0


def test_a_price_of_nothing_costs_nothing() -> None:
    free = Price(input_per_mtok=Decimal(0), output_per_mtok=Decimal(0))
    ranking = choose(worker("free", price=free, local=False), max_cost_usd=0.0)
    assert winner(ranking) == "free"
    assert [candidate.terms and candidate.terms.cost for candidate in ranking.candidates] == [0.0]


def test_a_worker_short_of_memory_is_passed_over() -> None:
    full = Resources(memory_used=99, memory_limit=100)
    ranking = choose(worker("full", resources=full), worker("fine"))
    assert winner(ranking) == "fine"
    assert {c.worker_id: c.passed_over for c in ranking.candidates}["full"] == "near its memory limit"


TOOLS = ({"type": "function", "function": {"name": "look"}},)


@pytest.mark.parametrize(
    ("workers", "asked", "obstacle"),
    [
        ((), {}, RejectReason.NOBODY),
        (("m",), {"model": "other"}, RejectReason.NO_SUCH_MODEL),
        (("m",), {"backend": "other"}, RejectReason.NO_SUCH_MODEL),
        (("m",), {"tools": TOOLS}, RejectReason.UNABLE),
        (("m",), {"model": "m", "tools": TOOLS}, RejectReason.INCAPABLE),
        (("m", "other"), {"model": "m", "tools": TOOLS}, RejectReason.INCAPABLE),
        (("m",), {"backend": "b", "tools": TOOLS}, RejectReason.INCAPABLE),
        (("m",), {"prompt": "x" * 8000}, RejectReason.TOO_LONG),
        (
            ("m",),
            {"prompt": "x" * 8000, "tools": TOOLS},
            RejectReason.TOO_LONG,
        ),
        (("m",), {"max_cost_usd": 1e-9}, RejectReason.BUDGET),
    ],
)
def test_the_reason_why_no_candidate_can_be_asked(
    workers: tuple[str, ...], asked: dict[str, Any], obstacle: RejectReason
) -> None:
    ranking = choose(*(worker("w", model=name) for name in workers), **asked)
    assert (ranking.winner, ranking.reason) == (None, obstacle)


def test_a_full_worker_is_worth_waiting_for_even_beside_unable_ones() -> None:
    ranking = choose(worker("full", inflight=4), worker("leaving", state="draining"))
    assert ranking.reason is RejectReason.FULL


def test_a_long_prompt_may_fit_a_worker_that_cannot_be_asked_now() -> None:
    larger = worker("larger", window=100_000, state="draining")
    assert choose(worker("small"), larger, prompt="x" * 8000).reason is RejectReason.UNABLE


def test_a_model_may_be_able_where_it_cannot_be_asked_now() -> None:
    able = worker("able", capabilities=("chat", "tools"), state="draining")
    assert choose(worker("w"), able, model="m", tools=TOOLS).reason is RejectReason.UNABLE
    starting = worker("starting", models=())
    assert choose(worker("w"), starting, backend="b", tools=TOOLS).reason is RejectReason.UNABLE


def test_a_model_elsewhere_never_becomes_local() -> None:
    cloud = worker("cloud", local=False)
    assert choose(cloud, policy="local_only", model="m").reason is RejectReason.INCAPABLE


def test_a_paused_worker_comes_back_by_itself() -> None:
    paused = worker("p")
    paused.leave_alone(None, 5.0)
    assert choose(paused, now=4.0).reason is RejectReason.PAUSED
    assert winner(choose(paused, now=5.1)) == "p"


def test_local_only_never_leaves_the_machine() -> None:
    assert choose(worker("cloud", local=False), policy="local_only").reason is RejectReason.UNABLE


def test_an_alias_is_the_model() -> None:
    assert winner(choose(worker("w", model="gpt"), model="gpt-alias")) == "w"


@settings(max_examples=60)
@given(
    loads=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    paces=st.lists(st.integers(10, 20_000), min_size=8, max_size=8),
    prices=st.lists(st.sampled_from([CHEAP, DEAR, None]), min_size=8, max_size=8),
    policy=st.sampled_from(["balanced", "cheapest", "fastest", "best"]),
    left_s=st.floats(0.01, 100),
)
def test_the_winner_can_be_computed_again_from_the_published_decision(
    loads: list[int], paces: list[int], prices: list[Price | None], policy: Policy, left_s: float
) -> None:
    workers = [worker(f"w{i}", price=prices[i], inflight=load, ewma_ms=float(paces[i])) for i, load in enumerate(loads)]
    weights: Terms = DEFAULT_POLICIES[policy]
    question = replace(RoutingQuery.of(InferenceRequest(prompt="hello")), left_s=left_s)
    ranking = rank(question, workers, Estimates(), weights, now=0.0, rng=random.Random(1))
    told = [Candidate.model_validate_json(candidate.to_bytes()) for candidate in ranking.candidates]
    assert {candidate.worker_id for candidate in told} == {m.worker_id for m in workers}
    for candidate in told:
        assert candidate.terms is not None and candidate.score == pytest.approx(
            score(TermValues.of(candidate.terms), TermValues.of(weights))
        )
        assert all(0 <= term <= 1 for term in candidate.terms.model_dump().values())
    free = [c for c in told if c.passed_over is None]
    if ranking.winner is not None:
        best = min(free, key=lambda c: score(TermValues.of(c.terms), TermValues.of(weights)) if c.terms else inf)
        assert best.worker_id == ranking.winner.worker.worker_id
    else:
        assert min(told, key=lambda c: c.score or inf).passed_over or ranking.reason is RejectReason.LATE


def test_best_asks_an_unknown_model_now_and_then() -> None:
    """Else the dearest one, which nothing but `best` asks for, would never be found out to be the better one."""
    grades, estimates = Grades(), Estimates()
    grades.learn(ModelGrades(model_id="m", workers={"senior": "senior"}))
    workers = [worker("senior"), worker("plain"), worker("unknown", model="better", price=DEAR)]
    for _ in range(60):
        estimates.of("m").learn(0.5)
    question, weights = RoutingQuery.of(InferenceRequest(prompt="hello", policy="best")), DEFAULT_POLICIES["best"]

    def asked(seed: int) -> str:
        return winner(rank(question, workers, estimates, weights, now=0.0, rng=random.Random(seed), grades=grades))

    won = Counter(asked(seed) for seed in range(1000))
    assert 50 < won["unknown"] < 200 and won["plain"] == 0, won
    estimates.of("better").answered = 40
    assert Counter(asked(seed) for seed in range(100)) == {"senior": 100}


def test_a_quick_worker_that_is_full_is_better_than_a_slow_one_that_is_free() -> None:
    quick, slow = worker("quick", ewma_ms=500, inflight=4), worker("slow", ewma_ms=20_000)
    assert choose(quick, slow, policy="fastest").reason is RejectReason.FULL
    assert winner(choose(quick, worker("slower", ewma_ms=600), policy="fastest")) == "slower"


def test_who_would_come_too_late_is_not_asked_however_cheap() -> None:
    question = replace(RoutingQuery.of(InferenceRequest(prompt="hello", policy="cheapest")), left_s=5.0)
    cheap, quick = worker("cheap", ewma_ms=9000), worker("quick", price=DEAR, model="d", local=False, ewma_ms=900)
    ranking = rank(question, [cheap, quick], Estimates(), DEFAULT_POLICIES["cheapest"], now=0.0, rng=random.Random(1))
    assert winner(ranking) == "quick"


def test_lateness_is_a_term_of_its_own_and_load_stays_below_one() -> None:
    question = replace(RoutingQuery.of(InferenceRequest(prompt="hello")), left_s=1.0)
    balanced = DEFAULT_POLICIES["balanced"]
    workers = [worker("late", ewma_ms=9000), worker("close", model="c", ewma_ms=1100), worker("quick", ewma_ms=100)]
    ranking = rank(question, workers, Estimates(), balanced, now=0.0, rng=random.Random(1))
    terms = {candidate.worker_id: candidate.terms for candidate in ranking.candidates}
    assert all(one is not None and one.load < 1 for one in terms.values())
    late, close, quick = (one.lateness for name in ("late", "close", "quick") if (one := terms[name]))
    assert late == 1.0 and 0.4 < close < 0.6 and quick == 0.0


def test_a_ranking_says_whether_its_winner_would_answer_in_time() -> None:
    for seconds, expected in ((0.9, True), (1.2, False)):
        question = replace(RoutingQuery.of(InferenceRequest(prompt="hello")), left_s=1.0)
        workers = [worker("w", ewma_ms=seconds * 1000 * 0.95)]
        ranking = rank(question, workers, Estimates(), DEFAULT_POLICIES["balanced"], now=0.0, rng=random.Random(1))
        assert ranking.in_time is expected


def test_when_too_many_wait_already_that_is_said_at_once() -> None:
    full = [worker(f"w{i}", ewma_ms=1000, inflight=4) for i in range(2)]
    question = replace(RoutingQuery.of(InferenceRequest(prompt="hello")), left_s=10.0, waiting=200)
    ranking = rank(question, full, Estimates(), DEFAULT_POLICIES["balanced"], now=0.0, rng=random.Random(1))
    assert (ranking.reason, round(ranking.wait_s)) == (RejectReason.LATE, 25)
    patient = replace(question, left_s=120.0)
    ranking = rank(patient, full, Estimates(), DEFAULT_POLICIES["balanced"], now=0.0, rng=random.Random(1))
    assert ranking.reason is RejectReason.FULL


def test_who_fails_fast_is_not_taken_for_quick() -> None:
    estimates = Estimates()
    for _ in range(20):
        estimates.failed("failing", "m", 0.0)
    failing, fine = worker("failing", ewma_ms=100), worker("fine", ewma_ms=300)
    assert winner(choose(failing, fine, estimates=estimates, policy="fastest")) == "fine"
