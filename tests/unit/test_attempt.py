"""One try: what counts as a sign of life, and what the end of patience is called."""

from datetime import UTC, datetime

import pytest

from contracts import (
    BullpenError,
    Chunk,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceRequest,
    Outcome,
    Progress,
)
from manager.config import ManagerConfig
from manager.request import retry_policy as failover
from manager.request.attempt import Attempt, Ending, read_event
from manager.routing.query import Choice, RoutingQuery
from tests.unit.test_ranking import worker

CONFIG = ManagerConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked() -> RoutingQuery:
    """Ten tokens."""
    return RoutingQuery.of(InferenceRequest(prompt="x" * 36))


def attempt(number: int = 1, worker_id: str = "w", *, local: bool = True) -> Attempt:
    one = worker(worker_id, local=local)
    return Attempt(number, Choice(one, one.heartbeat.models[0]), 100.0, NOW, asked())


def failed(
    number: int, code: ErrorCode, *, outcome: Outcome = Outcome.FAILED, died: bool = False, local: bool = True
) -> Attempt:
    one = attempt(number, f"w{number}", local=local)
    one.choice.worker.gone = "disconnected" if died else ""
    one.end(Ending(outcome, BullpenError(code, "no"), died=died), 101.0, said_all=True)
    return one


def test_an_unclaimed_attempt_is_overdue_after_a_quarter_second() -> None:
    one = attempt()
    assert one.overdue_at(CONFIG) == pytest.approx(100.25)
    assert one.overdue().outcome is Outcome.REFUSED


def test_while_queued_only_the_heartbeat_counts() -> None:
    one = attempt()
    one.hear(Claim(attempt=1, epoch="e"), 100.1)
    assert one.overdue_at(CONFIG) == float("inf")


def test_a_prefill_has_ten_seconds_and_a_token_five() -> None:
    one = attempt()
    one.hear(Progress(tokens=0, phase="prefill"), 101.0)
    assert one.overdue_at(CONFIG) == pytest.approx(111.0)
    one.hear(Progress(tokens=3, phase="decode"), 102.0)
    assert one.overdue_at(CONFIG) == pytest.approx(107.0)
    assert one.overdue().outcome is Outcome.UNCERTAIN


def test_progress_that_does_not_move_is_no_sign_of_life() -> None:
    one = attempt()
    one.hear(Progress(tokens=3, phase="decode"), 101.0)
    one.hear(Progress(tokens=3, phase="decode"), 104.0)
    assert one.overdue_at(CONFIG) == pytest.approx(106.0)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (ErrorCode.OVERLOADED, Outcome.REFUSED),
        (ErrorCode.CANCELLED, Outcome.CANCELLED),
        (ErrorCode.UPSTREAM_ERROR, Outcome.FAILED),
    ],
)
def test_what_a_worker_told_becomes_an_outcome(code: ErrorCode, outcome: Outcome) -> None:
    assert Ending.told(ErrorReply(error=BullpenError(code, "no").detail())).outcome is outcome


def test_rubbish_is_an_error_and_not_an_exception() -> None:
    with pytest.raises(BullpenError) as caught:
        read_event(b"\xff{}")
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR
    assert isinstance(read_event(Chunk(task_id="t", seq=0, delta="x").to_bytes()), Chunk)


def test_an_answer_may_say_no_more_than_the_first_six_fields() -> None:
    """Whoever knows the wire's page alone writes such a worker."""
    seed = b'{"task_id":"t","model_id":"m","output":"hi","tokens_used":5,"duration_ms":9.5,"confidence":0.8%s}'
    known = {"request_id": "r-1", "backend": "bash", "worker_id": "b-1"}
    for more in (b"", b',"cost_usd":null,"finish_reason":null', b',"type":"response","attempts":[],"said":"more"'):
        heard = read_event(seed % more, known)
        assert isinstance(heard, FinalResponse)
        assert (heard.output, heard.completion_tokens, heard.prompt_tokens, heard.worker_id) == ("hi", 5, None, "b-1")
    told = read_event(seed % b',"prompt_tokens":2,"worker_id":"me","finish_reason":"length"', known)
    assert isinstance(told, FinalResponse)
    assert (told.completion_tokens, told.worker_id, told.finish_reason) == (3, "b-1", "length")


@pytest.mark.parametrize(
    ("text", "named"),
    [(b'{"output":"hi"}', "model_id"), (b'{"type":"chunk","seq":0}', "delta"), (b"hi", ""), (b"[]", "")],
)
def test_an_answer_that_lacks_something_is_told_what(text: bytes, named: str) -> None:
    known = {"task_id": "t", "request_id": "r-1", "backend": "bash", "worker_id": "b-1"}
    with pytest.raises(BullpenError) as caught:
        read_event(text, known)
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR
    assert named in caught.value.message


def test_a_failure_goes_to_the_next_worker() -> None:
    assert failover.verdict([failed(1, ErrorCode.UPSTREAM_ERROR)], CONFIG) is None


def test_a_bad_request_is_bad_everywhere() -> None:
    error = failover.verdict([failed(1, ErrorCode.INVALID_REQUEST)], CONFIG)
    assert error is not None
    assert error.code is ErrorCode.INVALID_REQUEST


def test_refusals_cost_nothing_and_are_not_counted() -> None:
    refusals = [failed(n, ErrorCode.OVERLOADED, outcome=Outcome.REFUSED) for n in range(1, 8)]
    assert failover.verdict(refusals, CONFIG) is None


@pytest.mark.parametrize(("local", "allowed"), [(True, 3), (False, 2)])
def test_so_many_attempts_and_no_more(local: bool, allowed: int) -> None:
    tries = [failed(n, ErrorCode.UPSTREAM_ERROR, local=local) for n in range(1, allowed + 1)]
    assert failover.verdict(tries[:-1], CONFIG) is None
    error = failover.verdict(tries, CONFIG)
    assert error is not None
    assert error.code is ErrorCode.UPSTREAM_ERROR
    assert f"w{allowed}" in error.message


def test_two_deaths_make_a_poison_request() -> None:
    deaths = [failed(n, ErrorCode.NO_WORKER, outcome=Outcome.UNCERTAIN, died=True) for n in (1, 2)]
    error = failover.verdict(deaths, CONFIG)
    assert error is not None
    assert error.code is ErrorCode.POISON_REQUEST


def test_a_worker_that_only_lost_its_connection_did_not_die() -> None:
    deaths = [failed(n, ErrorCode.NO_WORKER, outcome=Outcome.UNCERTAIN, died=True) for n in (1, 2)]
    deaths[0].choice.worker.gone = ""
    assert failover.verdict(deaths, CONFIG) is None


def test_a_worker_that_never_got_the_request_may_be_sent_it_again() -> None:
    refused = failed(1, ErrorCode.NO_WORKER, outcome=Outcome.REFUSED)
    assert not refused.excludes(reconnected_at=0.0)
    assert not failed(1, ErrorCode.OVERLOADED, outcome=Outcome.REFUSED).excludes(reconnected_at=0.0)
    assert failed(1, ErrorCode.RATE_LIMITED, outcome=Outcome.REFUSED).excludes(reconnected_at=0.0)
    silent = attempt()
    silent.end(silent.overdue(), 100.25, said_all=False)
    assert silent.excludes(reconnected_at=99.0)
    assert not silent.excludes(reconnected_at=101.0)


def test_patience_that_is_prolonged_ends_again() -> None:
    one = attempt()
    one.wait_again(100.25)
    assert one.overdue_at(CONFIG) == pytest.approx(100.5)
