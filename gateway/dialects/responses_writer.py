"""Writes answers in the form of OpenAI's Responses API: whole, or as its sequence of events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, InferenceResponse, JsonObject, TokenLogprob
from contracts.response import TopLogprob
from gateway.dialects import Asked
from gateway.dialects.about import comments
from gateway.dialects.blocks import Block, Blocks, Call, Closed, Grown, Opened, Step, calls_of
from gateway.dialects.events import dumped, event
from gateway.dialects.sealed import NOTHING, sealed

FAILURES: dict[str, str] = {
    ErrorCode.INVALID_REQUEST: "invalid_prompt",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "context_length_exceeded",
    ErrorCode.RATE_LIMITED: "rate_limit_exceeded",
    ErrorCode.OVERLOADED: "rate_limit_exceeded",
}
"""The error codes of a failed response; any other failure is a `server_error`."""
Status = Literal["in_progress", "completed", "incomplete", "failed"]
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ITEM_NAMES = {"thought": "rs", "text": "msg", "refusal": "msg", "call": "fc"}


@dataclass(frozen=True, slots=True)
class Options:
    echoed: JsonObject = field(default_factory=dict)
    """The fields of the request that a response repeats."""
    logprobs: bool = False


class ResponsesWriter:
    content_type = "text/event-stream"

    def __init__(self, asked: Asked, request_id: str, created: int) -> None:
        self._model = asked.model
        self._options: Options = asked.options
        self._id = request_id.replace("-", "")
        self._created = created
        self._blocks = Blocks()
        self._sequence = 0
        self._output: list[JsonObject] = []
        """The finished items."""

    def start(self) -> bytes:
        response = self._response("in_progress", self._model, [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def piece(self, chunk: Chunk, index: int = 0) -> bytes:
        return self._steps(self._blocks.piece(chunk))

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def end(self, response: FinalResponse, index: int = 0, last: bool = True) -> bytes:
        written = [self._steps(self._blocks.end(response))]
        if secret := sealed(response.extra):
            item = self._reasoning(len(self._output), "", secret)
            place = len(self._output)
            written.append(self._event("response.output_item.added", output_index=place, item=item))
            written.append(self._event("response.output_item.done", output_index=place, item=item))
            self._output.append(item)
        status = _status(response)
        told = self._response(status, response.model_id, self._output, response)
        written += [comments(response), self._event(f"response.{status}", response=told)]
        return b"".join(written)

    def failed(self, error: BullpenError) -> bytes:
        code = FAILURES.get(error.code, "server_error")
        response = self._response("failed", self._model, self._output)
        response["error"] = {"code": code, "message": error.message}
        said = self._event("error", code=error.code, message=error.message, param=error.field)
        return said + self._event("response.failed", response=response)

    def whole(self, responses: Sequence[InferenceResponse]) -> bytes:
        response = responses[0]
        output: list[JsonObject] = []
        secret = sealed(response.extra)
        if response.reasoning or secret:
            output.append(self._reasoning(0, response.reasoning or "", secret or NOTHING))
        if response.output or response.refusal:
            content = (
                self._text(response.output, response.logprobs or ())
                if response.output
                else {"type": "refusal", "refusal": response.refusal}
            )
            output.append(self._message(len(output), _status(response), [content]))
        for call in calls_of(response):
            output.append(self._call(len(output), "completed", call))
        return dumped(self._response(_status(response), response.model_id, output, response))

    def _event(self, kind: str, **told: Any) -> bytes:
        numbered = {"type": kind, **told, "sequence_number": self._sequence}
        self._sequence += 1
        return event(numbered)

    def _steps(self, steps: Iterator[Step]) -> bytes:
        return b"".join(written for step in steps for written in self._step(step))

    def _step(self, step: Step) -> Iterator[bytes]:
        match step:
            case Opened(block):
                yield from self._opened(block)
            case Grown():
                yield self._grown(step)
            case Closed(block):
                yield from self._closed(block)
            case _:
                assert_never(step)

    def _opened(self, block: Block) -> Iterator[bytes]:
        item = self._item(block, "in_progress")
        yield self._event("response.output_item.added", output_index=block.index, item=item)
        if block.kind == "thought":
            part = {"type": "summary_text", "text": ""}
            yield self._event("response.reasoning_summary_part.added", **self._place(block), part=part)
        elif block.kind != "call":
            part = self._part(block, "", ())
            yield self._event("response.content_part.added", **self._place(block), part=part)

    def _grown(self, step: Grown) -> bytes:
        place = self._place(step.block)
        match step.block.kind:
            case "thought":
                return self._event("response.reasoning_summary_text.delta", **place, delta=step.text)
            case "text":
                logprobs = self._logprobs(step.logprobs)
                return self._event("response.output_text.delta", **place, delta=step.text, logprobs=logprobs)
            case "refusal":
                return self._event("response.refusal.delta", **place, delta=step.text)
            case "call":
                return self._event("response.function_call_arguments.delta", **place, delta=step.text)
            case _:
                assert_never(step.block.kind)

    def _closed(self, block: Block) -> Iterator[bytes]:
        place, text = self._place(block), block.text
        match block.kind:
            case "thought":
                part: JsonObject = {"type": "summary_text", "text": text}
                yield self._event("response.reasoning_summary_text.done", **place, text=text)
                yield self._event("response.reasoning_summary_part.done", **place, part=part)
            case "text":
                logprobs = self._logprobs(block.logprobs)
                yield self._event("response.output_text.done", **place, text=text, logprobs=logprobs)
                part = self._part(block, text, block.logprobs)
                yield self._event("response.content_part.done", **place, part=part)
            case "refusal":
                yield self._event("response.refusal.done", **place, refusal=text)
                yield self._event("response.content_part.done", **place, part=self._part(block, text, ()))
            case "call":
                yield self._event("response.function_call_arguments.done", **place, name=block.name, arguments=text)
            case _:
                assert_never(block.kind)
        item = self._item(block, "completed")
        self._output.append(item)
        yield self._event("response.output_item.done", output_index=block.index, item=item)

    def _place(self, block: Block) -> JsonObject:
        place: JsonObject = {"item_id": self._item_id(block.kind, block.index), "output_index": block.index}
        if block.kind == "thought":
            return {**place, "summary_index": 0}
        return place if block.kind == "call" else {**place, "content_index": 0}

    def _item(self, block: Block, status: Status) -> JsonObject:
        """The item of a block: empty when it begins, whole when it is finished."""
        done = status == "completed"
        if block.kind == "thought":
            return self._reasoning(block.index, block.text if done else "", NOTHING if done else "")
        if block.kind == "call":
            return self._call(block.index, status, Call(block.id, block.name, block.text if done else ""))
        content = [self._part(block, block.text, block.logprobs)] if done else []
        return self._message(block.index, status, content)

    def _part(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> JsonObject:
        return {"type": "refusal", "refusal": text} if block.kind == "refusal" else self._text(text, logprobs)

    def _text(self, text: str, logprobs: Sequence[TokenLogprob]) -> JsonObject:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(logprobs)}

    def _message(self, index: int, status: Status, content: list[JsonObject]) -> JsonObject:
        named = {"id": self._item_id("text", index), "type": "message", "status": status}
        return {**named, "role": "assistant", "content": content}

    def _reasoning(self, index: int, text: str, secret: str) -> JsonObject:
        summary = [{"type": "summary_text", "text": text}] if text else []
        named = {"id": self._item_id("thought", index), "type": "reasoning", "summary": summary}
        return {**named, "encrypted_content": secret or None}

    def _call(self, index: int, status: Status, call: Call) -> JsonObject:
        named = {"id": self._item_id("call", index), "type": "function_call", "status": status}
        return {**named, "call_id": call.id, "name": call.name, "arguments": call.arguments}

    def _item_id(self, kind: str, index: int) -> str:
        return f"{_ITEM_NAMES[kind]}_{self._id}_{index}"

    def _logprobs(self, told: Sequence[TokenLogprob]) -> list[JsonObject]:
        if not self._options.logprobs:
            return []
        return [{**_token(one), "top_logprobs": [_token(other) for other in one.top_logprobs]} for one in told]

    def _response(
        self, status: Status, model: str, output: list[JsonObject], response: InferenceResponse | None = None
    ) -> JsonObject:
        why = INCOMPLETE.get(response.finish_reason) if response is not None and status == "incomplete" else None
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "completed_at": int(response.created_at.timestamp()) if response and status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": why} if why else None,
            "model": model,
            "output": list(output),
            "previous_response_id": None,
            "service_tier": "default",
            "store": False,
            "usage": None if response is None else usage(response),
            **self._options.echoed,
        }


def usage(response: InferenceResponse) -> JsonObject:
    prompt, completion = response.prompt_tokens or 0, response.completion_tokens
    told = {"cached_tokens": response.cached_tokens or 0, "cache_write_tokens": response.cache_write_tokens or 0}
    return {
        "input_tokens": prompt,
        "input_tokens_details": told,
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": response.reasoning_tokens or 0},
        "total_tokens": prompt + completion,
    }


def _status(response: InferenceResponse) -> Literal["completed", "incomplete"]:
    return "incomplete" if response.finish_reason in INCOMPLETE else "completed"


def _token(told: TopLogprob) -> JsonObject:
    spelled = told.token.encode(errors="replace") if told.bytes is None else told.bytes
    return {"token": told.token, "logprob": told.logprob, "bytes": list(spelled)}
