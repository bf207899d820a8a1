"""What a peer says has bounds: nothing out of them is believed, and what is remembered of peers stays small."""

import json
import random
from decimal import Decimal
from typing import Any

import pytest

from bus.inbox import Inbox
from bus.once import Once
from config.bounded import Latest
from contracts import (
    BullpenError,
    CancelRequest,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    ModelCard,
    PartialUsage,
    Piece,
    Price,
    Progress,
    headers,
    read_heartbeat,
    utc_now,
)
from contracts import subjects as s
from contracts.privacy import veiled
from manager.request.event_queue import MOST_WAITING, EventQueue, Heard
from manager.request.events import Streamed, Unreadable, read_event
from manager.request.plausible import Given, believed
from manager.request.retry_budget import DUPLICATES_WITHIN, DuplicateSpendCap
from manager.routing.estimates import MOST_PAIRS, Estimates
from manager.routing.grades import Grades
from tests.unit.test_attempt import attempt
from tests.unit.test_registry import beat
from workers.base.rate_limits.limits import Window
from workers.base.runtime.final_event_cache import FinalEventCache

PRICE = Price(input_per_mtok=Decimal(1), output_per_mtok=Decimal(10))
CARD = ModelCard(model_id="m", aliases=("em",), context_window=8192, price=PRICE, local=False)
GIVEN = Given(
    request_id="r-1",
    task_id="t-1",
    number=2,
    epoch="e-7",
    backend="b",
    worker_id="w-1",
    card=CARD,
    bytes_in=400,
    max_tokens=100,
)


def answer(**changes: Any) -> FinalResponse:
    told: dict[str, Any] = {
        "task_id": "t-1",
        "model_id": "m",
        "output": "Paris",
        "tokens_used": 110,
        "duration_ms": 5.0,
        "confidence": 0.9,
        "request_id": "r-1",
        "backend": "b",
        "worker_id": "w-1",
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "cost_usd": Decimal("0.0002"),
        "finish_reason": "stop",
        "confidence_source": "prior",
        "created_at": utc_now(),
    }
    return FinalResponse(**{**told, **changes})


def taken(word: Any, given: Given = GIVEN) -> Any:
    return believed(word, given, 50.0)


# Heartbeats


def told(**changes: Any) -> bytes:
    return json.dumps({**json.loads(beat().to_bytes()), **changes}).encode()


