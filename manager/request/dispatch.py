"""One request's way to its answer: decide, choose, send, follow, and decide again. Read `Dispatcher.answer` first.

Nothing is decided here: `retry_policy` says what is done next, `selection` finds the worker, `attempt` says what a
worker's messages mean. Usually one attempt runs; two when the first is slower than nearly always (hedging). Text that a
streaming caller has is never taken back: the next worker goes on after it, or the stream says that it starts anew.
"""

from contextlib import suppress
from decimal import Decimal
from math import inf
from typing import assert_never

import structlog

from bus import BusError, Message
from contracts import (
    Answer,
    BullpenError,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Go,
    Piece,
    Progress,
    utc_now,
)
from contracts import subjects as s
from manager.budgets.accounts import Reservation
from manager.request.attempt import NOTHING, Attempt, Start
from manager.request.event_queue import Heard
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
from manager.request.lifecycle import State
from manager.request.retry_policy import (
    Answered,
    Ask,
    Fail,
    Limits,
    Look,
    Wait,
    WaitForWord,
    decide,
    out_of_time,
    started,
)
from manager.request.seam import Verdict
from manager.request.selection import WorkerSelector
from manager.request.shared_state import SharedState
from manager.request.state import RequestState
from manager.routing.costs import expected_cost, likely_cost
from manager.routing.query import Choice
from manager.routing.registry import RETURN_WITHIN

log = structlog.get_logger(__name__)

OVERSLEPT = 0.5
"""Seconds by which a timer may ring late; later means that this process did not run."""


