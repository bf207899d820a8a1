"""What a Manager books: every request it took, and every attempt it sent, also the one whose worker fell silent."""

from bus import tracing
from bus.reply import internal_error
from contracts import Answer, AttemptRecord, BullpenError, ResponseRecord
from contracts.subjects import TELEMETRY_ATTEMPT, TELEMETRY_RESPONSE, Kind
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
        self, state: RequestState, response: Answer | None, failure: BullpenError | None, now: float
    ) -> None:
        """Books one row for the request and one for each attempt.

        Waits at most for redaction, never for the books, unless no answer may leave before its events are safe.
        """
        began = tracing.ago(0) if state.trace is not None else 0
        if response is not None and failure is None:
            record = self._answered(state, response)
        else:
            record = self._failed(state, failure or internal_error(), now)
        record = await self._discretion.kept(record, state.request.content)
        state.booked = record = record.within(self._outbox.room)
        # Whoever reads a request in the books finds its attempts there as well.
        told = [await self._book_attempt(state, a, f"{state.request_id}/{a.number}") for a in state.attempts]
        told.append(self._outbox.put(TELEMETRY_RESPONSE, record, state.request_id))
        if state.trace is not None:
            state.trace.booked(told, began)
        if self.before_reply:
            await self._outbox.secure(told)

    async def book_again(self, state: RequestState, attempt: Attempt) -> None:
        """Books what an attempt had used, after it was booked as given up."""
        await self._book_attempt(state, attempt, f"{state.request_id}/{attempt.number}/late")

    def complete(self, state: RequestState) -> None:
        """Books the request again when its cost was unknown and the final messages of its attempts tell it."""
        booked, cost = state.booked, state.cost
        if booked is not None and booked.cost_usd is None and cost is not None:
            record = booked.model_copy(update={"cost_usd": cost})
            self._outbox.put(TELEMETRY_RESPONSE, record, f"{state.request_id}/late")

    async def _book_attempt(self, state: RequestState, attempt: Attempt, message_id: str) -> Waiting:
        row = attempt_record(attempt, state.request_id, state.task_id, state.request.kind)
        row = await self._discretion.kept(row, state.request.content)
        return self._outbox.put(TELEMETRY_ATTEMPT, row, message_id)

    def _answered(self, state: RequestState, response: Answer) -> ResponseRecord:
        winner = next((a for a in state.attempts if a.worker_id == response.worker_id), None)
        return ResponseRecord.answered(
            state.request,
            response,
            created_at=state.created_at,
            cost_usd=state.cost,
            price=winner.choice.card.price if winner else None,
            manager_id=self._id,
        )

    def _failed(self, state: RequestState, failure: BullpenError, now: float) -> ResponseRecord:
        return ResponseRecord.failed(
            state.request,
            failure,
            request_id=state.request_id,
            created_at=state.created_at,
            duration_ms=round((now - state.arrived) * 1000, 3),
            attempts=len(state.attempts),
            cost_usd=state.cost,
            manager_id=self._id,
        )


def attempt_record(attempt: Attempt, request_id: str, task_id: str, kind: Kind = "infer") -> AttemptRecord:
    """The row of the books for one attempt."""
    answer = attempt.answer
    return AttemptRecord.of(
        request_id=request_id,
        attempt=attempt.number,
        task_id=task_id,
        kind=kind,
        created_at=attempt.created_at,
        worker_id=attempt.worker_id,
        backend=attempt.backend,
        model_id=attempt.model_id,
        epoch=attempt.epoch,
        outcome=attempt.outcome,
        error=attempt.error,
        answer=answer,
        duration_ms=attempt.duration_ms,
        ttft_ms=answer.ttft_ms if answer else None,
        queue_ms=answer.queue_ms if answer else None,
        usage=attempt.usage,
        cost_usd=attempt.cost,
        price=attempt.choice.card.price,
    )