CARD_TOLD = {"model_id": "m", "context_window": 100, "local": True}
GPU = {"name": "g", "memory_used": 1, "memory_total": 2, "utilization": 0}
TOO_LONG = "x" * 5000


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("models", {"models": [{**CARD_TOLD, "model_id": f"m{n}"} for n in range(1001)]}),
        ("models.0.model_id", {"models": [{**CARD_TOLD, "model_id": TOO_LONG}]}),
        ("models.0.model_id", {"models": [{**CARD_TOLD, "model_id": "gpt\u202e4\nworker-2"}]}),
        ("models.0.aliases.0", {"models": [{**CARD_TOLD, "aliases": ["gpt-4\u200b"]}]}),
        ("models.0.aliases", {"models": [{**CARD_TOLD, "aliases": ["a"] * 65}]}),
        ("models.0.aliases.0", {"models": [{**CARD_TOLD, "aliases": [TOO_LONG]}]}),
        ("models.0.context_window", {"models": [{**CARD_TOLD, "context_window": 10**40}]}),
        ("models.0.context_window", {"models": [{**CARD_TOLD, "context_window": -1}]}),
        (
            "models.0.price.input_per_mtok",
            {"models": [{**CARD_TOLD, "price": {"input_per_mtok": -1, "output_per_mtok": 0}}]},
        ),
        (
            "models.0.price.output_per_mtok",
            {"models": [{**CARD_TOLD, "price": {"input_per_mtok": 0, "output_per_mtok": 1e12}}]},
        ),
        ("capacity", {"capacity": 10**9}),
        ("inflight", {"inflight": -1}),
        ("queued", {"queued": 10**30}),
        ("seq", {"seq": 2**60}),
        ("epoch", {"epoch": TOO_LONG}),
        ("epoch", {"epoch": ""}),
        ("interval_ms", {"interval_ms": 10**12}),
        ("pause_ms", {"pause_ms": 10**12}),
        ("ewma_ms", {"ewma_ms": 1e300}),
        ("tokens_per_second", {"tokens_per_second": -5}),
        ("rate.tpm_left", {"rate": {"tpm_left": -1}}),
        ("rate.resets_in_ms", {"rate": {"resets_in_ms": 10**20}}),
        ("resources.memory_used", {"resources": {"memory_used": -1}}),
        ("resources.gpus", {"resources": {"gpus": [GPU] * 65}}),
        ("sent_at", {"sent_at": 10**30}),
        ("connection", {"connection": TOO_LONG}),
        ("worker_id", {"worker_id": TOO_LONG}),
        ("heartbeat", {"more": "x" * (1 << 20)}),
    ],
)
def test_a_heartbeat_out_of_bounds_is_refused_with_the_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BullpenError) as refused:
        read_heartbeat(told(**changes))
    assert refused.value.field == field
    assert len(refused.value.message) < 300
    assert "pattern" not in refused.value.message, "no one need read a regular expression"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_heartbeat_has_finite_numbers(number: str) -> None:
    with pytest.raises(BullpenError) as refused:
        read_heartbeat(told(ewma_ms="!").replace(b'"!"', number.encode()))
    assert refused.value.field == "ewma_ms" or "finite" in refused.value.message or refused.value.field == "heartbeat"


def test_a_heartbeat_s_words_for_people_are_cut_and_a_time_without_a_zone_is_utc() -> None:
    heard = read_heartbeat(told(reason="why " * 5000, host="h" * 999, started_at="2026-01-01T00:00:00"))
    assert (len(heard.reason), len(heard.host)) == (2001, 257)
    assert heard.started_at < utc_now()


def test_on_its_own_subject_a_worker_speaks_for_itself_only() -> None:
    assert read_heartbeat(told(), s.worker_heartbeat("b", "w")).worker_id == "w"
    for subject in (s.worker_heartbeat("b", "other"), s.worker_heartbeat("other", "w"), "worker.heartbeat.b.w.x"):
        with pytest.raises(BullpenError, match="worker_id is not the one in the subject"):
            read_heartbeat(told(), subject)


# Answers


def test_an_honest_answer_is_taken_as_it_is() -> None:
    honest = answer(attempt=2, epoch="e-7")
    assert taken(honest) == (honest, ())
    assert taken(answer(model_id="em")).word.model_id == "em"


@pytest.mark.parametrize(
    ("word", "field"),
    [
        (Claim(attempt=1, epoch="e-7"), "attempt"),
        (Claim(attempt=2, epoch="e-8"), "epoch"),
        (answer(attempt=3), "attempt"),
        (answer(epoch="another"), "epoch"),
        (ErrorReply(error=BullpenError(ErrorCode.INVALID_REQUEST, "no").detail(), attempt=1), "attempt"),
        (ErrorReply(error=BullpenError(ErrorCode.INVALID_REQUEST, "no").detail(), epoch="x"), "epoch"),
        (Progress(tokens=10**9, phase="decode"), "tokens"),
        (Streamed(Piece("x", tokens=10**9), 0, 0), "tokens"),
    ],
)
def test_a_word_about_another_attempt_is_none(word: Any, field: str) -> None:
    assert taken(word) == (None, (field,))


def test_a_worker_answers_for_itself_and_for_the_model_it_was_asked_for() -> None:
    believed_ = taken(answer(worker_id="rival", backend="rival", model_id="rival", request_id="r-9", task_id="t-9"))
    word = believed_.word
    assert (word.worker_id, word.backend, word.model_id) == ("w-1", "b", "m")
    assert (word.request_id, word.task_id) == ("r-1", "t-1")


