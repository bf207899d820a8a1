"""One attempt: a request that was sent to one worker, and what became of it. Pure.

`Attempt.on` is the only way an attempt changes: an event comes, and the table in `lifecycle` says which state follows.
An attempt that ended from our side (silence, a lost worker, a cancel) may still get a last word from its worker: how
much it used, or an answer that came too late.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from math import inf
from typing import Any, assert_never

from contracts import (
    NOT_STARTED,
    BullpenError,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Outcome,
    PartialUsage,
    Piece,
    Progress,
    SilenceOk,
    TokenLogprob,
)
from manager.budgets.accounts import Reservation
from manager.config import ManagerConfig
from manager.request.events import (
    Accepted,
    AttemptEvent,
    CalledOff,
    GivenUp,
    Gone,
    Overdue,
    Streamed,
    Unjoined,
    Unreadable,
)
from manager.request.lifecycle import LIVE, SAID_NO, TRANSITIONS, Signal, State, signal_of
from manager.request.seam import Anchor, Joint, Verdict
from manager.routing.query import Choice, RoutingQuery
from manager.routing.registry import NO_PROBE, Probe, UncountedRequest

FREE = PartialUsage(cost_usd=Decimal(0))
"""The usage of an attempt that surely was not begun."""
MARGIN, MARGIN_SHARE = 2.0, 0.1
"""Seconds, and a share, by which we wait longer than the silence that a worker calls normal: the worker decides
first.
"""


@dataclass(frozen=True, slots=True)
class Start:
    """The start of an answer that the caller has already: the next worker's words go on after it."""

    text: str = ""
    tokens: int = 0
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    anchor: Anchor | None = None
    """The end of that text, by which the next worker's words are joined to it. None: the worker is given the start
    itself.
    """
    room: int | None = None
    """Tokens that the rest of the answer may have, where the caller set a limit."""

    @property
    def has_seam(self) -> bool:
        """Whether the answer is joined at an anchor. Such words carry no log-probabilities."""
        return self.anchor is not None and bool(self.text)


NOTHING = Start()


