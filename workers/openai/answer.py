"""An answer, gathered from its chunks.

The SDK reads them trustingly: whatever a server puts in a field is in the field. So everything is checked here.
"""

import dataclasses
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from contracts import FinishReason, JsonObject
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.chat import SizeGuard, counted, logprobs, plausible
from workers.base.provider.overlap_trimmer import OverlapTrimmer

FINISH: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
THOUGHTS = ("reasoning_content", "reasoning")
"""What servers call them (llama.cpp, DeepSeek; vLLM, OpenRouter); OpenAI itself tells none."""
PARTS = ("prompt", "completion", "total")
CUT = {"error", "abort"}
"""Endings that are failures, not answers (OpenRouter; vLLM and SGLang)."""


class Answer:
    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._seam = OverlapTrimmer(job.prefix)
        self._finish: FinishReason | None = None
        self._usage: CompletionUsage | None = None
        self._calls: dict[int, JsonObject] = {}
        self._refused = False
        self._answered = False

    def take(self, chunk: ChatCompletionChunk) -> Delta | None:
        self._usage = chunk.usage or self._usage
        if not chunk.choices:
            return None
        choice = chunk.choices[0]
        if choice.finish_reason and choice.finish_reason not in CUT:
            self._finish = FINISH.get(choice.finish_reason, "stop")
        for call in choice.delta.tool_calls or []:
            self._add_call(call)
        self._refused = self._refused or bool(choice.delta.refusal)
        text = choice.delta.content or choice.delta.refusal
        if not text:
            return self._untold(choice.delta, self._used(chunk.usage))
        self._answered = True
        told = choice.logprobs.content if choice.logprobs else None
        chances = logprobs(token.logprob for token in told or ())
        return Delta(self._seam.take(self._size.take(text)), max(1, len(chances)), chances, self._used(chunk.usage))

    def _untold(self, delta: ChoiceDelta, used: Usage | None) -> Delta | None:
        """A part of a tool call is a token of the answer, a thought only a sign of progress. A mere role is neither."""
        if delta.tool_calls:
            return Delta("", 1, usage=used)
        return Delta("", 0, usage=used) if _thinks(delta) else None

    def rest(self) -> Delta | None:
        """What was held back because it might have been the start of the answer once more."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    def _add_call(self, call: Any) -> None:
        """Tool calls come in pieces: the name first, then its arguments bit by bit."""
        known = self._calls.setdefault(
            call.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        if call.id and call.id != known["id"]:
            known["id"] = self._size.take(call.id)
        self._answered = True
        if call.function is not None:
            known["function"]["name"] += self._size.take(call.function.name or "")
            known["function"]["arguments"] += self._size.take(call.function.arguments or "")

    def done(self) -> Done | None:
        """The end; None when the provider never said why it stopped."""
        if self._finish is None:
            return None
        calls = tuple(self._calls[index] for index in sorted(self._calls))
        finish: FinishReason = "content_filter" if self._refused else self._finish
        if calls and finish == "stop":
            finish = "tool_calls"
        used = self._used(self._usage) or Usage()
        return Done(finish, tool_calls=calls, **dataclasses.asdict(used))

    def _used(self, told: CompletionUsage | None) -> Usage | None:
        """What the server tells of it: at the end; with every piece, where it was asked to (vLLM).

        Thoughts belong to the completion. Some leave them out there and count them in the total only (xAI, Google).
        """
        if told is None:
            return None
        prompt, completion, total = (counted(getattr(told, f"{part}_tokens", None)) for part in PARTS)
        cached = counted(getattr(getattr(told, "prompt_tokens_details", None), "cached_tokens", None))
        if cached is None:
            cached = counted(getattr(told, "prompt_cache_hit_tokens", None))  # DeepSeek
        reasoning = counted(getattr(getattr(told, "completion_tokens_details", None), "reasoning_tokens", None))
        if prompt is not None and completion is not None and total is not None and total > prompt + completion:
            left_out = total - prompt - completion
            completion = completion + left_out if reasoning in (None, left_out) else None
        written = counted(getattr(getattr(told, "prompt_tokens_details", None), "cache_write_tokens", None))
        return plausible(Usage(prompt, completion, cached, reasoning, written), answered=self._answered)


def _thinks(delta: ChoiceDelta) -> bool:
    """Whether a chunk brings thoughts. They are not shown, but they are a sign of progress."""
    more = delta.model_extra or {}
    return any(more.get(name) for name in THOUGHTS)
