"""The life of one attempt: what a worker says, or keeps back, and what follows from it."""

from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import pytest

from contracts import (
    BullpenError,
    Claim,
    ErrorCode,
    ErrorReply,
    Fault,
    FinalResponse,
    FunctionDelta,
    InferenceRequest,
    Outcome,
    PartialUsage,
    Piece,
    Progress,
    SilenceOk,
    TokenLogprob,
    ToolCallDelta,
    utc_now,
)
from manager.config import ManagerConfig
from manager.request.attempt import MARGIN, Attempt, Start
from manager.request.events import (
    NO_RESPONDERS,
    Accepted,
    AttemptEvent,
    CalledOff,
    GivenUp,
    Gone,
    Overdue,
    Streamed,
    Unreadable,
    read_event,
)
from manager.request.fault import Fault as Blame
from manager.request.fault import fault_of
from manager.request.lifecycle import LIVE, TRANSITIONS, Signal, State
from manager.request.seam import Anchor, Joint, Verdict
from manager.routing.query import Choice, RoutingQuery
from tests.unit.test_ranking import worker

CONFIG = ManagerConfig()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "failover.md"


def query() -> RoutingQuery:
    """Ten tokens."""
    return RoutingQuery.of(InferenceRequest(prompt="x" * 36))


def attempt(number: int = 1, worker_id: str = "w", *, local: bool = True, model: str = "m") -> Attempt:
    view = worker(worker_id, local=local, model=model)
    return Attempt(number, Choice(view, view.heartbeat.models[0]), 100.0, NOW, query())


def error(code: ErrorCode, *, fault: Fault | None = None, used: int = 0, outcome: Outcome | None = None) -> ErrorReply:
    usage = PartialUsage(completion_tokens=used) if used else None
    return ErrorReply(error=BullpenError(code, "no", fault=fault).detail(), usage=usage, outcome=outcome)


def answer(*, confidence: float = 0.9, worker_id: str = "w") -> FinalResponse:
    return FinalResponse(
        task_id="t",
        model_id="m",
        output="Paris",
        tokens_used=15,
        duration_ms=1.0,
        confidence=confidence,
        request_id="r",
        backend="b",
        worker_id=worker_id,
        prompt_tokens=10,
        completion_tokens=5,
        finish_reason="stop",
        confidence_source="prior",
        created_at=utc_now(),
    )


CLAIM = Claim(attempt=1, epoch="e")
READS = Progress(tokens=0, phase="prefill")
WRITES = Progress(tokens=3, phase="decode")
STOPPED = BullpenError(ErrorCode.CANCELLED, "stopped")

EVENTS: dict[Signal, AttemptEvent] = {
    Signal.CLAIM: CLAIM,
    Signal.WAITS: Progress(tokens=0, phase="queued"),
    Signal.READS: READS,
    Signal.WRITES: WRITES,
    Signal.ANSWER: answer(),
    Signal.REFUSAL: error(ErrorCode.OVERLOADED),
    Signal.FAILURE: error(ErrorCode.UPSTREAM_ERROR),
    Signal.STOPPED: error(ErrorCode.CANCELLED),
    Signal.GONE: Gone("disconnected"),
    Signal.OVERDUE: Overdue(),
    Signal.CALLED_OFF: CalledOff(STOPPED),
    Signal.GIVEN_UP: GivenUp(STOPPED),
    Signal.ACCEPTED: Accepted(),
}
WAYS: dict[State, tuple[AttemptEvent, ...]] = {
    State.SENT: (),
    State.QUEUED: (CLAIM,),
    State.PREFILL: (READS,),
    State.DECODE: (WRITES,),
    State.ANSWERED: (answer(),),
    State.REFUSED: (Overdue(),),
    State.FAILED: (Unreadable(BullpenError(ErrorCode.UPSTREAM_ERROR, "no")),),
    State.UNCERTAIN: (CLAIM, Gone("disconnected")),
    State.CANCELLED: (CalledOff(STOPPED),),
    State.LATE: (Overdue(), answer()),
}
"""How an attempt gets into each state, with as little said as can be."""


