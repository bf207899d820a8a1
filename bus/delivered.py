"""What the reader of a stream has already, and which parts of an answer it still lacks. Pure."""

from dataclasses import dataclass

from contracts import Answer, FunctionDelta, JsonObject, Piece, TokenLogprob, ToolCallDelta


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delivered:
    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._logprobs: list[TokenLogprob] = []

    def __bool__(self) -> bool:
        return bool(self._text or self._reasoning or self._calls or self._logprobs)

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return tuple(self._logprobs)

    @property
    def has_calls(self) -> bool:
        """Whether any tool call has begun."""
        return bool(self._calls)

    def take(self, piece: Piece) -> None:
        if piece.text:
            self._text.append(piece.text)
        if piece.reasoning:
            self._reasoning.append(piece.reasoning)
        self._logprobs += piece.logprobs
        for delta in piece.tool_calls:
            call = self._calls.setdefault(delta.index, _Call())
            call.id = call.id or delta.id or ""
            call.name = call.name or delta.function.name or ""
            call.arguments += delta.function.arguments

    def clear(self) -> None:
        """Forgets everything: the reader has to drop what it has."""
        for held in (self._text, self._reasoning, self._calls, self._logprobs):
            held.clear()

    def missing(self, answer: Answer) -> Piece | None:
        """The part of an answer that the reader lacks; empty when it has everything. None: what the reader has is not
        the beginning of that answer.

        Thoughts and log-probabilities that the final answer does not repeat count as the reader got them.
        """
        text, thoughts, calls = self.text, self.reasoning, self._missing_calls(answer.tool_calls or ())
        fits = answer.output.startswith(text) and (answer.reasoning or thoughts).startswith(thoughts)
        if calls is None or not fits:
            return None
        return Piece(
            answer.output[len(text) :],
            (answer.reasoning or "")[len(thoughts) :],
            calls,
            (answer.logprobs or ())[len(self._logprobs) :],
            answer.completion_tokens,
        )

    def is_all_of(self, answer: Answer) -> bool:
        """Whether the reader has the whole answer and nothing else."""
        missing = self.missing(answer)
        return missing is not None and not missing

    def _missing_calls(self, made: tuple[JsonObject, ...]) -> tuple[ToolCallDelta, ...] | None:
        if any(index >= len(made) for index in self._calls):
            return None
        deltas: list[ToolCallDelta] = []
        for index, call in enumerate(made):
            whole, given = _whole(call), self._calls.get(index)
            if given is None:
                told = FunctionDelta(name=whole.name, arguments=whole.arguments)
                deltas.append(ToolCallDelta(index=index, id=whole.id, function=told))
            elif (given.id, given.name) != (whole.id, whole.name):
                return None
            elif given.arguments.strip() != whole.arguments.strip():
                if not whole.arguments.startswith(given.arguments):
                    return None
                rest = whole.arguments[len(given.arguments) :]
                deltas.append(ToolCallDelta(index=index, function=FunctionDelta(arguments=rest)))
        return tuple(deltas)


def _whole(call: JsonObject) -> _Call:
    function = call.get("function")
    told = function if isinstance(function, dict) else {}
    return _Call(*(str(value or "") for value in (call.get("id"), told.get("name"), told.get("arguments"))))
