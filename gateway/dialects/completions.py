"""OpenAI's older completions: `POST /v1/completions`. Each prompt becomes a question to a chat model.

A chat model cannot continue a raw text, so `suffix` and `echo` are refused by name, and so are prompts of token
numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts import BullpenError, Chunk, FinalResponse, InferenceResponse, JsonObject, TokenLogprob
from gateway.dialects import Asked, Refused
from gateway.dialects import openai as common
from gateway.dialects.about import comments
from gateway.dialects.events import dumped
from gateway.dialects.fields import ignored
from gateway.dialects.openai_chat import DONE, KEEP_ALIVE, SSE

TAKEN = common.SAMPLING | common.OURS | {"logprobs", "reasoning_effort"}
FINISH = {"tool_calls": "stop"}
MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    include_usage: bool


class Completions:
    name = "openai-completions"
    fields: Mapping[str, str] = {}

    def read(self, body: JsonObject, headers: Mapping[str, str]) -> Asked:
        """Raises `Refused`."""
        fields = common.present(body)
        model, stream, copies = common.model_of(fields), common.flag(fields, "stream"), common.copies_of(fields)
        with_usage, unknown = common.includes_usage(fields)
        if (best_of := fields.pop("best_of", copies)) != copies:
            raise Refused(f"best_of: {best_of!r:.200} is not supported here, only as many as n is", "best_of")
        common.only(fields, common.NEVER)
        common.settle_max_tokens(fields)
        common.without_empty(fields, "stop", "logit_bias", "metadata")
        prompts = _prompts(fields.pop("prompt", None))
        if len(prompts) * copies > common.MOST_COPIES:
            raise Refused(f"{len(prompts)} prompts, {copies} times, are more than {common.MOST_COPIES} answers", "n")
        request = {name: fields.pop(name) for name in TAKEN & fields.keys()}
        request |= _logprobs_asked(request.pop("logprobs", None))
        unused, options = ignored(*fields, *unknown), CompletionOptions(with_usage)
        return Asked(request, model, stream, unused, copies, options, tuple({"prompt": text} for text in prompts))

    def writer(self, asked: Asked, request_id: str, created: int) -> "CompletionWriter":
        return CompletionWriter(f"cmpl-{request_id}", created, asked)

    def status(self, status: int, code: str) -> int:
        return status

    def error(self, status: int, code: str, message: str, param: str | None, request_id: str) -> bytes:
        return dumped(common.error_object(status, code, message, param))


class CompletionWriter:
    content_type = SSE

    def __init__(self, completion_id: str, created: int, asked: Asked) -> None:
        self._frame = {"id": completion_id, "object": "text_completion", "created": created}
        self._asked = asked
        self._with_usage = isinstance(asked.options, CompletionOptions) and asked.options.include_usage
        self._offsets: dict[int, int] = {}
        """Characters of each answer so far."""
        self._finals: list[FinalResponse] = []

    def start(self) -> bytes:
        return b""

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        if not chunk.delta and not chunk.logprobs:
            return b""
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(chunk.delta)
        return self._event(_choice(index, chunk.delta, _logprobs(chunk.logprobs, offset), None))

    def keep_alive(self) -> bytes:
        return KEEP_ALIVE

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        self._finals.append(response)
        said = [self._event(_choice(index, "", None, _finish(response)))]
        if last and self._with_usage:
            head = {**self._frame, "model": response.model_id, "choices": []}
            said.append(common.event({**head, "usage": common.usage(self._finals)}))
        if last:
            said += [comments(response), DONE]
        return b"".join(said)

    def failed(self, error: BullpenError) -> bytes:
        return common.error_event(error)

    def whole(self, responses: Sequence[InferenceResponse]) -> bytes:
        choices = [
            _choice(index, answer.output, _logprobs(answer.logprobs, 0), _finish(answer))
            for index, answer in enumerate(responses)
        ]
        head = {**self._frame, "model": responses[0].model_id, "system_fingerprint": None}
        return dumped({**head, "choices": choices, "usage": common.usage(responses)})

    def _event(self, choice: JsonObject) -> bytes:
        usage = {"usage": None} if self._with_usage else {}
        return common.event({**self._frame, "model": self._asked.model, "choices": [choice], **usage})


def _prompts(told: Any) -> list[str]:
    """Raises `Refused`."""
    prompts = [told] if isinstance(told, str) else told
    if not isinstance(prompts, list) or not prompts:
        raise Refused("prompt should be a string or a list of strings", "prompt")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise Refused("prompt should be text: numbers of tokens mean another text to every model", "prompt")
    return prompts


def _logprobs_asked(count: Any) -> JsonObject:
    """Raises `Refused`."""
    if count is None or count is False:
        return {}
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MOST_TOP_LOGPROBS:
        raise Refused(f"logprobs should be a whole number from 0 to {MOST_TOP_LOGPROBS}", "logprobs")
    return {"logprobs": True, "top_logprobs": count} if count else {"logprobs": True}


def _choice(index: int, text: str, logprobs: JsonObject | None, finish: str | None) -> JsonObject:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _finish(response: InferenceResponse) -> str:
    return FINISH.get(response.finish_reason, response.finish_reason)


def _logprobs(tokens: Sequence[TokenLogprob] | None, offset: int) -> JsonObject | None:
    """Log-probabilities as parallel lists. `offset`: of the first token, in characters of the answer."""
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top_logprobs} for token in tokens],
        "text_offset": offsets,
    }