@pytest.mark.parametrize(
    ("field", "changes", "left"),
    [
        ("prompt_tokens", {"prompt_tokens": 100_000}, None),
        ("cached_tokens", {"cached_tokens": 10**9}, None),
        ("cache_write_tokens", {"cache_write_tokens": 10**9}, None),
        ("reasoning_tokens", {"reasoning_tokens": 10**9}, None),
        ("cost_usd", {"cost_usd": Decimal(1000)}, None),
        ("cost_usd", {"cost_usd": Decimal("0.02")}, None),
        ("queue_ms", {"queue_ms": 60_000.0}, 0.0),
        ("ttft_ms", {"ttft_ms": 60_000.0}, None),
        ("tokens_used", {"tokens_used": 10**9}, 110),
    ],
)
def test_a_figure_that_cannot_be_true_is_unknown(field: str, changes: dict[str, Any], left: Any) -> None:
    word, refused = taken(answer(**changes))
    assert refused == (field,)
    assert getattr(word, field) == left
    assert word.output == "Paris"


def test_an_answer_of_more_tokens_than_there_can_be_is_no_answer() -> None:
    word, refused = taken(answer(completion_tokens=10**6))
    assert isinstance(word, Unreadable)
    assert refused == ("completion_tokens",)


def test_a_failed_attempt_s_figures_have_the_same_bounds() -> None:
    detail = BullpenError(ErrorCode.UPSTREAM_ERROR, "no").detail()
    usage = PartialUsage(prompt_tokens=10, completion_tokens=10**9, cost_usd=Decimal(10**6))
    word, refused = taken(ErrorReply(error=detail, usage=usage))
    assert refused == ("completion_tokens", "cost_usd")
    assert word.usage == PartialUsage(prompt_tokens=10)


def test_a_worker_is_not_left_alone_for_years_because_it_says_so() -> None:
    detail = BullpenError(ErrorCode.OVERLOADED, "full", retry_after_ms=10**11).detail()
    word, refused = taken(ErrorReply(error=detail))
    assert (word.error.retry_after_ms, refused) == (3_600_000, ("retry_after_ms",))


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_used": -1},
        {"prompt_tokens": -5},
        {"cost_usd": -1},
        {"cost_usd": 1e300},
        {"duration_ms": -1},
        {"confidence": 2},
        {"completion_tokens": 10**30},
        {"attempts": [{}] * 5000},
        {"tool_calls": [{}] * 1001},
    ],
)
def test_an_answer_with_an_impossible_number_is_not_read(changes: dict[str, Any]) -> None:
    body = json.dumps({**json.loads(answer().to_bytes()), **changes}).encode()
    assert isinstance(read_event(body, GIVEN.known), Unreadable)


def test_the_words_of_a_worker_s_error_are_cut() -> None:
    body = {"error": {"code": "upstream_error", "status": 502, "message": "x" * 10**6, "retryable": True}}
    word = read_event(json.dumps(body).encode())
    assert isinstance(word, ErrorReply)
    assert len(word.error.message) < 3000


# Who may say what


def test_headers_of_roles_are_not_believed_of_callers() -> None:
    said = dict.fromkeys((*headers.ROLE_ONLY, headers.DEADLINE, headers.NO_STORE, headers.CANCEL_TOKEN), "1")
    assert set(headers.of_caller(said)) == {headers.DEADLINE, headers.NO_STORE, headers.CANCEL_TOKEN}


