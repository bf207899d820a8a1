"""What a Manager books: every request it took, and every attempt it sent, also the one that fell silent."""

from bus.outbox import Outbox
from bus.reply import internal_error
from contracts import BullpenError, InferenceResponse, ResponseRecord
from contracts.subjects import TELEMETRY_ATTEMPT, TELEMETRY_RESPONSE
from manager.attempt import Attempt
from manager.inflight import Inflight


class Books:
    def __init__(self, outbox: Outbox, manager_id: str) -> None:
        self._outbox = outbox
        self._id = manager_id

    def book(
        self, inflight: Inflight, response: InferenceResponse | None, failure: BullpenError | None, now: float
    ) -> None:
        """One row for the request and one for each attempt. Returns at once: nothing waits for the books."""
        if response is not None and failure is None:
            record = self._answered(inflight, response)
        else:
            record = self._failed(inflight, failure or internal_error(), now)
        self._outbox.put(TELEMETRY_RESPONSE, record.within(self._outbox.room), inflight.request_id)
        for attempt in inflight.attempts:
            row = attempt.record(inflight.request_id, inflight.task_id)
            self._outbox.put(TELEMETRY_ATTEMPT, row, f"{inflight.request_id}/{attempt.number}")

    def book_again(self, inflight: Inflight, attempt: Attempt) -> None:
        """What an attempt turned out to have done, after it was booked as given up on."""
        row = attempt.record(inflight.request_id, inflight.task_id)
        self._outbox.put(TELEMETRY_ATTEMPT, row, f"{inflight.request_id}/{attempt.number}/late")

    def _answered(self, inflight: Inflight, response: InferenceResponse) -> ResponseRecord:
        winner = next((a for a in inflight.attempts if a.worker_id == response.worker_id), None)
        return ResponseRecord.answered(
            inflight.request,
            response,
            created_at=inflight.created_at,
            cost_usd=inflight.cost,
            price=winner.choice.card.price if winner else None,
            manager_id=self._id,
        )

    def _failed(self, inflight: Inflight, failure: BullpenError, now: float) -> ResponseRecord:
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
