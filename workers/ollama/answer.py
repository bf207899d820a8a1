"""Gathers an answer from Ollama's lines."""

import ollama

from contracts import FinishReason, JsonObject, TokenLogprob
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.answer import Answer as BaseAnswer
from workers.base.provider.chat import counted, logprobs, plausible, token_logprobs, whole_calls

FINISH: dict[str, FinishReason] = {"length": "length"}


class Answer(BaseAnswer[ollama.ChatResponse]):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._calls: list[JsonObject] = []
        self._tells_tokens = job.request.logprobs
        self._end: ollama.ChatResponse | None = None
        """The last line of the answer, which says why it ends."""

    def take(self, chunk: ollama.ChatResponse) -> Delta | None:
        delta = self._delta(chunk)
        if not chunk.done:
            return delta
        self._end, self.is_complete = chunk, True
        return delta or Delta("", 0)

    def _delta(self, chunk: ollama.ChatResponse) -> Delta | None:
        told = chunk.message.tool_calls or ()
        made = [self._size.call(call.function.name, call.function.arguments) for call in told]
        calls = whole_calls(made, len(self._calls))
        self._calls += made
        thoughts = self._thoughts.take(chunk.message.thinking or "")
        if not chunk.message.content:
            # A call is a part of the answer; a thought is none, but something moves.
            return Delta("", len(made), reasoning=thoughts, tool_calls=calls) if made or thoughts else None
        chances = logprobs(token.logprob for token in chunk.logprobs or ())
        self._said = True
        text, count = self._seam.take(self._size.take(chunk.message.content)), max(1, len(chances))
        return Delta(text, count, chances, None, thoughts, calls, self._tokens(chunk))

    def _tokens(self, chunk: ollama.ChatResponse) -> tuple[TokenLogprob, ...]:
        if not self._tells_tokens:
            return ()
        return token_logprobs([token.model_dump(warnings=False) for token in chunk.logprobs or ()])

    def done(self) -> Done | None:
        if (chunk := self._end) is None:
            return None
        finish: FinishReason = "tool_calls" if self._calls else FINISH.get(chunk.done_reason or "", "stop")
        answered = self._said or bool(self._calls)
        # Older servers leave out the count of a prompt that they had read before: then it is unknown.
        used = plausible(Usage(counted(chunk.prompt_eval_count), counted(chunk.eval_count)), answered=answered)
        return Done(finish, used.prompt_tokens, used.completion_tokens, tuple(self._calls))
