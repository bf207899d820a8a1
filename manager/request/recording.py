"""What a Manager books: every request it took, and every attempt it sent, also the one that fell silent."""

from bus.reply import internal_error
from contracts import BullpenError, InferenceResponse, ResponseRecord
from contracts.subjects import TELEMETRY_ATTEMPT, TELEMETRY_RESPONSE
from manager.request.attempt import Attempt
from manager.request.state import RequestState
from outbox.outbox import Outbox, Waiting
from outbox.privacy_filter import PrivacyFilter


class Books:
    def __init__(self, outbox: Outbox, manager_id: str) -> None:
        self._outbox = outbox
        self._id = manager_id
        self._discretion = PrivacyFilter(outbox.settings.content, outbox.settings.content_key)

    @property
    def before_reply(self) -> bool:
        """Whether no answer may leave before its events are safe."""
        return self._outbox.settings.mode == "before_reply"

    async def book(
        self, inflight: RequestState, response: InferenceResponse | None, failure: BullpenError | None, now: float
    ) -> None:
        """One row for the request and one for each attempt. Waits at most for redaction, never for the books.

        Unless no answer may leave before its events are safe.
        """
        if response is not None and failure is None:
            record = self._answered(inflight, response)
        else:
            record = self._failed(inflight, failure or internal_error(), now)
        record = await self._discretion.kept(record, inflight.request.content)
        inflight.booked = record = record.within(self._outbox.room)
        told = [self._outbox.put(TELEMETRY_RESPONSE, record, inflight.request_id)]
        told += [await self._book_attempt(inflight, a, f"{inflight.request_id}/{a.number}") for a in inflight.attempts]
        if self.before_reply:
            await self._outbox.secure(told)

    async def book_again(self, inflight: RequestState, attempt: Attempt) -> None:
        """What an attempt turned out to have done, after it was booked as given up on."""
        await self._book_attempt(inflight, attempt, f"{inflight.request_id}/{attempt.number}/late")

    def complete(self, inflight: RequestState) -> None:
        """The request's row once more, when its cost was unknown and the last word about its attempts tells it."""
        booked, cost = inflight.booked, inflight.cost
        if booked is not None and booked.cost_usd is None and cost is not None:
            record = booked.model_copy(update={"cost_usd": cost})
            self._outbox.put(TELEMETRY_RESPONSE, record, f"{inflight.request_id}/late")

    async def _book_attempt(self, inflight: RequestState, attempt: Attempt, message_id: str) -> Waiting:
        row = attempt.record(inflight.request_id, inflight.task_id)
        row = await self._discretion.kept(row, inflight.request.content)
        return self._outbox.put(TELEMETRY_ATTEMPT, row, message_id)

    def _answered(self, inflight: RequestState, response: InferenceResponse) -> ResponseRecord:
        winner = next((a for a in inflight.attempts if a.worker_id == response.worker_id), None)
        return ResponseRecord.answered(
            inflight.request,
            response,
            created_at=inflight.created_at,
            cost_usd=inflight.cost,
            price=winner.choice.card.price if winner else None,
            manager_id=self._id,
        )

    def _failed(self, inflight: RequestState, failure: BullpenError, now: float) -> ResponseRecord:
        return ResponseRecord.failed(
            inflight.request,
            failure,
            request_id=inflight.request_id,
            created_at=inflight.created_at,
            duration_ms=round((now - inflight.arrived) * 1000, 3),
            attempts=len(inflight.attempts),
            cost_usd=inflight.cost,
            manager_id=self._id,
        )
