"""An answer, gathered from its lines."""

import ollama

from contracts import FinishReason, JsonObject
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.answer import Answer as BaseAnswer
from workers.base.provider.chat import counted, logprobs, plausible

FINISH: dict[str, FinishReason] = {"length": "length"}


class Answer(BaseAnswer[ollama.ChatResponse]):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._calls: list[JsonObject] = []
        self._end: ollama.ChatResponse | None = None
        """The line that says why the answer ends."""

    def take(self, chunk: ollama.ChatResponse) -> Delta | None:
        delta = self._delta(chunk)
        if not chunk.done:
            return delta
        self._end, self.is_complete = chunk, True
        return delta or Delta("", 0)

    def _delta(self, chunk: ollama.ChatResponse) -> Delta | None:
        calls = chunk.message.tool_calls or ()
        for call in calls:
            self._calls.append(self._size.call(call.function.name, call.function.arguments))
        if not chunk.message.content:
            # A call is a part of the answer; a thought is not shown, but something moves.
            return Delta("", len(calls)) if calls or chunk.message.thinking else None
        chances = logprobs(token.logprob for token in chunk.logprobs or ())
        self._said = True
        return Delta(self._seam.take(self._size.take(chunk.message.content)), max(1, len(chances)), chances)

    def done(self) -> Done | None:
        if (chunk := self._end) is None:
            return None
        finish: FinishReason = "tool_calls" if self._calls else FINISH.get(chunk.done_reason or "", "stop")
        answered = self._said or bool(self._calls)
        # Older servers leave out the count of a prompt that they had read before: then it is unknown.
        used = plausible(Usage(counted(chunk.prompt_eval_count), counted(chunk.eval_count)), answered=answered)
        return Done(finish, used.prompt_tokens, used.completion_tokens, tuple(self._calls))
