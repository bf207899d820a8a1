"""Gathers an answer from the API's events."""

import dataclasses
import json
from typing import Any

from contracts import FinishReason, FunctionDelta, JsonObject, ToolCallDelta
from workers.anthropic.thoughts import Thoughts
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.answer import Answer as BaseAnswer
from workers.base.provider.chat import CHARACTERS_PER_TOKEN, counted, plausible
from workers.base.provider.errors import unended

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""The API's endings of an answer; any other ending is a failure."""
PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""Kinds of prompt tokens, which the API counts separately."""


class Answer(BaseAnswer[Any]):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._counts: dict[str, int] = {}
        """By kind of token, the count that the API reported last."""
        self._wrote: int | None = None
        self._finish: FinishReason | None = None
        self._bad_end: object = None
        self._calls: dict[int, JsonObject] = {}
        self._inputs: dict[int, object] = {}
        """Arguments that came with the start of a call; they count if no pieces of arguments follow."""
        self._blocks = Thoughts(self._thoughts)

    def take(self, event: Any) -> Delta | None:
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "content_block_start" if event.content_block.type == "tool_use":
                self._blocks.other("tool_use")
                return self._begin_call(event.index, event.content_block)
            case "content_block_start":
                self._blocks.begin(event.index, event.content_block)
                if text := getattr(event.content_block, "text", None):
                    return self._text(text)
            case "content_block_stop" if event.index in self._inputs and not self._arguments(event.index):
                return self._arguments_piece(event.index, json.dumps(self._inputs[event.index]))
            case "content_block_delta":
                return self._piece(event.index, event.delta)
            case "message_delta":
                self._count(event.usage)
                if (wrote := counted(getattr(event.usage, "output_tokens", None))) is not None:
                    self._wrote = wrote
                if (reason := getattr(event.delta, "stop_reason", None)) is not None:
                    self._finish = FINISH.get(str(reason))
                    self._bad_end = None if self._finish else reason
            case "error":
                raise ValueError(str(event.error))
            case kind if not isinstance(kind, str):
                raise ValueError("an event without a type")
        return None

    def done(self) -> Done | None:
        """The end of the answer; None when the API gave no reason for stopping. Raises `BullpenError` when the reason
        is a failure.
        """
        if self._bad_end is not None:
            raise unended(self._bad_end)
        if self._finish is None:
            return None
        calls = tuple(self._calls[index] for index in sorted(self._calls))
        for call in calls:
            call["function"]["arguments"] = call["function"]["arguments"] or "{}"
        finish: FinishReason = "tool_calls" if calls and self._finish == "stop" else self._finish
        return Done(finish, tool_calls=calls, extra=self._blocks.extra, **dataclasses.asdict(self._used()))

    def _piece(self, index: int, delta: Any) -> Delta | None:
        match delta.type:
            case "text_delta":
                return self._text("" if delta.text is None else delta.text)
            case "input_json_delta" if index in self._calls:
                return self._arguments_piece(index, delta.partial_json)
            case "thinking_delta":
                return Delta("", 0, usage=self._used(), reasoning=self._blocks.think(index, delta.thinking))
            case "signature_delta":
                self._blocks.sign(index, delta.signature)
        return Delta("", 0, usage=self._used())  # not shown, but something moves

    def _text(self, told: object) -> Delta:
        text = self._size.take(told)
        self._said = self._said or bool(text)
        self._blocks.other("text", len(text))
        # Pieces are longer than a token here; how many it really were is told at the end.
        return Delta(self._seam.take(text), max(1, -(-len(text) // CHARACTERS_PER_TOKEN)), usage=self._used())

    def _arguments(self, index: int) -> str:
        return str(self._calls[index]["function"]["arguments"])

    def _arguments_piece(self, index: int, told: object) -> Delta:
        part = self._size.take(told)
        self._calls[index]["function"]["arguments"] += part
        piece = ToolCallDelta(index=self._at(index), function=FunctionDelta(arguments=part))
        pieces = (piece,) if part else ()
        return Delta("", -(-len(part) // CHARACTERS_PER_TOKEN), usage=self._used(), tool_calls=pieces)

    def _begin_call(self, index: int, block: Any) -> Delta:
        """Begins a call; its name comes first, then its arguments piece by piece."""
        function = {"name": self._size.take(block.name), "arguments": ""}
        if given := getattr(block, "input", None):
            self._inputs[index] = given
        call = self._calls[index] = {"id": self._size.call_id(block.id), "type": "function", "function": function}
        told = ToolCallDelta(index=self._at(index), id=call["id"], function=FunctionDelta(name=function["name"]))
        return Delta("", 0, usage=self._used(), tool_calls=(told,))

    def _at(self, index: int) -> int:
        """The number of the call that a block holds."""
        return sorted(self._calls).index(index)

    def _count(self, usage: Any) -> None:
        for name in (*PROMPT, "output_tokens"):
            if (count := counted(getattr(usage, name, None))) is not None:
                self._counts[name] = count
        thought = getattr(getattr(usage, "output_tokens_details", None), "thinking_tokens", None)
        if (count := counted(thought)) is not None:
            self._counts["thought"] = count

    def _used(self) -> Usage:
        """The usage reported so far. The API reports the answer's tokens at the end, and the cache's tokens
        separately.
        """
        counts = self._counts
        prompt = sum(counts.get(name, 0) for name in PROMPT) if "input_tokens" in counts else None
        read, written = counts.get(PROMPT[1]), counts.get(PROMPT[2])
        told = Usage(prompt, self._wrote, read, counts.get("thought"), written)
        return plausible(told, answered=self._said or bool(self._calls))