def brought(*events: AttemptEvent, local: bool = True) -> Attempt:
    one = attempt(local=local)
    for event in events:
        one.on(event, 101.0)
    return one


def table() -> str:
    """The transition table, as docs/failover.md has it: what follows from each signal in each state."""
    signals = list(Signal)
    lines = ["| signal | " + " | ".join(State) + " |", "|---" * (len(State) + 1) + "|"]
    for signal in signals:
        cells = [TRANSITIONS[state].get(signal, state) for state in State]
        shown = ["" if after is state else str(after) for state, after in zip(State, cells, strict=True)]
        lines.append(f"| {signal} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def test_the_transition_table_is_complete_and_stands_in_the_docs() -> None:
    print(table())
    assert set(TRANSITIONS) == set(State) == set(WAYS)
    assert set(EVENTS) == set(Signal)
    assert table() in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", Signal)
def test_an_attempt_follows_its_table(state: State, signal: Signal) -> None:
    one = brought(*WAYS[state])
    assert one.state is state
    heard_all = one.final is not None and signal is not Signal.ACCEPTED
    one.on(EVENTS[signal], 102.0)
    assert one.state is (state if heard_all else TRANSITIONS[state].get(signal, state))


@pytest.mark.parametrize("state", State)
def test_every_attempt_that_is_over_says_why_or_has_an_answer(state: State) -> None:
    one = brought(*WAYS[state])
    assert one.is_over is (state not in LIVE)
    assert (one.error is not None) is (one.is_over and state is not State.ANSWERED)


# Silence


def test_an_unclaimed_attempt_is_overdue_after_a_quarter_second() -> None:
    one = attempt()
    assert one.overdue_at(CONFIG) == pytest.approx(100.25)
    one.on(Overdue(), 100.25)
    assert (one.outcome, one.error_code, one.claimed) == (Outcome.REFUSED, ErrorCode.NO_WORKER, False)


def test_while_queued_only_the_heartbeat_counts() -> None:
    assert brought(CLAIM).overdue_at(CONFIG) == inf


def test_a_worker_that_does_not_say_how_long_it_is_silent_has_ten_seconds_and_five_between_tokens() -> None:
    one = attempt()
    one.on(READS, 101.0)
    assert one.overdue_at(CONFIG) == pytest.approx(111.0)
    one.on(WRITES, 102.0)
    assert one.overdue_at(CONFIG) == pytest.approx(107.0)
    one.on(Overdue(), 107.0)
    assert one.outcome is Outcome.UNCERTAIN


def test_a_worker_that_says_how_long_it_is_silent_decides_before_the_manager() -> None:
    one = attempt()
    one.on(Claim(attempt=1, epoch="e", silence_ok_ms=SilenceOk(first_token=60_000, next_token=5_000)), 100.1)
    one.on(READS, 101.0)
    assert one.overdue_at(CONFIG) == pytest.approx(101.0 + 60.0 + 6.0)
    one.on(WRITES, 102.0)
    assert one.overdue_at(CONFIG) == pytest.approx(102.0 + 5.0 + MARGIN)


def test_progress_that_does_not_move_is_no_sign_of_life() -> None:
    one = attempt()
    one.on(WRITES, 101.0)
    one.on(WRITES, 104.0)
    assert one.overdue_at(CONFIG) == pytest.approx(106.0)
    one.on(Progress(tokens=3, phase="decode", moved=1), 105.0)
    assert one.overdue_at(CONFIG) == pytest.approx(110.0)


def test_patience_that_is_prolonged_ends_again() -> None:
    one = attempt()
    one.wait_again(100.25)
    assert one.overdue_at(CONFIG) == pytest.approx(100.5)


def test_a_worker_never_goes_back_to_reading_the_prompt() -> None:
    assert brought(WRITES, READS).state is State.DECODE


# Pieces of a stream


@pytest.mark.parametrize(
    ("pieces", "gap"),
    [
        ([(0, 0), (1, 1)], False),
        ([(0, 2), (3, 3)], False),
        ([(0, 0), (2, 2)], True),
        ([(1, 1)], True),
        ([(0, 0)], False),
    ],
)
def test_a_missing_piece_is_noticed(pieces: list[tuple[int, int]], gap: bool) -> None:
    one = attempt()
    for first, last in pieces:
        one.on(Streamed(Piece("x"), first, last), 101.0)
    assert one.lost_a_piece is gap


# The end


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (error(ErrorCode.OVERLOADED), Outcome.REFUSED),
        (error(ErrorCode.DRAINING), Outcome.REFUSED),
        (error(ErrorCode.CONTEXT_LENGTH_EXCEEDED), Outcome.REFUSED),
        (error(ErrorCode.INVALID_REQUEST), Outcome.REFUSED),
        (error(ErrorCode.UPSTREAM_AUTH), Outcome.REFUSED),
        (error(ErrorCode.INVALID_REQUEST, used=3), Outcome.FAILED),
        (error(ErrorCode.CANCELLED), Outcome.CANCELLED),
        (error(ErrorCode.UPSTREAM_ERROR), Outcome.FAILED),
        (error(ErrorCode.UPSTREAM_ERROR, outcome=Outcome.TRUNCATED), Outcome.TRUNCATED),
        (NO_RESPONDERS, Outcome.REFUSED),
        (CalledOff(STOPPED, beaten=True), Outcome.HEDGED_LOSER),
        (GivenUp(STOPPED), Outcome.UNCERTAIN),
    ],
)
def test_an_end_has_its_name_in_the_books(event: AttemptEvent, outcome: Outcome) -> None:
    assert brought(event).outcome is outcome


