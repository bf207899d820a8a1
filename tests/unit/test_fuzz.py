"""Whatever comes over the wire is read, or refused with a typed error: never another exception, and no member lost.

Some hundred cases each time, the same ones; 100,000 others with `python -m benchmarks fuzz`.
"""

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts import BullpenError, InferenceRequest, parse_request, read_heartbeat, salvage_stream, salvage_task_id
from contracts import subjects as s
from manager.config import DEFAULT_POLICIES
from manager.request.attempt import Attempt
from manager.request.events import read_event
from manager.request.plausible import believed
from manager.routing.estimates import Estimates
from manager.routing.query import Choice, RoutingQuery
from manager.routing.ranking import rank
from manager.routing.registry import Registry
from tests.unit.test_attempt import NOW, query
from tests.unit.test_peers import GIVEN, answer
from tests.unit.test_registry import beat

ENOUGH = settings(max_examples=max(200, settings().max_examples))

numbers = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**31, 2**53, 2**63, -(2**63), 10**15, 10**40, -(10**400)]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 5e-324, 0.1]),
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "w", "m", "\x00", "\u202e", "\ud83d", "é" * 300, "x" * 5000, "2026-01-01", "9999-12-31T23:59"]
    ),
)
scalars = st.none() | st.booleans() | numbers | texts
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def written(value: Any) -> bytes:
    """As JSON, with what JSON does not allow as well."""
    return json.dumps(value, ensure_ascii=True).encode()


def changed(message: dict[str, Any]) -> "st.SearchStrategy[bytes]":
    """A good message, in which some fields are something else, missing, or a little broken on the way."""

    def change(update: dict[str, Any], without: set[str], cut: int) -> bytes:
        told = {name: value for name, value in {**message, **update}.items() if name not in without}
        body = written(told)
        return body[: len(body) - cut] if cut else body

    names = st.sampled_from(sorted(message))
    return st.builds(
        change,
        st.dictionaries(names | texts, anything, max_size=3),
        st.sets(names, max_size=2),
        st.sampled_from([0, 0, 0, 0, 1, 7]),
    )


def bodies(*messages: dict[str, Any]) -> "st.SearchStrategy[bytes]":
    return st.one_of(st.binary(max_size=60), anything.map(written), *map(changed, messages))


REQUEST = {
    "prompt": "hi",
    "task_id": "t",
    "context": {"system": "s", "messages": [{"role": "user", "content": "x"}]},
    "temperature": 0.5,
    "max_tokens": 5,
    "stop": ["a"],
    "seed": 1,
    "model": "m",
    "backend": "b",
    "policy": "cheapest",
    "deadline_ms": 1000,
    "metadata": {"tenant": "t"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "response_format": {"type": "json_object"},
    "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
}
HEARTBEAT: dict[str, Any] = json.loads(beat().to_bytes())
HEARTBEAT["models"][0]["price"] = {"input_per_mtok": 1, "output_per_mtok": 2}
HEARTBEAT["rate"] = {"rpm_left": 5, "tpm_left": 100, "tpm_limit": 1000, "resets_in_ms": 5}
CARD: dict[str, Any] = HEARTBEAT["models"][0]
ANSWER: dict[str, Any] = json.loads(answer().to_bytes())
PLAIN = {name: ANSWER[name] for name in ("task_id", "model_id", "output", "tokens_used", "duration_ms", "confidence")}
FAILURE = {
    "error": {"code": "rate_limited", "status": 429, "message": "no", "retryable": True, "retry_after_ms": 5},
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost_usd": 0.1},
    "outcome": "truncated",
}
WORDS = (
    {"type": "claim", "attempt": 2, "epoch": "e-7", "silence_ok_ms": {"first_token": 1, "next_token": 1}},
    {"type": "progress", "tokens": 1, "phase": "decode", "moved": 1},
    {"type": "chunk", "task_id": "t", "seq": 0, "delta": "x", "tokens": 1},
)


@ENOUGH
@given(bodies(REQUEST))
def test_a_request_is_read_or_refused_with_a_field(body: bytes) -> None:
    salvage_task_id(body)
    salvage_stream(body)
    try:
        request = parse_request(body)
    except BullpenError as error:
        assert len(error.detail().message) <= 2001
    else:
        RoutingQuery.of(request)


@ENOUGH
@given(
    st.lists(
        bodies(HEARTBEAT) | changed(CARD).map(lambda card: written(HEARTBEAT).replace(written(CARD), card)), max_size=4
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_heartbeat_ends_a_manager_or_loses_a_worker(said: list[bytes], named: bool, connected: bool) -> None:
    registry, now = Registry(2.5), 0.0
    registry.hear(beat("real"), now, wall=now, named=True)
    for body in said:
        now += 0.1
        try:
            heard = read_heartbeat(body)
        except BullpenError as error:
            assert error.field
            continue
        registry.hear(heard, now, wall=now, named=named and heard.worker_id != "real", connected=connected)
        registry.sweep(now, 0.1)
    real = registry.get("real")
    assert real is not None
    assert not real.obstacle
    ranking = _ranked(registry, now)
    assert ranking.winner is not None
    assert all(one.told() for one in ranking.scored)


def _ranked(registry: Registry, now: float) -> Any:
    asked = RoutingQuery.of(InferenceRequest(prompt="hi", policy="cheapest"))
    weights = DEFAULT_POLICIES["cheapest"]
    return rank(asked, registry, Estimates(), weights, now=now, rng=random.Random(1))


@ENOUGH
@given(st.lists(bodies(ANSWER, PLAIN, FAILURE, *WORDS), max_size=5))
def test_no_answer_of_a_worker_ends_a_request(said: list[bytes]) -> None:
    registry, estimates = Registry(2.5), Estimates()
    registry.hear(beat("w-1"), 0.0, wall=0.0)
    worker = registry.get("w-1")
    assert worker is not None
    attempt = Attempt(2, Choice(worker, worker.heartbeat.models[0]), 100.0, NOW, query())
    for at, body in enumerate(said, 101):
        word, _ = believed(read_event(body, GIVEN.known), GIVEN, 50.0)
        if word is not None:
            attempt.on(word, at)
    assert attempt.outcome
    assert attempt.cost is None or 0 <= attempt.cost <= 1000
    if attempt.answer is not None:
        estimates.answered(attempt.answer, attempt.duration_ms - attempt.answer.queue_ms, 10, 1.0)
        assert estimates.look_at("w-1", attempt.answer.model_id).each.value < 10**6
    assert _ranked(registry, 200.0).winner is not None


@ENOUGH
@given(texts, texts)
def test_a_subject_is_a_worker_s_only_when_it_is_spelled_so(one: str, other: str) -> None:
    speaker = s.worker_of_heartbeat(f"{s.WORKER_HEARTBEAT}.{one}.{other}")
    assert speaker is None or s.worker_heartbeat(*speaker) == f"{s.WORKER_HEARTBEAT}.{one}.{other}"
