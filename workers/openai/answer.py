"""Gathers an answer from the pieces of a server with this API, including servers that deviate from it. Pure.

The rule: null counts as absent, unknown fields are ignored, and everything that can be understood is accepted: content
as a list of parts, a piece without choices or delta, a whole completion instead of a stream. A value of the wrong type
is an error. A complete answer stays complete, whatever follows it.
"""

import dataclasses
from typing import Any

from contracts import FinishReason, JsonObject, TokenLogprob, ToolCallDelta
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.chat import THOUGHTS_LEAST, SizeGuard, counted, logprobs, plausible, token_logprobs
from workers.base.provider.error_body import is_error
from workers.base.provider.errors import garbage, sendable
from workers.base.provider.overlap_trimmer import OverlapTrimmer
from workers.base.provider.tool_calls import ToolCalls

FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")
"""Servers' names for the field of thoughts (llama.cpp, DeepSeek; vLLM, OpenRouter); OpenAI itself sends none."""
PARTS = ("prompt", "completion", "total")
CUT = {"error", "abort", "insufficient_system_resource", "cancelled"}
"""Endings that are failures (OpenRouter; vLLM and SGLang; DeepSeek)."""


class ErrorInAnswer(Exception):
    """The provider sent an error where a piece of the answer should be."""

    def __init__(self, told: JsonObject) -> None:
        super().__init__("an error in an answer")
        self.told = told


class Answer:
    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._thoughts = SizeGuard(job.max_tokens, least=THOUGHTS_LEAST)
        self._seam = OverlapTrimmer(job.prefix)
        self._finish: FinishReason | None = None
        self._usage: JsonObject | None = None
        self._calls = ToolCalls(self._size, _offered(job))
        self._refusal: list[str] = []
        self._tells_tokens = job.request.logprobs
        self._answered = self._thought = False
        self._choice: object = None
        """The index of the choice that is read; None until one is seen."""

    def take(self, piece: JsonObject) -> Delta | None:
        """The part of the answer in a piece; None: nothing to show. Raises `ErrorInAnswer`, or `BullpenError` for a
        piece that cannot be read.
        """
        choice = self._ours(piece)
        if is_error(piece) or choice.get("error"):
            raise ErrorInAnswer(piece if is_error(piece) else choice)
        told = _usage(piece, choice)
        self._usage = told or self._usage
        whole, delta = self._said(choice)
        self._end(_word(choice.get("finish_reason")) or _word(delta.get("finish_reason")), whole=whole)
        repeats = whole and self._answered
        calls = () if repeats else self._take_calls(delta)
        text, thoughts, thinks = ("", "", False) if repeats else self._take(delta)
        self._thought = self._thought or thinks
        if text:
            self._answered = True
            chances = logprobs(_chances(choice.get("logprobs")))
            text, count = self._seam.take(self._size.take(text)), max(1, len(chances))
            return Delta(text, count, chances, self._used(told), thoughts, calls, self._tokens(choice))
        if _calls(delta):
            return Delta("", 1, usage=self._used(told), reasoning=thoughts, tool_calls=calls)
        return Delta("", 0, usage=self._used(told), reasoning=thoughts) if thinks else None

    def _ours(self, piece: JsonObject) -> JsonObject:
        """The choice of a piece that belongs to this answer. One was asked for; if a server sends several, the first
        counts.
        """
        told = _choices(piece)
        if self._choice is None:
            self._choice = next((index for index in (one.get("index") for one in told) if index is not None), None)
        return next((one for one in told if one.get("index") in (None, self._choice)), {})

    def _tokens(self, choice: JsonObject) -> tuple[TokenLogprob, ...]:
        return token_logprobs(_drawer(choice, "logprobs").get("content")) if self._tells_tokens else ()

    def rest(self) -> Delta | None:
        """The text that was held back because it might have repeated the start of the answer; None: no text."""
        text = self._seam.end()
        return Delta(text, 0) if text else None

    def done(self) -> Done | None:
        """The end of the answer; None when the provider never said why it stopped."""
        if self._finish is None:
            return None
        calls = self._calls.finished()
        refusal = "".join(self._refusal)
        finish: FinishReason = "content_filter" if refusal else self._finish
        if calls and finish == "stop":
            finish = "tool_calls"
        used = self._used(self._usage) or Usage()
        return Done(finish, tool_calls=calls, refusal=refusal or None, **dataclasses.asdict(used))

    @property
    def has_begun(self) -> bool:
        """Whether the answer has any text, tool call or thought."""
        return self._answered or self._thought

    @property
    def reasons(self) -> bool:
        return self._thought

    @property
    def is_complete(self) -> bool:
        """Whether the provider said why it stopped: the answer is complete."""
        return self._finish is not None

    def _said(self, choice: JsonObject) -> tuple[bool, JsonObject]:
        """Whether the choice holds the whole message instead of a piece, and its content."""
        for name in ("delta", "message"):
            if (said := choice.get(name)) is not None:
                if not isinstance(said, dict):
                    raise garbage(f"a {name} that is no object")
                if said or name == "message":
                    return name == "message", said
        return False, {"content": choice.get("text")}

    def _end(self, word: str, *, whole: bool) -> None:
        if word and word not in CUT:
            self._finish = FINISH.get(word, "stop")
        elif whole and not word:
            self._finish = self._finish or "stop"

    def _take(self, said: JsonObject) -> tuple[str, str, bool]:
        """The text, the thoughts, and whether the model thought at all, shown or not."""
        text, thought = _text(said.get("content"))
        refusal = _text(said.get("refusal"))[0]
        if refusal:
            self._refusal.append(sendable(refusal) if not text else self._size.take(refusal))
        thoughts = [thought, *(said.get(name) for name in THOUGHTS)]
        shown = next((words for told in thoughts if (words := _thoughts(told))), "")
        return text or refusal, self._thoughts.take(shown), any(thoughts)

    def _take_calls(self, said: JsonObject) -> tuple[ToolCallDelta, ...]:
        return tuple(delta for call in _calls(said) for delta in self._add_call(call))

    def _add_call(self, call: JsonObject) -> tuple[ToolCallDelta, ...]:
        function = call.get("function")
        if function is not None and not isinstance(function, dict):
            raise garbage("a tool call whose function is no object")
        function = function or {}
        self._answered = True
        return self._calls.add(call.get("index"), call.get("id"), function.get("name"), function.get("arguments"))

    def _used(self, told: JsonObject | None) -> Usage | None:
        """The usage that the server reports: at the end, or with every piece if it was asked to (vLLM).

        Thoughts belong to the completion. Some servers leave them out there and count them only in the total (xAI,
        Google).
        """
        if told is None:
            return None
        asked, answered = _drawer(told, "prompt_tokens_details"), _drawer(told, "completion_tokens_details")
        prompt, completion, total = (counted(told.get(f"{part}_tokens")) for part in PARTS)
        cached = counted(asked.get("cached_tokens"))
        if cached is None:
            cached = counted(told.get("prompt_cache_hit_tokens"))  # DeepSeek
        reasoning = counted(answered.get("reasoning_tokens"))
        if prompt is not None and completion is not None and total is not None and total > prompt + completion:
            left_out = total - prompt - completion
            completion = completion + left_out if reasoning in (None, left_out) else None
        written = counted(asked.get("cache_write_tokens"))
        return plausible(Usage(prompt, completion, cached, reasoning, written), answered=self._answered)


