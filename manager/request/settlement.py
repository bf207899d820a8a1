"""After the answer: collects what workers still say about attempts that were given up, then books the request.

A worker that was told to stop says at once how much it had used. One that was frozen may wake up much later and answer:
no caller gets that answer, but it was computed, and it is billed.
"""

from decimal import Decimal

from contracts import Answer, BullpenError, Outcome
from manager.request.attempt import Attempt
from manager.request.recording import Books
from manager.request.shared_state import SharedState
from manager.request.state import RequestState

LAST_WORDS = 1.0
"""Seconds to wait for the usage of cancelled attempts before the request is booked."""
LATE = 120.0
"""Seconds after the request in which a late answer is still booked."""


class Settlement:
    def __init__(self, shared: SharedState, books: Books) -> None:
        self._shared = shared
        self._books = books

    async def settle(self, state: RequestState, response: Answer | None, failure: BullpenError | None) -> None:
        """Books the request and its attempts, once workers that were told to stop have said what they used."""
        stopped = _stopped(state)
        await self._listen(state, stopped, LAST_WORDS)
        if state.booked is None:
            await self._book(state, response, failure)
        else:
            await self._complete(state, stopped)
        self._count_spending(state)

    async def before_reply(self, state: RequestState, response: Answer | None, failure: BullpenError | None) -> None:
        """Books now, and waits until that is safe, if no answer may leave before."""
        if self._books.before_reply and state.booked is None:
            await self._book(state, response, failure)

    async def _book(self, state: RequestState, response: Answer | None, failure: BullpenError | None) -> None:
        if not state.comes_again(failure):
            await self._books.book(state, response, failure, self._shared.now())

    async def wait_for_the_late(self, state: RequestState) -> None:
        """Books late answers, and the request's cost with them."""
        silent = _unsettled(state)
        await self._listen(state, silent, LATE)
        await self._complete(state, silent)

    async def _complete(self, state: RequestState, attempts: list[Attempt]) -> None:
        """Books what became known of attempts after they were booked."""
        for attempt in attempts:
            if attempt.final is not None:
                await self._books.book_again(state, attempt)
        self._books.complete(state)

    def _count_spending(self, state: RequestState) -> None:
        costs = [(a.likely_cost or Decimal(0), a.outcome is Outcome.OK) for a in state.attempts if a.paid]
        spent = sum((cost for cost, _ in costs), Decimal(0))
        wasted = sum((cost for cost, useful in costs if not useful), Decimal(0))
        self._shared.spending.record(self._shared.now(), spent, wasted)

    async def _listen(self, state: RequestState, attempts: list[Attempt], seconds: float) -> None:
        """Waits up to `seconds` for the final message of each of these attempts."""
        until = self._shared.now() + seconds
        while any(attempt.awaits_last_word for attempt in attempts):
            heard = await state.events.next(until)
            if heard is None:
                return
            heard.attempt.on(heard.event, self._shared.now())


def has_late(state: RequestState) -> bool:
    """Whether a worker that was given up may still answer."""
    return bool(_unsettled(state))


def _unsettled(state: RequestState) -> list[Attempt]:
    return [attempt for attempt in state.attempts if attempt.awaits_last_word]


def _stopped(state: RequestState) -> list[Attempt]:
    """Attempts whose workers were told to stop and can be expected to hear it."""
    return [attempt for attempt in _unsettled(state) if not attempt.choice.worker.gone]
