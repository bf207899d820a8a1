"""The answer that a worker makes of a computation."""

from typing import Any

from contracts import (
    Answer,
    EmbeddingRequest,
    EmbeddingResponse,
    InferenceRequest,
    InferenceResponse,
    JsonObject,
    utc_now,
)
from contracts.embedding import encoded
from workers.base.interface.backend import Backend, EmbeddingJob, Job
from workers.base.provider.parameters import STEERS, asked_in_vain
from workers.base.runtime.confidence import Confidence
from workers.base.runtime.execution import Execution


def response_of(
    job: Job | EmbeddingJob, execution: Execution, backend: Backend[Any], worker_id: str, confidence: Confidence
) -> Answer:
    """The answer of an execution that is done. `confidence`: the record of the job's model, which learns from it."""
    assert execution.done is not None
    done, call = execution.done, execution.call
    sure, source = confidence.of(execution.logprobs, done.confidence)
    told: JsonObject = {
        "task_id": call.task_id,
        "model_id": job.model.model_id,
        "tokens_used": (done.prompt_tokens or 0) + execution.completion_tokens,
        "duration_ms": call.elapsed_ms,
        "confidence": sure,
        "request_id": call.request_id,
        "backend": backend.name,
        "worker_id": worker_id,
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": execution.completion_tokens,
        "cached_tokens": done.cached_tokens,
        "cache_write_tokens": done.cache_write_tokens,
        "reasoning_tokens": done.reasoning_tokens,
        "cost_usd": execution.cost,
        "finish_reason": done.finish_reason,
        "confidence_source": source,
        "ttft_ms": execution.ttft_ms,
        "queue_ms": execution.queue_ms,
        "simulated": backend.simulated,
        "created_at": utc_now(),
    }
    if isinstance(call.request, EmbeddingRequest):
        vectors = encoded(execution.vectors, call.request.encoding_format)
        return EmbeddingResponse.model_construct(**told, output="", embeddings=vectors)
    return InferenceResponse(
        **told,
        output="".join(execution.text),
        tool_calls=done.tool_calls or None,
        reasoning="".join(execution.thoughts) or None,
        refusal=done.refusal or None,
        logprobs=tuple(execution.token_logprobs) if call.request.logprobs else None,
        extra=done.extra or None,
        unsupported=_unsupported(execution, call.request, backend),
    )


def _unsupported(execution: Execution, request: InferenceRequest, backend: Backend[Any]) -> tuple[str, ...]:
    """Parameters that the caller set and that the answer was made without."""
    done = execution.done
    ignored = asked_in_vain(request, STEERS - backend.takes)
    left_out = {*ignored, *(done.unsupported if done else ())}
    if request.logprobs and execution.logprobs_lack:
        left_out.add("logprobs")
    return tuple(sorted(left_out))
