"""After the answer: what workers still say about attempts that were given up on, for the books.

A worker that was told to stop says at once how much it had used. One that was frozen may wake up much later
and answer: nobody gets that answer, but it was computed, and somebody pays for it.
"""

from decimal import Decimal

from contracts import BullpenError, InferenceResponse, Outcome
from manager.request.attempt import Attempt
from manager.request.recording import Books
from manager.request.shared_state import SharedState
from manager.request.state import RequestState

LAST_WORDS = 1.0
"""Seconds to wait for what cancelled workers have used before the request is booked."""
LATE = 120.0
"""Seconds in which an answer that came too late is still booked as such."""


class Settlement:
    def __init__(self, shared: SharedState, books: Books) -> None:
        self._shared = shared
        self._books = books

    async def settle(
        self, inflight: RequestState, response: InferenceResponse | None, failure: BullpenError | None
    ) -> None:
        """Books the request and its attempts, once those who were told to stop have said what they used."""
        stopped = _stopped(inflight)
        await self._listen(inflight, stopped, LAST_WORDS)
        if inflight.booked is None:
            await self._book(inflight, response, failure)
        else:
            await self._complete(inflight, stopped)
        self._count_spending(inflight)

    async def before_reply(
        self, inflight: RequestState, response: InferenceResponse | None, failure: BullpenError | None
    ) -> None:
        """Books now, and waits until that is safe, if no answer may leave before."""
        if self._books.before_reply and inflight.booked is None:
            await self._book(inflight, response, failure)

    async def _book(
        self, inflight: RequestState, response: InferenceResponse | None, failure: BullpenError | None
    ) -> None:
        if not inflight.comes_again(failure):
            await self._books.book(inflight, response, failure, self._shared.now())

    async def wait_for_the_late(self, inflight: RequestState) -> None:
        """Books the answers that come after all, and what the request has cost with them."""
        silent = _unsettled(inflight)
        await self._listen(inflight, silent, LATE)
        await self._complete(inflight, silent)

    async def _complete(self, inflight: RequestState, attempts: list[Attempt]) -> None:
        """What came after they were booked."""
        for attempt in attempts:
            if attempt.said_all:
                await self._books.book_again(inflight, attempt)
        self._books.complete(inflight)

    def _count_spending(self, inflight: RequestState) -> None:
        costs = [(a.likely_cost or Decimal(0), a.outcome is Outcome.OK) for a in inflight.attempts if a.paid]
        spent = sum((cost for cost, _ in costs), Decimal(0))
        wasted = sum((cost for cost, useful in costs if not useful), Decimal(0))
        self._shared.spending.record(self._shared.now(), spent, wasted)

    async def _listen(self, inflight: RequestState, attempts: list[Attempt], seconds: float) -> None:
        """Until all of them have said their last word, at most so many seconds."""
        until = self._shared.now() + seconds
        while any(attempt.may_speak for attempt in attempts):
            heard = await inflight.events.next(until)
            if heard is None:
                return
            heard.attempt.hear_afterwards(heard.event)


def has_late(inflight: RequestState) -> bool:
    """Whether somebody who was given up on may still answer."""
    return bool(_unsettled(inflight))


def _unsettled(inflight: RequestState) -> list[Attempt]:
    return [attempt for attempt in inflight.attempts if attempt.may_speak]


def _stopped(inflight: RequestState) -> list[Attempt]:
    """Those who were told to stop and can be expected to hear it."""
    return [attempt for attempt in _unsettled(inflight) if not attempt.choice.worker.gone]