class Dispatcher:
    def __init__(self, shared: SharedState, state: RequestState) -> None:
        self._shared = shared
        self._state = state
        self._config = shared.config
        """The request as it came."""
        self._selector = WorkerSelector(shared, state)
        self._retries_allowed = 0
        """Failed attempts that the retry budget has paid for."""
        self._reservation: Reservation | None = None
        """The reservation for the chosen worker, until the request is sent there."""
        self._hedge_at = inf
        """When (loop's clock) a second worker is asked as well."""

    async def answer(self) -> Answer:
        """Asks one worker after another until one has answered well enough. Raises `BullpenError`."""
        try:
            return await self._show(await self._answer())
        except BullpenError:
            best = self._state.best
            if best is None or self._state.stopped is not None:
                raise
            return await self._show(best)  # a less sure answer is better than none

    async def _answer(self) -> FinalResponse:
        look: Look | None = None
        while True:
            self._check_wanted()
            await self._hear_the_late()
            match decide(self._state.attempts, look, self._limits(), self._shared, self._shared.now()):
                case Answered(answer):
                    return answer
                case Ask() as ask:
                    look = await self._ask(ask)
                case Wait(seconds):
                    assert look is not None
                    await self._selector.wait(seconds, look.ranking)
                    look = None
                case WaitForWord(seconds):
                    await self._listen_for(seconds)
                case Fail(error):
                    self._selector.explain_failure(look)
                    raise error
                case never:
                    assert_never(never)

    def _limits(self) -> Limits:
        """What the caller and the config allow."""
        return Limits(
            max_attempts_local=self._config.max_attempts_local,
            max_attempts_paid=self._config.max_attempts_paid,
            left_s=self._state.remaining(self._shared.now()),
            min_confidence=self._state.request.min_confidence or 0.0,
            seam=self._state.seam,
            reconnected_at=self._shared.reconnected_at,
            retries_allowed=self._retries_allowed,
        )

    async def _show(self, answer: FinalResponse) -> Answer:
        """The answer for the caller. A streaming caller may have got the text of another attempt."""
        state, reply = self._state, self._state.reply
        attempt = next(a for a in state.attempts if a.answer is answer)
        whole = attempt.joined(answer)
        if reply.streaming and not reply.delivered.is_all_of(whole):
            await reply.resumed(state.attempts[-1].worker_id, attempt.worker_id, continued=False)
            await self._deliver(reply.delivered.missing(whole) or Piece())
        return state.finished(answer, attempt, self._shared.now())

    def _check_wanted(self) -> None:
        if self._state.stopped is not None:
            raise self._state.stopped

    # Asking

    async def _ask(self, ask: Ask) -> Look | None:
        """Chooses a worker, sends the request there, and follows the attempt to its end.

        Returns how the workers stand when none of them could be chosen.
        """
        if ask.is_retry:
            self._shared.retries.take(self._shared.now())
            self._retries_allowed = len(started(self._state.attempts))
        if self._state.trace is not None:
            self._state.trace.choosing()
        ranking = self._selector.rank(ask)
        if ranking.winner is None:
            if self._state.trace is not None:
                self._state.trace.none_to_choose(ranking)
            return await self._selector.look(ask, ranking)
        if await self._set_aside(ranking.winner):
            self._selector.explain(ranking)
            await self._send(ranking.winner)
            self._hedge_at = self._hedging_from()
            await self._follow()
        return None

    async def _set_aside(self, choice: Choice) -> bool:
        """Reserves the likely cost in the budgets. False: one of them has not enough left for this model."""
        state, card = self._state, choice.card
        cost = likely_cost(state.asked, card, self._shared.estimates)
        try:
            self._reservation = await self._shared.budgets.reserve(state.request.tenant, card.model_id, cost)
        except BullpenError as error:
            state.unaffordable[card.model_id] = error
            return False
        return True

    async def _send(self, choice: Choice) -> None:
        """Hands the request to the worker, on the worker's own subject."""
        shared, state, now = self._shared, self._state, self._shared.now()
        start = await self._resume(choice)
        uncounted, probe = shared.took(choice, state.asked)
        attempt = Attempt(
            len(state.attempts) + 1,
            choice,
            now,
            utc_now(),
            shared.remember(state.asked),
            uncounted=uncounted,
            start=start,
            probe=probe,
        )
        attempt.joint = state.joint_of(start)
        attempt.reservation, self._reservation = self._reservation, None
        state.attempts.append(attempt)
        listener = shared.bus.listen(lambda message: self._hear(attempt, message), of=attempt.backend)
        state.listeners.append(listener)
        attempt.inbox = listener.subject
        subject = s.asked_worker(state.request.kind, attempt.backend, attempt.worker_id)
        headers = state.headers_for(attempt, now)
        if state.trace is not None:
            headers |= state.trace.sent(attempt)
        try:
            await shared.bus.publish(subject, state.body_for(attempt), reply=listener.subject, headers=headers)
        except BullpenError as error:  # too large with what we add to it: the worker never hears of it
            self._on(attempt, ErrorReply(error=error.detail()))
            raise

    async def _resume(self, choice: Choice) -> Start:
        """The start of an answer that the next worker goes on after. Tells a streaming caller which worker goes on.

        In a seamless stream the caller is told only once the worker's words have joined its text.
        """
        state = self._state
        previous, reply = state.current, state.reply
        if previous is None or not reply.delivered:
            return NOTHING
        start = state.start_for(choice)
        if start.anchor is None:
            await reply.resumed(previous.worker_id, choice.worker.worker_id, continued=bool(start.text))
        return start

    def _hear(self, attempt: Attempt, message: Message) -> None:
        """Takes in each message to the attempt's inbox; `_follow` reads them in its turn."""
        for field in self._state.hear(attempt, message, self._shared.now()):
            if self._shared.told.first(attempt.worker_id, field):
                log.warning("worker_not_believed", worker_id=attempt.worker_id, field=field)
        attempt.uncounted.known = True
        if message.no_responders:
            back_by = self._shared.now() + RETURN_WITHIN  # a server that is killed tells no other server of its clients
            self._shared.registry.leave(attempt.worker_id, "nothing listens on its subject", back_by=back_by)
        if attempt.is_over:
            self._shared.wake(self._state.turn)  # it may be what the request waits for

    # Following

    async def _follow(self) -> None:
        """Follows the attempts that run until one has answered, or none runs.

        Raises `BullpenError` when the caller cancelled the request or the deadline has passed.
        """
        state = self._state
        while state.running:
            until = self._patience_ends()
            heard = await state.events.next(until)
            if state.stopped is not None:
                await self._call_off(CalledOff(state.stopped))
                raise state.stopped
            if heard is None and self._shared.now() > until + OVERSLEPT and state.deadline > self._shared.now():
                self._wait_again()
            elif heard is None:
                await self._lose_patience()
            elif await self._take(heard):
                await self._call_off(_beaten())
                return

    def _wait_again(self) -> None:
        """This process was frozen or busy: workers' messages are still to be read, so no attempt is overdue yet."""
        self._hedge_at = inf
        for attempt in self._state.running:
            attempt.wait_again(self._shared.now())

    def _patience_ends(self) -> float:
        overdue = (attempt.overdue_at(self._config) for attempt in self._state.running)
        return min(self._state.deadline, self._hedge_at, *overdue)

    async def _take(self, heard: Heard) -> bool:
        """Handles one event. True: it is an answer that counts."""
        attempt, event = heard.attempt, heard.event
        if attempt.is_over:
            return self._take_late(attempt, event)
        match event:
            case Claim() | Progress():
                self._on(attempt, event)
                if heard.sender:
                    await self._give_go(attempt, heard.sender)
            case Streamed():
                await self._take_piece(attempt, event)
            case FinalResponse():
                await self._take_answer(attempt, event)
            case Gone() | Unreadable() | Unjoined():
                await self._give_up(attempt, event)  # it may live: a lost connection is no death
            case ErrorReply() | Overdue() | CalledOff() | GivenUp() | Accepted():
                self._on(attempt, event)
            case _:
                assert_never(event)
        return attempt.state is State.ANSWERED

    async def _give_go(self, attempt: Attempt, sender: str) -> None:
        """Allows a worker to call a provider that bills."""
        attempt.go_given = True
        go = Go(budget_ms=max(1, round(self._state.remaining(self._shared.now()) * 1000)))
        await self._shared.bus.publish(sender, go.to_bytes())

    async def _take_piece(self, attempt: Attempt, event: Streamed) -> None:
        """Passes a piece on. Of two attempts that race, the first whose text reaches the caller has won."""
        self._on(attempt, event)
        if attempt.lost_a_piece:
            return  # the rest comes with the answer
        new = attempt.new_in(event.piece)
        if new is Verdict.NO_JOIN:
            await self._give_up(attempt, Unjoined())
        if isinstance(new, Verdict):
            return
        self._hedge_at = inf
        if len(self._state.running) > 1:
            await self._call_off(_beaten(), but=attempt)
        await self._tell_joined(attempt)
        await self._deliver(new)
        self._state.spoke_last = attempt.worker_id

    async def _tell_joined(self, attempt: Attempt) -> None:
        """Tells the caller of a seamless stream that another worker goes on after the text it has."""
        state = self._state
        if attempt.start.anchor is not None and state.spoke_last != attempt.worker_id:
            await state.reply.resumed(state.spoke_last, attempt.worker_id, continued=True)
            state.spoke_last = attempt.worker_id

    async def _take_answer(self, attempt: Attempt, answer: FinalResponse) -> None:
        """Takes a whole answer. A streaming caller gets what it still lacks: a piece may be lost when a connection
        breaks.
        """
        told, reply = attempt.ended(answer), self._state.reply
        missing = reply.delivered.missing(attempt.joined(told)) if told is not None and reply.streaming else None
        if told is None or (attempt.joint is not None and missing is None):
            self._on(attempt, Unjoined(answer))
            return
        if missing is not None:
            await self._tell_joined(attempt)
        if missing:
            await self._deliver(missing)
        self._on(attempt, told)

    async def _deliver(self, piece: Piece) -> None:
        """Sends a streaming caller more of the answer."""
        self._state.delivered_tokens = piece.tokens or 0
        await self._state.reply.chunk(piece)

    def _take_late(self, attempt: Attempt, event: AttemptEvent) -> bool:
        """Takes the answer of an attempt that was given up, unless there is another answer. True: it counts."""
        attempt.on(event, self._shared.now())
        if attempt.state is not State.LATE or self._state.reply.streaming or self._state.best is not None:
            return False
        attempt.on(Accepted(), self._shared.now())
        self._shared.learn_late(attempt)
        return True

    async def _hear_the_late(self) -> None:
        """Takes an answer of an attempt that was given up, if one came while no attempt was followed."""
        while (heard := self._state.events.take()) is not None:
            if heard.attempt.is_over and self._take_late(heard.attempt, heard.event):
                return

    async def _listen_for(self, seconds: float) -> None:
        """Waits up to `seconds` for an event, such as the last word of a worker that was told to stop."""
        heard = await self._state.events.next(self._shared.now() + seconds)
        if heard is not None and heard.attempt.is_over:
            self._take_late(heard.attempt, heard.event)

    # Losing patience

    async def _lose_patience(self) -> None:
        state, now = self._state, self._shared.now()
        if state.remaining(now) <= 0:
            await self._call_off(GivenUp(out_of_time()))
            raise out_of_time()
        if now >= self._hedge_at:
            await self._hedge()
            return
        for attempt in state.running:
            if attempt.overdue_at(self._config) > now:
                continue
            if not self._shared.bus.is_connected:
                attempt.wait_again(now)  # we could not hear it if it spoke
            elif not attempt.claimed and self._is_first_at_its_worker(attempt) and not self._selector.has_another():
                attempt.wait_again(now)  # slow to claim, but there is no other worker
            else:
                await self._give_up(attempt, Overdue())

    def _is_first_at_its_worker(self, attempt: Attempt) -> bool:
        return not any(a.worker_id == attempt.worker_id for a in self._state.attempts if a is not attempt)

    def _hedging_from(self) -> float:
        """When a second worker is asked as well: after nearly all of this model's answers would have come."""
        state, hedging = self._state, self._config.hedging
        attempt, request = state.attempts[-1], state.request
        if len(state.attempts) > 1 or request.priority != "interactive" or not hedging.share:
            return inf
        if not request.hedge and (attempt.paid or "hedge" in request.model_fields_set):
            return inf
        record = self._shared.estimates.look(attempt.model_id)
        return attempt.sent_at + record.slow_ms / 1000 if len(record.recent_ms) >= hedging.at_least else inf

    async def _hedge(self) -> None:
        """Asks an idle worker as well, unless too many requests are doubled already."""
        self._hedge_at = inf
        shared, state = self._shared, self._state
        idle = [w for w in shared.registry if w.idle and (state.request.hedge or w.all_local)]
        ranking = self._selector.rank_to_hedge(idle)
        if ranking.winner is None or not shared.hedges.take(shared.now()):
            return
        cost = expected_cost(state.asked, ranking.winner.card, shared.estimates)
        if not ranking.winner.card.local and not shared.may_spend_twice(cost or Decimal(0), shared.now()):
            return
        if not await self._set_aside(ranking.winner):
            return
        self._selector.explain(ranking)
        await self._send(ranking.winner)

    # Ending

    async def _call_off(self, event: CalledOff | GivenUp, but: Attempt | None = None) -> None:
        """Stops every attempt that still runs, except `but`."""
        for attempt in self._state.running:
            if attempt is not but:
                await self._give_up(attempt, event)

    async def _give_up(self, attempt: Attempt, event: AttemptEvent) -> None:
        """Ends the attempt from our side, and tells the worker to stop."""
        self._on(attempt, event)
        with suppress(BusError):  # then its answer is late, and booked as such
            await self._shared.bus.publish(s.worker_control(attempt.worker_id), self._state.cancel(attempt).to_bytes())

    def close(self) -> None:
        """Releases what is still open: the reservation, and attempts that run because of a bug or a lost connection."""
        if self._reservation is not None:
            self._reservation.settle(Decimal(0))
        for attempt in self._state.running:
            self._on(attempt, GivenUp(BullpenError(ErrorCode.CANCELLED, "the Manager gave the request up")))
        self._shared.learn_of_refusals(self._state.attempts)

    def _on(self, attempt: Attempt, event: AttemptEvent) -> None:
        """Applies an event to an attempt; what its end teaches is learned at once."""
        attempt.on(event, self._shared.now())
        if not attempt.is_over:
            return
        if attempt.error is not None:
            # The code alone: a provider may quote the prompt in its message. The books have its words.
            log.info("attempt_ended", worker_id=attempt.worker_id, outcome=attempt.outcome, error=attempt.error_code)
        if self._state.trace is not None:
            self._state.trace.ended(attempt)
        self._shared.learn(attempt)


def _beaten() -> CalledOff:
    return CalledOff(BullpenError(ErrorCode.CANCELLED, "another worker was quicker"), beaten=True)
