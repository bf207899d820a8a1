"""One request's way to its answer: choose, send, follow, and choose again when that came to nothing.

Read `answer` first. Usually one worker is at it; two when the first is slower than nearly always (hedging).
What has gone out to a streaming caller is never taken back: whoever comes next goes on after it, or the
stream says that it starts anew.
"""

from contextlib import suppress
from decimal import Decimal
from math import inf

import structlog

from bus import BusError, Message
from contracts import (
    BullpenError,
    Chunk,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Go,
    InferenceResponse,
    Outcome,
    Progress,
    utc_now,
)
from contracts import subjects as s
from manager.budgets.accounts import Reservation
from manager.request import retry_policy as failover
from manager.request.attempt import FREE, Attempt, Ending, Start
from manager.request.events import Gone, Heard
from manager.request.selection import WorkerSelector
from manager.request.shared_state import SharedState
from manager.request.state import RequestState, out_of_time
from manager.routing.costs import expected_cost, likely_cost
from manager.routing.filters import RejectReason
from manager.routing.query import Choice

log = structlog.get_logger(__name__)

OVERSLEPT = 0.5
"""Seconds after which a timer that rings late means that this process did not run."""


class Dispatcher:
    def __init__(self, shared: SharedState, inflight: RequestState) -> None:
        self._shared = shared
        self._inflight = inflight
        self._config = shared.config
        """As it was when the request came."""
        self._selector = WorkerSelector(shared, inflight)
        self._reservation: Reservation | None = None
        """For the one who is chosen, until it is sent."""
        self._hedge_at = inf
        """When (loop's clock) a second worker is asked as well."""

    async def answer(self) -> InferenceResponse:
        """Asks one worker after the other until one has answered well enough. Raises `BullpenError`."""
        while True:
            try:
                choice = await self._choose()
                if choice is None:
                    return await self._best()
                await self._send(choice)
                self._hedge_at = self._hedging_from()
                answer = await self._follow()
                if answer is None and (error := self._verdict()):
                    raise error
            except BullpenError:
                if self._inflight.best is None or self._inflight.stopped is not None:
                    raise
                return await self._best()  # a less sure answer is better than none
            if answer is not None and self._sure_enough(answer):
                return await self._best()

    def _sure_enough(self, answer: FinalResponse) -> bool:
        """Keeps the better answer; True when it reaches the confidence the caller asked for."""
        inflight = self._inflight
        if inflight.best is None or answer.confidence > inflight.best.confidence:
            inflight.best = answer
        return answer.confidence >= (inflight.request.min_confidence or 0.0)

    async def _best(self) -> InferenceResponse:
        """The surest answer."""
        answer = self._inflight.best
        assert answer is not None
        attempt = next(a for a in self._inflight.attempts if a.ended is answer)
        await self._show(attempt, answer)
        return self._inflight.finished(answer, attempt, self._shared.now())

    async def _show(self, attempt: Attempt, answer: FinalResponse) -> None:
        """A streaming caller may have seen another text last: of somebody who turned out less sure, or failed."""
        whole, inflight = attempt.start.text + answer.output, self._inflight
        if inflight.reply.streaming and inflight.reply.delivered != whole:
            await inflight.reply.resumed(inflight.attempts[-1].worker_id, attempt.worker_id, continued=False)
            await self._deliver(whole, attempt.start.tokens + answer.completion_tokens)

    def _verdict(self) -> BullpenError | None:
        """Nobody answered: the error to end with, or None: ask the next one."""
        attempts, shared = self._inflight.attempts, self._shared
        if error := failover.verdict(attempts, self._config):
            return error
        tried = failover.started(attempts)
        if failover.last(attempts) not in tried:
            return None  # it was refused: going elsewhere costs nothing
        if not shared.retries.take(shared.now()):
            return failover.exhausted(attempts, "too much is being tried again already")
        wasted = sum((attempt.likely_cost or Decimal(0) for attempt in tried if attempt.paid), Decimal(0))
        if wasted and not shared.spending.allows(shared.now(), wasted):
            return failover.exhausted(attempts, "too much has been paid twice in the last ten minutes")
        return None

    # Choosing

    async def _choose(self) -> Choice | None:
        """The best worker; waits while all are full. None when a less sure answer is all there will be."""
        inflight = self._inflight
        while True:
            self._check_wanted()
            if inflight.remaining(self._shared.now()) <= 0:
                raise out_of_time()
            if (late := self._late_answer()) is not None:
                self._sure_enough(late)
                return None
            ranking = self._selector.rank()
            if inflight.best is not None and not ranking.in_time and ranking.obstacle is not RejectReason.FULL:
                return None  # nobody surer, or not in time
            if ranking.winner is None and ranking.obstacle is not RejectReason.FULL and inflight.best is None:
                ranking = self._selector.rank_again(last_resort=self._is_last_resort(ranking.obstacle))
            if ranking.winner is not None:
                if not await self._set_aside(ranking.winner):
                    continue
                self._selector.explain(ranking)
                return ranking.winner
            await self._selector.wait_for_somebody(ranking)

    def _is_last_resort(self, obstacle: RejectReason) -> bool:
        """Whether who was only slow to claim is asked after all: not once somebody has begun it, and failed."""
        return obstacle is RejectReason.FAILING or not failover.started(self._inflight.attempts)

    async def _set_aside(self, choice: Choice) -> bool:
        """Reserves in the budgets what it will probably cost; False: one of them has not enough left for this model."""
        inflight, card = self._inflight, choice.card
        cost = likely_cost(inflight.asked, card, self._shared.estimates)
        try:
            self._reservation = await self._shared.budgets.reserve(inflight.request.tenant, card.model_id, cost)
        except BullpenError as error:
            inflight.unaffordable[card.model_id] = error
            return False
        return True

    def _check_wanted(self) -> None:
        if self._inflight.stopped is not None:
            raise self._inflight.stopped

    # Asking

    async def _send(self, choice: Choice) -> None:
        """Hands the request to the worker, on the worker's own subject."""
        shared, inflight, now = self._shared, self._inflight, self._shared.now()
        start = await self._resume(choice)
        uncounted, probe = shared.took(choice, inflight.asked)
        attempt = Attempt(
            len(inflight.attempts) + 1,
            choice,
            now,
            utc_now(),
            shared.remember(inflight.asked),
            uncounted=uncounted,
            start=start,
            probe=probe,
        )
        attempt.reservation, self._reservation = self._reservation, None
        inflight.attempts.append(attempt)
        listener = shared.bus.listen(lambda message: self._hear(attempt, message))
        inflight.listeners.append(listener)
        attempt.inbox = listener.subject
        subject = s.infer_worker(choice.worker.heartbeat.backend, choice.worker.worker_id)
        headers = inflight.headers_for(attempt, now)
        try:
            await shared.bus.publish(subject, inflight.body, reply=listener.subject, headers=headers)
        except BullpenError as error:  # too large with what we add to it: the worker never hears of it
            self._end(attempt, Ending(Outcome.REFUSED, error, FREE), said_all=True)
            raise

    async def _resume(self, choice: Choice) -> Start:
        """What the next worker has to go on after. A caller who has text already is told what becomes of it."""
        inflight = self._inflight
        previous, reply = inflight.current, inflight.reply
        if previous is None or not reply.delivered:
            return Start()
        start = Start()
        if inflight.continuable and "prefill" in choice.card.capabilities:
            start = Start(reply.delivered, inflight.delivered_tokens)
        await reply.resumed(previous.worker_id, choice.worker.worker_id, continued=bool(start.text))
        return start

    def _hear(self, attempt: Attempt, message: Message) -> None:
        self._inflight.hear(attempt, message)
        attempt.uncounted.known = True
        if message.no_responders:
            self._shared.registry.leave(attempt.worker_id, "nobody listens on its subject")
        if attempt.ended is not None:
            self._shared.queue.call(len(self._shared.queue))  # it may be what somebody waits for

    # Following

    async def _follow(self) -> FinalResponse | None:
        """Listens to whoever is at it until one has answered; None: nobody will.

        Raises `BullpenError` when the caller wants it no more or the deadline has passed.
        """
        inflight = self._inflight
        while inflight.running:
            until = self._patience_ends()
            heard = await inflight.events.next(until)
            if inflight.stopped is not None:
                await self._call_off(inflight.stopped, Outcome.CANCELLED)
                raise inflight.stopped
            if heard is None and self._shared.now() > until + OVERSLEPT and inflight.deadline > self._shared.now():
                self._wait_again()
            elif heard is None:
                await self._lose_patience()
            elif (answer := await self._take(heard)) is not None:
                await self._call_off(_beaten(), Outcome.HEDGED_LOSER)
                return answer
        return None

    def _wait_again(self) -> None:
        """We were frozen, or busy: what workers said meanwhile is still to be read, so nobody is overdue yet."""
        self._hedge_at = inf
        for attempt in self._inflight.running:
            attempt.wait_again(self._shared.now())

    def _patience_ends(self) -> float:
        inflight = self._inflight
        overdue = (attempt.overdue_at(self._config) for attempt in inflight.running)
        return min(inflight.deadline, self._hedge_at, *overdue)

    async def _take(self, heard: Heard) -> FinalResponse | None:
        """One thing heard. Returns an answer that counts."""
        attempt, event = heard.attempt, heard.event
        if attempt.ended is not None:
            return self._take_late(heard)
        match event:
            case Claim() | Progress() as sign:
                attempt.hear(sign, self._shared.now())
                if heard.sender:
                    attempt.allowed = True
                    go = Go(budget_ms=max(1, round(self._inflight.remaining(self._shared.now()) * 1000)))
                    await self._shared.bus.publish(heard.sender, go.to_bytes())
            case Chunk() as chunk:
                await self._take_chunk(attempt, chunk)
            case FinalResponse() as answer:
                await self._catch_up(attempt, answer)
                self._end(attempt, answer, said_all=True)
                return answer
            case ErrorReply() as reply:
                self._end(attempt, Ending.told(reply), said_all=True)
            case Gone(why, died):
                await self._give_up(attempt, attempt.lost(why, died=died))  # it may live: a lost connection is no death
            case BullpenError() as rubbish:
                await self._give_up(attempt, Ending(Outcome.FAILED, rubbish, attempt.seen))
        return None

    async def _take_chunk(self, attempt: Attempt, chunk: Chunk) -> None:
        """Passes it on. Of two who race, the first who speaks to the caller has won."""
        attempt.hear(chunk, self._shared.now())
        if attempt.missed_piece:
            return  # the rest comes with the answer
        self._hedge_at = inf
        if len(self._inflight.running) > 1:
            await self._call_off(_beaten(), Outcome.HEDGED_LOSER, but=attempt)
        await self._deliver(chunk.delta, attempt.start.tokens + attempt.tokens)

    async def _deliver(self, text: str, tokens: int) -> None:
        """More text for a streaming caller, who then has so many tokens of the answer."""
        self._inflight.delivered_tokens = tokens
        await self._inflight.reply.chunk(text, tokens)

    async def _catch_up(self, attempt: Attempt, answer: FinalResponse) -> None:
        """A piece may be lost when a connection breaks: what the caller misses is in the answer itself."""
        whole, reply = attempt.start.text + answer.output, self._inflight.reply
        if reply.streaming and whole != reply.delivered and whole.startswith(reply.delivered):
            await self._deliver(whole[len(reply.delivered) :], attempt.start.tokens + answer.completion_tokens)

    def _take_late(self, heard: Heard) -> FinalResponse | None:
        """The answer of a worker that was given up on counts, as long as nobody has answered yet."""
        attempt, event = heard.attempt, heard.event
        if isinstance(event, FinalResponse) and not self._inflight.reply.streaming and not attempt.said_all:
            attempt.end(event, self._shared.now(), said_all=True)
            attempt.pay()
            self._shared.learn_late(attempt, event)
            return event
        if isinstance(event, ErrorReply | FinalResponse):
            attempt.hear_afterwards(event)
        return None

    def _late_answer(self) -> FinalResponse | None:
        """Whether somebody given up on has answered while nobody was being followed."""
        while (heard := self._inflight.events.take()) is not None:
            if heard.attempt.ended is not None and (late := self._take_late(heard)) is not None:
                return late
        return None

    # Losing patience

    async def _lose_patience(self) -> None:
        inflight, now = self._inflight, self._shared.now()
        if inflight.remaining(now) <= 0:
            await self._call_off(out_of_time(), Outcome.UNCERTAIN)
            raise out_of_time()
        if now >= self._hedge_at:
            await self._hedge()
            return
        for attempt in inflight.running:
            if attempt.overdue_at(self._config) > now:
                continue
            if not self._shared.bus.is_connected:
                attempt.wait_again(now)  # we could not hear it if it spoke
            elif not attempt.claimed and self._selector.rank().winner is None:
                attempt.wait_again(now)  # slow to claim, but there is nobody else
            else:
                await self._give_up(attempt, attempt.overdue())

    def _hedging_from(self) -> float:
        """When a second worker is asked as well: later than nearly all of this model's answers come."""
        inflight, hedging = self._inflight, self._config.hedging
        attempt, request = inflight.attempts[-1], inflight.request
        if len(inflight.attempts) > 1 or request.priority != "interactive" or not hedging.share:
            return inf
        if not request.hedge and (attempt.paid or "hedge" in request.model_fields_set):
            return inf
        record = self._shared.estimates.of(attempt.model_id)
        return attempt.sent + record.slow_ms / 1000 if len(record.recent_ms) >= hedging.at_least else inf

    async def _hedge(self) -> None:
        """Asks an idle worker too, if one is here and not too many requests are doubled already."""
        self._hedge_at = inf
        shared, inflight = self._shared, self._inflight
        idle = [m for m in shared.registry if m.idle and (inflight.request.hedge or m.all_local)]
        ranking = shared.rank(inflight.question(shared.reconnected_at, shared.now()), inflight.request.policy, idle)
        if ranking.winner is None or not shared.hedges.take(shared.now()):
            return
        cost = expected_cost(inflight.asked, ranking.winner.card, shared.estimates)
        if not ranking.winner.card.local and not shared.spending.allows(shared.now(), cost or Decimal(0)):
            return
        if not await self._set_aside(ranking.winner):
            return
        self._selector.explain(ranking)
        await self._send(ranking.winner)

    # Ending

    async def _call_off(self, why: BullpenError, outcome: Outcome, but: Attempt | None = None) -> None:
        """Stops everybody who is still at it: their answer is not wanted (any more)."""
        for attempt in self._inflight.running:
            if attempt is not but:
                await self._give_up(attempt, Ending(outcome, why, attempt.seen))

    async def _give_up(self, attempt: Attempt, ending: Ending) -> None:
        """Ends the attempt from our side, and tells the worker to stop."""
        self._end(attempt, ending, said_all=False)
        with suppress(BusError):  # then its answer is late, and booked as such
            await self._shared.bus.publish(
                s.worker_control(attempt.worker_id), self._inflight.cancel(attempt).to_bytes()
            )

    def close(self) -> None:
        """Whatever is still running when the dispatcher ended otherwise than in order (a bug, a lost connection)."""
        if self._reservation is not None:
            self._reservation.settle(Decimal(0))
        for attempt in self._inflight.running:
            error = BullpenError(ErrorCode.CANCELLED, "the Manager gave the request up")
            self._end(attempt, Ending(Outcome.UNCERTAIN, error, attempt.seen), said_all=False)

    def _end(self, attempt: Attempt, ending: Ending | FinalResponse, *, said_all: bool) -> None:
        attempt.end(ending, self._shared.now(), said_all=said_all)
        if isinstance(ending, Ending):
            # The code alone: a provider may quote the question in what it says. The books have its words.
            log.info("attempt_ended", worker_id=attempt.worker_id, outcome=ending.outcome, error=ending.error.code)
        self._shared.learn(attempt)


def _beaten() -> BullpenError:
    return BullpenError(ErrorCode.CANCELLED, "another worker was quicker")