def test_an_answer_after_the_end_is_late_and_counts_when_it_is_accepted() -> None:
    one = brought(CLAIM, Gone("silent", died=False), answer())
    assert (one.state, one.outcome, one.awaits_last_word) == (State.LATE, Outcome.LATE_DISCARDED, False)
    one.on(Accepted(), 103.0)
    assert (one.outcome, one.error, one.ended_at) == (Outcome.OK, None, 103.0)


def test_the_loser_of_a_race_stays_the_loser_when_its_answer_comes() -> None:
    one = brought(WRITES, CalledOff(STOPPED, beaten=True), answer())
    assert (one.outcome, one.usage.completion_tokens) == (Outcome.HEDGED_LOSER, 5)


def test_a_worker_that_was_given_up_may_still_say_what_it_used() -> None:
    one = brought(WRITES, CalledOff(STOPPED))
    assert one.awaits_last_word
    one.on(error(ErrorCode.CANCELLED, used=7), 102.0)
    assert (one.awaits_last_word, one.outcome, one.usage.completion_tokens) == (False, Outcome.CANCELLED, 7)


def test_a_worker_that_started_anew_says_nothing_about_what_its_predecessor_did() -> None:
    one = brought(WRITES, Gone("disconnected"))
    one.choice.worker.heartbeat = one.choice.worker.heartbeat.model_copy(update={"epoch": "another"})
    assert not one.awaits_last_word


@pytest.mark.parametrize(
    ("events", "gone", "died"),
    [
        ((READS, Gone("disconnected")), "disconnected", True),
        ((Gone("disconnected"),), "disconnected", True),
        ((CLAIM, Gone("disconnected")), "disconnected", False),
        ((READS, Gone("silent", died=False)), "silent", False),
        ((READS, Gone("disconnected")), "", False),
    ],
    ids=["while it computed", "before it claimed", "while the attempt waited there", "only silent", "it is back"],
)
def test_a_death_is_a_process_that_ended_while_it_was_at_it(
    events: tuple[AttemptEvent, ...], gone: str, died: bool
) -> None:
    one = brought(*events)
    one.choice.worker.gone = gone
    assert one.worker_died is died