class Attempt:
    def __init__(
        self,
        number: int,
        choice: Choice,
        now: float,
        created_at: datetime,
        query: RoutingQuery,
        *,
        uncounted: UncountedRequest | None = None,
        start: Start = NOTHING,
        probe: Probe = NO_PROBE,
    ) -> None:
        """`now`: the loop's clock in seconds, as are all times here."""
        self.number = number
        self.choice = choice
        self.created_at = created_at
        self.epoch = choice.worker.heartbeat.epoch
        self.others = max(0, choice.worker.load - 1)
        """Requests that the worker had when this one was sent."""
        self.prompt_tokens = query.tokens_in
        self.openings = query.openings
        self.cached = query.cached.get(choice.worker.worker_id, 0.0)
        """Tokens of the prompt that the worker was thought to have in its cache."""
        self.uncounted = uncounted or UncountedRequest(0.0)
        """The request's part of the worker's limits, until a heartbeat counts it."""
        self.start = start
        self.joint: Joint | None = None
        """Finds the new part of the worker's words for a seamless stream; None for any other request."""
        self._held = Piece()
        """Reasoning and tool calls that came before the words had joined."""
        self._thoughts = ""
        """All reasoning of a seamless stream."""
        self.probe = probe
        """The circuit breakers for which this attempt is the probe."""
        self.reservation: Reservation | None = None
        """What is reserved for the attempt in the budgets that pay it."""
        self.inbox = ""
        """The subject to which the worker's messages come."""

        self.state = State.SENT
        self.reached = State.SENT
        """The last state before the end."""
        self.ending: AttemptEvent | None = None
        """The event that ended the attempt."""
        self.final: FinalResponse | ErrorReply | None = None
        """The worker's own final message, whenever it came."""
        self.error: BullpenError | None = None
        """Why there is no answer; None when there is one, or the attempt runs."""
        self.go_given = False
        """The worker was told that it may call a provider that bills."""
        self.silence_ok: SilenceOk | None = None
        """How long the worker's silence is normal, as its claim says."""
        self.tokens = 0
        self.sent_at = self.heard_at = self.ended_at = now
        self._moved_at = now
        self._moves = 0
        self._next_piece: int | None = 0
        """The number of the next piece; None: a piece was lost."""
        self._usage: PartialUsage | None = None

    # What happens to it

    def on(self, event: AttemptEvent, now: float) -> None:
        """Applies an event. After the worker's own final message nothing changes, except that a late answer is
        accepted.
        """
        if self.final is not None and not isinstance(event, Accepted):
            return
        before, self.state = self.state, TRANSITIONS[self.state].get(signal := signal_of(event), self.state)
        if before in LIVE:
            self._note(event, signal, before, now)
        word = event.answer if isinstance(event, Unjoined) else event
        if isinstance(word, FinalResponse | ErrorReply):
            self.final = word
            self._usage = _usage_of(word, self._usage, refused=self.state is State.REFUSED)
        if before in LIVE and self.state not in LIVE:
            self.reached, self.ending, self.ended_at = before, event, now
            self.error = self._why(event)
            self._usage = self._usage or self.seen
        elif before is State.LATE and self.state is State.ANSWERED:
            self.ending, self.ended_at, self.error = self.final, now, None
        if self.is_over:
            self.pay()

    def _note(self, event: AttemptEvent, signal: Signal, before: State, now: float) -> None:
        """Takes in what a worker says beside the state. Only progress restarts the silence time-out."""
        if isinstance(event, Claim | Progress | Streamed | FinalResponse | ErrorReply | Unreadable):
            self.heard_at = now
        match event:
            case Claim():
                self.silence_ok = event.silence_ok_ms
                self._moved_at = now if before is State.SENT else self._moved_at
            case Progress():
                moves = event.moved or 0
                if event.tokens > self.tokens or self.state is not before or moves > self._moves:
                    self._moved_at = now
                self._moves, self.tokens = max(self._moves, moves), max(self.tokens, event.tokens)
            case Streamed():
                self._moved_at = now
                self.tokens = self.tokens + 1 if event.piece.tokens is None else event.piece.tokens
                self._next_piece = event.last + 1 if event.first == self._next_piece else None
            case _:
                pass

    def wait_again(self, now: float) -> None:
        """Restarts the silence time-out: the silence is ours, or no other worker could take the request."""
        self._moved_at = now

    def pay(self) -> None:
        """Settles the reservation at what the attempt cost, as far as it is known."""
        if self.reservation is not None:
            self.reservation.settle(self.likely_cost)

    # Which worker

    @property
    def worker_id(self) -> str:
        return self.choice.worker.worker_id

    @property
    def model_id(self) -> str:
        return self.choice.card.model_id

    @property
    def backend(self) -> str:
        return self.choice.worker.heartbeat.backend

    @property
    def paid(self) -> bool:
        return not self.choice.card.local

    # How it stands

    @property
    def is_over(self) -> bool:
        return self.state not in LIVE

    @property
    def claimed(self) -> bool:
        return (self.reached if self.is_over else self.state) is not State.SENT

    @property
    def awaits_last_word(self) -> bool:
        """Whether the attempt is over, but its worker has not confirmed it and may still work."""
        return self.is_over and self.final is None and not self.started_anew

    @property
    def started_anew(self) -> bool:
        """The worker was restarted, and knows nothing of the attempt."""
        return self.choice.worker.heartbeat.epoch != self.epoch

    @property
    def worker_died(self) -> bool:
        """Whether the worker's process ended during the attempt.

        A lost connection alone is no death, and a request that only waited inside the worker did not kill it.
        """
        died = isinstance(self.ending, Gone) and self.ending.died and self.reached is not State.QUEUED
        return died and (bool(self.choice.worker.gone) or self.started_anew)

    @property
    def lost_its_line(self) -> bool:
        """Whether the worker lost its connection during the attempt, and the same process is back."""
        is_back = not self.choice.worker.gone and not self.started_anew
        return self.state is State.UNCERTAIN and isinstance(self.ending, Gone) and is_back

    @property
    def lost_a_piece(self) -> bool:
        """Whether a part of its stream was lost."""
        return self._next_piece is None

    @property
    def found_no_place(self) -> bool:
        """Whether the worker was full."""
        return self.state is State.REFUSED and self.final is not None and self.error_code is ErrorCode.OVERLOADED

    @property
    def declined(self) -> bool:
        """Whether the worker or its provider declined the request for reasons other than load."""
        code = self.error_code
        return self.state is State.REFUSED and self.final is not None and code in SAID_NO - NOT_STARTED

    @property
    def prompt_is(self) -> int:
        """The size of the prompt in tokens, as the worker told it when the model's context window was too small; else
        0.
        """
        error = self.error
        if error is None or (error.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED and error.prompt_tokens is None):
            return 0
        return error.prompt_tokens or self.choice.card.context_window + 1

    # Patience

    def overdue_at(self, config: ManagerConfig) -> float:
        """When (loop's clock) the silence becomes too long. A queued attempt may wait as long as its worker's heart
        beats.
        """
        match self.state:
            case State.SENT:
                return self._moved_at + config.claim_timeout
            case State.PREFILL | State.DECODE:
                return self._moved_at + max(self._silence(config), self.choice.worker.pause)
            case _:
                return inf

    def _silence(self, config: ManagerConfig) -> float:
        """Seconds of silence that are normal in this state. Our own time-outs count only where the claim names none."""
        writing, ok = self.state is State.DECODE, self.silence_ok
        if ok is None:
            return config.next_token_timeout if writing else config.first_token_timeout
        seconds = (ok.next_token if writing else ok.first_token) / 1000
        return seconds + max(MARGIN, MARGIN_SHARE * seconds)

    # How it ended

    @property
    def answer(self) -> FinalResponse | None:
        """The answer, also one that came too late."""
        return self.final if isinstance(self.final, FinalResponse) else None

    def new_in(self, piece: Piece) -> Piece | Verdict:
        """What the caller gets of a piece; in a seamless stream, the new part.

        Reasoning and tool calls wait until the words have joined.
        """
        joint = self.joint
        if joint is None:
            return replace(piece, tokens=self.start.tokens + self.tokens)
        text = joint.take(piece.text, self.tokens)
        self._thoughts += piece.reasoning
        self._held += replace(piece, text="", logprobs=() if self.start.has_seam else piece.logprobs)
        if isinstance(text, Verdict):
            return text
        held, self._held = self._held, Piece()
        return replace(held, text=text, tokens=self.start.tokens + self.tokens - joint.withheld(self.tokens))

    def ended(self, answer: FinalResponse) -> FinalResponse | None:
        """The answer; in a seamless stream, its new part. None: its words do not join."""
        joint = self.joint
        if joint is None:
            return answer
        if isinstance(joint.finish(answer.output, answer.completion_tokens, has_gap=self.lost_a_piece), Verdict):
            return None
        told: dict[str, Any] = {"output": joint.text}
        if not (answer.reasoning or "").startswith(self._thoughts):
            told["reasoning"] = self._thoughts
        if joint.was_cut:
            told["finish_reason"] = "length"
        return answer.model_copy(update=told)

    def joined(self, answer: FinalResponse) -> FinalResponse:
        """The whole answer for the caller: the start that it had already, and what `ended` returned."""
        start = self.start
        if start == NOTHING:
            return answer
        withheld = 0 if self.joint is None else self.joint.withheld(answer.completion_tokens)
        logprobs = None if answer.logprobs is None else (*start.logprobs, *answer.logprobs)
        told = {
            "output": start.text + answer.output,
            "reasoning": start.reasoning + (answer.reasoning or "") or None,
            "logprobs": start.logprobs or None if start.has_seam else logprobs,
            "completion_tokens": start.tokens + answer.completion_tokens - withheld,
            "tokens_used": start.tokens + answer.tokens_used - withheld,
        }
        return answer.model_copy(update=told)

    @property
    def outcome(self) -> Outcome:
        """The outcome, as the books call it."""
        beaten = isinstance(self.ending, CalledOff) and self.ending.beaten
        match self.state:
            case State.ANSWERED:
                return Outcome.OK
            case State.REFUSED:
                return Outcome.REFUSED
            case State.FAILED:
                return (isinstance(self.ending, ErrorReply) and self.ending.outcome) or Outcome.FAILED
            case State.UNCERTAIN:
                return Outcome.UNCERTAIN
            case State.LATE:
                return Outcome.HEDGED_LOSER if beaten else Outcome.LATE_DISCARDED
            case State.CANCELLED | State.SENT | State.QUEUED | State.PREFILL | State.DECODE:
                return Outcome.HEDGED_LOSER if beaten else Outcome.CANCELLED
            case _:
                assert_never(self.state)

    def _why(self, ending: AttemptEvent) -> BullpenError | None:
        match ending:
            case ErrorReply():
                return BullpenError.from_detail(ending.error)
            case Unreadable() | CalledOff() | GivenUp():
                return ending.error
            case Unjoined():
                why = f"what {self.worker_id} says does not join the text that was delivered"
                return BullpenError(ErrorCode.UPSTREAM_ERROR, why, fault="request")
            case Gone():
                return BullpenError(ErrorCode.NO_WORKER, f"{self.worker_id} went away ({ending.why})")
            case Overdue() if self.reached is State.SENT:
                return BullpenError(ErrorCode.NO_WORKER, f"{self.worker_id} did not claim the request")
            case Overdue():
                stage = "between tokens" if self.reached is State.DECODE else "before the first token"
                return BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self.worker_id} stalled {stage}")
            case _:
                return None

    @property
    def error_code(self) -> ErrorCode | None:
        return self.error.code if self.error else None

    @property
    def duration_ms(self) -> float:
        return round((self.ended_at - self.sent_at) * 1000, 3)

    # What it used

    @property
    def usage(self) -> PartialUsage:
        """What the attempt has used, as far as it is known."""
        return self._usage or self.seen

    @property
    def seen(self) -> PartialUsage:
        """What we saw of its work. A worker never calls a provider that bills without our `go`."""
        at = self.reached if self.is_over else self.state
        if self.paid and not self.go_given and at in (State.SENT, State.QUEUED):
            return FREE
        return PartialUsage(completion_tokens=self.tokens)

    @property
    def cost(self) -> Decimal | None:
        """The cost in US dollars as the worker told it, exactly. None: not told (yet); it is never guessed.

        A JSON number may have lost digits that the tokens and the price still have.
        """
        usage, price = self.usage, self.choice.card.price
        told = usage.cost_usd
        if not told or price is None or usage.prompt_tokens is None or usage.completion_tokens is None:
            return told
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        exact = price.cost(usage.prompt_tokens, usage.completion_tokens, cached, written)
        return exact if float(exact) == float(told) else told

    @property
    def likely_cost(self) -> Decimal | None:
        """The cost, or an estimate from the prompt's size and the tokens seen: for limits, never for the books."""
        cost, usage, price = self.cost, self.usage, self.choice.card.price
        if cost is not None or price is None:
            return cost
        return price.cost(usage.prompt_tokens or self.prompt_tokens, usage.completion_tokens or 0)


def _usage_of(word: FinalResponse | ErrorReply, seen: PartialUsage | None, *, refused: bool) -> PartialUsage:
    """The usage in a worker's final message. `seen`: what we knew when the attempt was given up; None: it ran."""
    if isinstance(word, FinalResponse):
        return PartialUsage.of(word)
    return word.usage or seen or (FREE if refused else PartialUsage())
