"""The spans of one attempt in its worker: the whole attempt, its wait for a place, and the provider's call."""

import asyncio
from collections.abc import Mapping

from bus import tracing
from bus.measures import OPERATION
from contracts import Answer, BullpenError
from workers.base.runtime.call import Call
from workers.base.runtime.execution import Execution


class CallTrace:
    def __init__(self, call: Call, headers: Mapping[str, str], worker_id: str, backend: str) -> None:
        """`headers`: those of the request."""
        self._operation, self._backend = OPERATION[call.request.kind], backend
        self._span = tracing.start(
            "worker",
            headers,
            "server",
            tracing.ago(_now() - call.arrived),
            gen_ai__operation__name=self._operation,
            gen_ai__provider__name=backend,
            bullpen__worker_id=worker_id,
            bullpen__request_id=call.request_id,
            bullpen__attempt=call.attempt,
        )

    def ended(self, execution: Execution, response: Answer | None, failure: BullpenError | None) -> None:
        """Ends the spans, when the attempt is over."""
        call, now = execution.call, _now()
        computed = now if execution.ended is None else execution.ended
        began = computed if execution.started is None else execution.started
        self._span.child("queue", at=tracing.ago(now - call.arrived)).end(at=tracing.ago(now - began))
        error = failure.code if failure is not None else ""
        if execution.started is not None and execution.job is not None:
            usage = execution.usage
            provider = self._span.child(
                f"{self._operation} {execution.job.model.model_id}",
                "client",
                tracing.ago(now - began),
                gen_ai__operation__name=self._operation,
                gen_ai__provider__name=self._backend,
                gen_ai__request__model=execution.job.model.model_id,
                gen_ai__request__max_tokens=execution.job.max_tokens,
                gen_ai__request__temperature=getattr(call.request, "temperature", None),
                gen_ai__usage__input_tokens=usage.prompt_tokens,
                gen_ai__usage__output_tokens=usage.completion_tokens,
                gen_ai__response__model=response.model_id if response is not None else None,
                gen_ai__response__finish_reasons=[execution.done.finish_reason] if execution.done else None,
            )
            if execution.first_token is not None:
                provider.event("first token", tracing.ago(now - execution.first_token))
            provider.end(error, at=tracing.ago(now - computed))
        self._span.end(error)


def _now() -> float:
    return asyncio.get_running_loop().time()