# Whose fault


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (Overdue(), Blame.WORKER),
        (error(ErrorCode.OVERLOADED), Blame.NONE),
        (error(ErrorCode.RATE_LIMITED, fault="account"), Blame.NONE),
        (error(ErrorCode.DRAINING), Blame.NONE),
        (error(ErrorCode.CONTEXT_LENGTH_EXCEEDED, fault="model"), Blame.NONE),
        (error(ErrorCode.NO_SUCH_MODEL, fault="model"), Blame.MODEL),
        (error(ErrorCode.INVALID_REQUEST, fault="model"), Blame.OPEN),
        (error(ErrorCode.PAYLOAD_TOO_LARGE, fault="model"), Blame.OPEN),
        (error(ErrorCode.UPSTREAM_AUTH, fault="model"), Blame.OPEN),
        (error(ErrorCode.UPSTREAM_AUTH, fault="account"), Blame.WORKER),
        (error(ErrorCode.INVALID_REQUEST, fault="request"), Blame.NONE),
        (error(ErrorCode.UPSTREAM_ERROR, fault="model"), Blame.MODEL),
        (error(ErrorCode.UPSTREAM_ERROR, fault="worker"), Blame.WORKER),
        (error(ErrorCode.UPSTREAM_ERROR), Blame.MODEL),
        (error(ErrorCode.INTERNAL, fault="ours"), Blame.MODEL),
        (Unreadable(BullpenError(ErrorCode.UPSTREAM_ERROR, "no")), Blame.MODEL),
        (CalledOff(STOPPED), Blame.NONE),
        (GivenUp(BullpenError(ErrorCode.DEADLINE_EXCEEDED, "late")), Blame.NONE),
        (answer(), Blame.NONE),
    ],
)
def test_a_failure_is_blamed_on_what_failed(event: AttemptEvent, fault: Blame) -> None:
    assert fault_of(brought(event)) is fault


def test_a_worker_that_went_away_is_not_blamed_besides() -> None:
    one = brought(READS, Gone("disconnected"))
    one.choice.worker.gone = "disconnected"
    assert fault_of(one) is Blame.NONE


# Reading


def test_rubbish_is_an_event_and_not_an_exception() -> None:
    event = read_event(b"\xff{}")
    assert isinstance(event, Unreadable)
    assert event.error.code is ErrorCode.UPSTREAM_ERROR
    assert read_event(b'{"type":"chunk","task_id":"t","seq":4,"delta":"x"}') == Streamed(Piece("x"), 4, 4)


def test_an_answer_may_say_no_more_than_the_first_six_fields() -> None:
    """Whoever knows the wire's page alone writes such a worker."""
    seed = b'{"task_id":"t","model_id":"m","output":"hi","tokens_used":5,"duration_ms":9.5,"confidence":0.8%s}'
    known = {"request_id": "r-1", "backend": "bash", "worker_id": "b-1"}
    for more in (b"", b',"cost_usd":null,"finish_reason":null', b',"type":"response","attempts":[],"said":"more"'):
        heard = read_event(seed % more, known)
        assert isinstance(heard, FinalResponse)
        assert (heard.output, heard.completion_tokens, heard.prompt_tokens, heard.worker_id) == ("hi", 5, None, "b-1")
    said = read_event(seed % b',"prompt_tokens":2,"worker_id":"me","finish_reason":"length"', known)
    assert isinstance(said, FinalResponse)
    assert (said.completion_tokens, said.worker_id, said.finish_reason) == (3, "b-1", "length")