@pytest.mark.parametrize(
    ("asked", "token", "stops"),
    [
        (CancelRequest(task_id="t"), "", True),
        (CancelRequest(task_id="t", token="any"), "", True),
        (CancelRequest(task_id="t"), "secret", False),
        (CancelRequest(task_id="t", token="secre"), "secret", False),
        (CancelRequest(task_id="t", token="ünknown"), "secret", False),
        (CancelRequest(task_id="t", token="secret"), "secret", True),
        (CancelRequest(task_id="u", token="secret"), "secret", False),
    ],
)
def test_a_cancel_has_to_know_the_request_s_secret(asked: CancelRequest, token: str, stops: bool) -> None:
    assert asked.stops("t", token) is stops


def test_a_task_s_name_is_not_told_to_those_who_look_on() -> None:
    assert veiled("order-66") == veiled("order-66") != veiled("order-67")
    assert "order" not in veiled("order-66")


def test_no_inbox_can_be_guessed_from_another() -> None:
    inbox: Inbox[Any] = Inbox("_INBOX.me")
    found = [inbox.open(lambda _: None).subject for _ in range(3)] + [inbox.open(lambda _: None, of="local").subject]
    tokens = [subject.rpartition(".")[2] for subject in found]
    assert len({token[:8] for token in tokens}) == 4
    assert all(len(bytes.fromhex(token)) >= 16 for token in tokens)
    assert found[3].startswith("_INBOX.me.local.")


# What is remembered


def test_what_is_said_once_is_remembered_for_a_while_only() -> None:
    once = Once(remembered=3)
    assert [once.first("w", 1), once.first("w", 1), once.first("w", 2)] == [True, False, True]
    for number in range(100):
        once.first(number)
    assert len(once) == 3


def test_a_bounded_dict_forgets_what_was_set_longest_ago() -> None:
    latest: Latest[int, int] = Latest(3)
    for number in (1, 2, 3, 1, 4):
        latest.setdefault(number, number)
    latest[1] = 7
    latest[5] = 5
    assert list(latest.items()) == [(4, 4), (1, 7), (5, 5)]


def test_looking_at_models_that_never_answered_takes_no_room() -> None:
    estimates = Estimates()
    for number in range(1000):
        estimates.look(f"m{number}")
        estimates.look_at("w", f"m{number}")
    assert estimates.items() == []
    for number in range(MOST_PAIRS + 100):
        estimates.failed(f"w{number}", "m", 0.0)
    assert len(estimates._workers) == MOST_PAIRS


def test_a_window_without_a_limit_stays_small() -> None:
    window = Window(None)
    for number in range(20_000):
        window.count(10, number * 0.02)
    assert len(window.past) <= 62
    assert window.used(400.0) == pytest.approx(10 * 50 * 60, rel=0.05)


def test_a_last_word_that_is_said_again_counts_once() -> None:
    cache = FinalEventCache()
    for _ in range(100):
        cache.keep(("r", 1), "_INBOX.a", b"x" * (1 << 20), 1.0)
    cache.keep(("r", 2), "_INBOX.a", b"y", 1.0)
    assert cache.of(("r", 1)) is not None


def test_spending_of_long_ago_is_forgotten_although_nothing_fails() -> None:
    cap = DuplicateSpendCap(0.05, 0.1)
    for second in range(5000):
        cap.record(float(second), Decimal("0.01"), Decimal(0))
    assert len(cap._entries) <= DUPLICATES_WITHIN + 1


def test_a_worker_that_talks_without_end_fills_no_request() -> None:
    one, events = attempt(), EventQueue()
    for number in range(5 * MOST_WAITING):
        events.put(Heard(one, Progress(tokens=number, phase="decode")))
    events.put(Heard(one, answer()))
    heard = list(iter(events.take, None))
    assert len(heard) == MOST_WAITING + 1
    assert isinstance(heard[-1].event, FinalResponse)


def test_grades_of_workers_that_come_and_go_are_kept_of_the_latest_only() -> None:
    grades, rng = Grades(), random.Random(1)
    for number in range(MOST_PAIRS + 50):
        grades.is_canary("m", f"w{number}", 0.0, rng)
    assert len(grades._tried) <= MOST_PAIRS
