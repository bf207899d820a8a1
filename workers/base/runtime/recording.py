"""What a worker books: the requests that callers send to it directly, without a Manager."""

from contracts import (
    NOT_STARTED,
    Answer,
    AttemptRecord,
    BullpenError,
    ErrorCode,
    Outcome,
    ResponseRecord,
)
from contracts.subjects import TELEMETRY_ATTEMPT, TELEMETRY_RESPONSE
from outbox.outbox import Outbox
from outbox.privacy_filter import PrivacyFilter
from workers.base.runtime.execution import Execution


class DirectBooks:
    """Books one row for the request and one for its only attempt."""

    def __init__(self, outbox: Outbox, backend: str, worker_id: str, epoch: str) -> None:
        self._outbox = outbox
        self._backend = backend
        self._id = worker_id
        self._epoch = epoch
        self._discretion = PrivacyFilter(outbox.settings.content, outbox.settings.content_key)

    @property
    def before_reply(self) -> bool:
        """Whether no answer may leave before its events are stored safely."""
        return self._outbox.settings.mode == "before_reply"

    async def book(self, execution: Execution, response: Answer | None, failure: BullpenError | None) -> None:
        request_id, wanted = execution.call.request_id, execution.call.request.content
        record = await self._discretion.kept(_request(execution, response, failure), wanted)
        told = []
        if execution.job is not None:
            attempt = await self._discretion.kept(self._attempt(execution, response, failure), wanted)
            told.append(self._outbox.put(TELEMETRY_ATTEMPT, attempt, f"{request_id}/{attempt.attempt}"))
        told.append(self._outbox.put(TELEMETRY_RESPONSE, record.within(self._outbox.room), request_id))
        execution.booked = True
        if self.before_reply:
            await self._outbox.secure(told)

    def _attempt(self, execution: Execution, response: Answer | None, failure: BullpenError | None) -> AttemptRecord:
        call, job, usage = execution.call, execution.job, execution.usage
        assert job is not None
        return AttemptRecord.of(
            request_id=call.request_id,
            attempt=call.attempt,
            task_id=call.task_id,
            kind=call.request.kind,
            created_at=call.created_at,
            worker_id=self._id,
            backend=self._backend,
            model_id=job.model.model_id,
            epoch=self._epoch,
            outcome=_outcome(execution, failure),
            error=failure,
            answer=response,
            duration_ms=call.elapsed_ms,
            ttft_ms=execution.ttft_ms,
            queue_ms=execution.queue_ms,
            usage=usage,
            cost_usd=usage.cost_usd,
            price=job.model.price,
        )


def _request(execution: Execution, response: Answer | None, failure: BullpenError | None) -> ResponseRecord:
    call = execution.call
    request = call.request.model_copy(update={"task_id": call.task_id})
    if response is not None and failure is None:
        price = execution.job.model.price if execution.job else None
        return ResponseRecord.answered(
            request, response, created_at=call.created_at, cost_usd=execution.cost, price=price
        )
    return ResponseRecord.failed(
        request,
        failure or BullpenError(ErrorCode.INTERNAL, "no answer and no error"),
        request_id=call.request_id,
        created_at=call.created_at,
        duration_ms=call.elapsed_ms,
        attempts=0 if execution.job is None else 1,
        cost_usd=execution.cost,
    )


def _outcome(execution: Execution, failure: BullpenError | None) -> Outcome:
    if failure is None:
        return Outcome.OK
    if failure.code is ErrorCode.CANCELLED:
        return Outcome.CANCELLED
    if (failure.code in NOT_STARTED or failure.prompt_tokens is not None) and not execution.begun:
        return Outcome.REFUSED
    return failure.outcome or Outcome.FAILED