@pytest.mark.parametrize(
    ("text", "named"),
    [(b'{"output":"hi"}', "model_id"), (b'{"type":"chunk","seq":0}', "delta"), (b"hi", ""), (b"[]", "")],
)
def test_an_answer_that_lacks_a_field_is_unreadable_and_the_error_names_it(text: bytes, named: str) -> None:
    known = {"task_id": "t", "request_id": "r-1", "backend": "bash", "worker_id": "b-1"}
    event = read_event(text, known)
    assert isinstance(event, Unreadable)
    assert named in event.error.message


# A seamless stream

BEGUN = "It was late, and the old man went home"
TOKEN = TokenLogprob(token="x", logprob=-0.5)


def going_on(begun: str = BEGUN) -> Attempt:
    """An attempt that has to join a text of nine tokens, with thoughts and log-probabilities."""
    second = attempt(2)
    second.start = Start(begun, 9, "hm ", (TOKEN,), Anchor.of(begun))
    second.joint = Joint(second.start.anchor)
    return second


def take(attempt: Attempt, *pieces: Piece) -> list[Piece | Verdict]:
    told: list[Piece | Verdict] = []
    for seq, piece in enumerate(pieces):
        attempt.on(Streamed(piece, seq, seq), 101.0)
        told.append(attempt.new_in(piece))
    return told


def test_thoughts_and_calls_wait_until_the_words_have_joined() -> None:
    call = ToolCallDelta(index=0, id="c", function=FunctionDelta(name="look"))
    told = take(
        going_on(),
        Piece(reasoning="well ", tokens=2),
        Piece(BEGUN[:20], tool_calls=(call,), logprobs=(TOKEN,), tokens=6),
        Piece(BEGUN[20:], tokens=11),
        Piece(" alone.", "so ", logprobs=(TOKEN,), tokens=13),
    )
    assert told == [
        Verdict.WAIT,
        Verdict.WAIT,
        Piece("", "well ", (call,), tokens=11),
        Piece(" alone.", "so ", tokens=13),
    ]


def test_of_words_that_do_not_join_nothing_is_left() -> None:
    second = going_on("The cap")
    assert take(second, Piece(reasoning="well "), Piece("Su")) == [Verdict.WAIT, Verdict.NO_JOIN]
    assert second.ended(answer().model_copy(update={"output": "Sun"})) is None


@pytest.mark.parametrize("repeats_thoughts", [True, False])
def test_a_joined_answer_has_both_halves_and_log_probabilities_of_the_first_alone(*, repeats_thoughts: bool) -> None:
    second = going_on()
    take(second, Piece(reasoning="well ", tokens=2), Piece(BEGUN + " alone.", logprobs=(TOKEN,), tokens=13))
    own = {
        "output": BEGUN + " alone.",
        "reasoning": "well " if repeats_thoughts else None,
        "logprobs": (TOKEN, TOKEN),
        "completion_tokens": 13,
    }
    ended = second.ended(answer().model_copy(update=own))
    assert ended is not None
    whole = second.joined(ended)
    assert (whole.output, whole.reasoning, whole.logprobs) == (BEGUN + " alone.", "hm well ", (TOKEN,))
    assert second.joint is not None
    assert whole.completion_tokens == 9 + 13 - second.joint.withheld(13)


def test_after_thoughts_alone_all_of_the_answer_is_new() -> None:
    second = attempt(2)
    second.start = Start("", 0, "hm ", (), Anchor.of(""))
    second.joint = Joint(second.start.anchor)
    pieces = [Piece(reasoning="well "), Piece("yes", logprobs=(TOKEN,))]
    assert take(second, *pieces) == [replace(pieces[0], tokens=1), replace(pieces[1], tokens=2)]
    ended = second.ended(answer().model_copy(update={"output": "yes", "logprobs": (TOKEN,)}))
    assert ended is not None
    whole = second.joined(ended)
    assert (whole.output, whole.reasoning, whole.logprobs) == ("yes", "hm well ", (TOKEN,))