def _offered(job: Job) -> list[str]:
    """The names of the functions in the request."""
    functions = [tool.get("function") for tool in job.request.tools or () if isinstance(tool, dict)]
    return [str(function.get("name")) for function in functions if isinstance(function, dict)]


def _choices(piece: JsonObject) -> list[JsonObject]:
    choices = piece.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise garbage("choices that are no list")
    told = [choice for choice in choices or () if choice is not None]
    if not all(isinstance(choice, dict) for choice in told):
        raise garbage("a choice that is no object")
    return told


def _usage(piece: JsonObject, choice: JsonObject) -> JsonObject | None:
    """The usage in a piece: Moonshot puts it into the choice, Groq into an object of its own."""
    for told in (piece.get("usage"), choice.get("usage"), _drawer(piece, "x_groq").get("usage")):
        if isinstance(told, dict) and told:
            return told
    return None


def _drawer(told: JsonObject, name: str) -> JsonObject:
    inside = told.get(name)
    return inside if isinstance(inside, dict) else {}


def _calls(said: JsonObject) -> list[JsonObject]:
    """The pieces of tool calls; a call outside a list, or in the older form, counts too."""
    told = said.get("tool_calls")
    if told is None and isinstance(said.get("function_call"), dict):
        told = [{"index": 0, "function": said["function_call"]}]
    told = [told] if isinstance(told, dict) else [] if told is None else told
    if not isinstance(told, list) or not all(call is None or isinstance(call, dict) for call in told):
        raise garbage("tool calls that are no objects")
    return [call for call in told if call]


def _text(content: Any) -> tuple[str, str]:
    """The text in a content, and the thoughts in it: Mistral sends a list of parts."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise garbage("an answer that is not text")
    words: list[str] = []
    thoughts: list[str] = []
    for part in content:
        told = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(told, dict):
            raise garbage("an answer that is not text")
        thinks = any(name in told for name in ("thinking", "reasoning")) or told.get("type") in (
            "thinking",
            "reasoning",
        )
        text = told.get("text")
        if isinstance(text, str):
            (thoughts if thinks else words).append(text)
        elif thinks:
            thoughts.append(_thoughts(told.get("thinking") or told.get("reasoning")))
    return "".join(words), "".join(thoughts)


def _thoughts(told: object, deep: int = 3) -> str:
    """The shown text of thoughts: a text, a part with a text or a summary, or a list of these (OpenRouter)."""
    if isinstance(told, str):
        return told
    if isinstance(told, dict):
        told = next((told[name] for name in ("text", "summary", "content") if told.get(name)), "")
        return _thoughts(told, deep - 1) if deep else ""
    return "".join(_thoughts(part, deep - 1) for part in told) if isinstance(told, list) and deep else ""


def _word(reason: object) -> str:
    """The reason why the answer ended, in lower case, also when it is in a list; empty: none."""
    told = [reason] if isinstance(reason, str) else reason if isinstance(reason, list) else []
    return next((word.lower() for word in told if isinstance(word, str)), "")


def _chances(told: object) -> list[object]:
    """The log-probabilities of a piece's tokens, in either of the two usual forms."""
    if not isinstance(told, dict):
        return []
    content, plain = told.get("content"), told.get("token_logprobs")
    if isinstance(content, list):
        return [token.get("logprob") for token in content if isinstance(token, dict)]
    return plain if isinstance(plain, list) else []
