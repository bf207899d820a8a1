"""Gathers an answer from the API's chunks."""

import dataclasses
from base64 import b64encode

from google.genai import types

from contracts import FinishReason, JsonObject, TokenLogprob
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.answer import Answer as BaseAnswer
from workers.base.provider.chat import CHARACTERS_PER_TOKEN, counted, logprobs, plausible, token_logprobs, whole_calls
from workers.base.provider.errors import unended
from workers.base.provider.tool_calls import malformed

FINISH: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length"}
FILTERED = {
    "SAFETY",
    "RECITATION",
    "LANGUAGE",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "MODEL_ARMOR",
    "IMAGE_SAFETY",
}
BAD_CALLS = {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"}
UNTOLD = "FINISH_REASON_UNSPECIFIED"
"""The API's word for an answer that has not ended. Endings in none of these tables are failures."""


class Answer(BaseAnswer[types.GenerateContentResponse]):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._finish: FinishReason | None = None
        self._bad_end: str | None = None
        self._usage: types.GenerateContentResponseUsageMetadata | None = None
        self._calls: list[JsonObject] = []
        self._signature: bytes | None = None
        """The signature of the thoughts that led to the text."""
        self._tells_tokens = job.request.logprobs

    def take(self, chunk: types.GenerateContentResponse) -> Delta | None:
        self._usage = chunk.usage_metadata or self._usage
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            self._finish = "content_filter"
        if not chunk.candidates:
            return None
        candidate = chunk.candidates[0]
        if candidate.finish_reason is not None:
            name = candidate.finish_reason.name
            self._finish = "content_filter" if name in FILTERED else FINISH.get(name)
            self._bad_end = None if self._finish or name == UNTOLD else name
        parts = (candidate.content.parts or []) if candidate.content else []
        made = [self._call(part) for part in parts if part.function_call]
        calls = whole_calls(made, len(self._calls))
        self._calls += made
        thoughts = self._thoughts.take("".join(part.text for part in parts if part.text and part.thought))
        signed = (part.thought_signature for part in parts if part.thought_signature and not part.function_call)
        self._signature = next(signed, self._signature)
        text = self._size.take("".join(part.text for part in parts if part.text and not part.thought))
        chances = _logprobs(candidate)
        if not text and not chances:
            thinks = any(part.thought for part in parts)  # no part of the answer, but something moves
            delta = Delta("", len(made), usage=self._used(), reasoning=thoughts, tool_calls=calls)
            return delta if made or thinks else None
        self._said = True
        # Pieces are longer than a token here; how many it really were is told beside them.
        count = len(chances) if len(chances) > 1 else max(1, -(-len(text) // CHARACTERS_PER_TOKEN))
        tokens = _tokens(candidate) if self._tells_tokens else ()
        return Delta(self._seam.take(text), count, chances, self._used(), thoughts, calls, tokens)

    def _call(self, part: types.Part) -> JsonObject:
        """A tool call in the mesh's form. It keeps the model's signed thoughts, which the model requires back with the
        result.
        """
        function = part.function_call or types.FunctionCall()
        call = self._size.call(function.name or "", function.args or {}, function.id)
        if part.thought_signature:
            signature = b64encode(part.thought_signature).decode()
            call["extra_content"] = {"google": {"thought_signature": signature}}
        return call

    def done(self) -> Done | None:
        """The end of the answer; None when the API gave no reason for stopping. Raises `BullpenError` when the reason
        is a failure.
        """
        if self._bad_end in BAD_CALLS:
            raise malformed(f"a tool call that its provider could not read ({self._bad_end})")
        if self._bad_end is not None:
            raise unended(self._bad_end)
        if self._finish is None:
            return None
        used = self._used()
        finish: FinishReason = "tool_calls" if self._calls and self._finish == "stop" else self._finish
        extra = {"gemini": {"thought_signature": b64encode(self._signature).decode()}} if self._signature else None
        return Done(finish, tool_calls=tuple(self._calls), extra=extra, **dataclasses.asdict(used))

    def _used(self) -> Usage:
        """The usage reported so far, which comes with every chunk. The API leaves out counts of zero.

        Thoughts are billed as output but are not among the candidates' tokens; tool results count as input.
        """
        told = self._usage
        if told is None:
            return Usage()
        answered = self._said or bool(self._calls)
        prompt, spoken = counted(told.prompt_token_count), counted(told.candidates_token_count)
        thought = counted(told.thoughts_token_count)
        if prompt is not None:
            prompt += counted(told.tool_use_prompt_token_count) or 0
        completion = None if answered and not spoken else (spoken or 0) + (thought or 0)
        cached = counted(told.cached_content_token_count)
        return plausible(Usage(prompt, completion, cached, thought), answered=answered)


def _tokens(candidate: types.Candidate) -> tuple[TokenLogprob, ...]:
    result = candidate.logprobs_result
    if result is None:
        return ()
    told: list[JsonObject] = []
    tops = result.top_candidates or []
    for number, chosen in enumerate(result.chosen_candidates or []):
        top = (tops[number].candidates or []) if number < len(tops) else []
        told.append({**_likelihood(chosen), "top_logprobs": [_likelihood(one) for one in top]})
    return token_logprobs(told)


def _likelihood(token: types.LogprobsResultCandidate) -> JsonObject:
    return {"token": token.token, "logprob": token.log_probability}


def _logprobs(candidate: types.Candidate) -> tuple[float, ...]:
    """The log-probability of each token, or else their average as a single value, which gives the same confidence."""
    result = candidate.logprobs_result
    chosen = [token.log_probability for token in (result.chosen_candidates or [] if result else [])]
    return logprobs(chosen or [candidate.avg_logprobs])
