"""An answer as a sequence of blocks: reasoning, text, tool calls.

Dialects with blocks close one block before they open the next, but pieces on the wire may mix them. While the open
block is unfinished, pieces of another block are not written; at the end the missing parts are written from the whole
answer. Whatever the order of the pieces, the blocks join to the answer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from contracts import Chunk, InferenceResponse, TokenLogprob, ToolCallDelta

Kind = Literal["thought", "text", "refusal", "call"]


class Call(NamedTuple):
    id: str
    name: str
    arguments: str
    """JSON as a text."""


@dataclass(slots=True)
class Block:
    kind: Kind
    index: int
    """The block's place in the answer, from 0."""
    id: str = ""
    name: str = ""
    number: int = 0
    """A call's place among the calls, from 0."""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_finished(self) -> bool:
        """Whether the block may be complete; a call is complete when its arguments are valid JSON."""
        if self.kind != "call":
            return True
        try:
            json.loads(self.text)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Opened:
    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    block: Block
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Closed:
    block: Block


Step = Opened | Grown | Closed


class Blocks:
    """Turns one streamed answer into steps: blocks that open, grow and close."""

    def __init__(self, *, thoughts: bool = True) -> None:
        """`thoughts`: whether the client gets the model's reasoning."""
        self._thoughts = thoughts
        self._open: Block | None = None
        self._opened = 0
        self._said = 0
        """Characters of the text that were written. Writing goes on from there, so that none is left out."""
        self._thought = 0
        self._told_logprobs = 0
        self._calls: dict[int, int] = {}
        """Characters of the arguments that were written, by the call's number."""
        self._late: set[Kind | int] = set()
        """Blocks that are written only at the end, because a piece of theirs came while another block was open; a
        number is a call.
        """

    def piece(self, chunk: Chunk) -> Iterator[Step]:
        if chunk.reasoning and self._thoughts:
            yield from self._more("thought", chunk.reasoning)
        if chunk.delta:
            yield from self._more("text", chunk.delta, chunk.logprobs or ())
        for delta in chunk.tool_calls or ():
            yield from self._more_of_call(delta)

    def end(self, response: InferenceResponse) -> Iterator[Step]:
        """Writes what is missing of the answer, and closes the open block."""
        calls = calls_of(response)
        if self._open is not None and self._open.kind == "call" and self._open.number < len(calls):
            yield from self._rest_of_call(self._open.number, calls[self._open.number])
        if self._thoughts and (rest := (response.reasoning or "")[self._thought :]):
            yield from self._write("thought", rest)
        if rest := response.output[self._said :]:
            yield from self._write("text", rest, (response.logprobs or ())[self._told_logprobs :])
        if response.refusal and not response.output:
            yield from self._write("refusal", response.refusal)
        for number, call in enumerate(calls):
            yield from self._rest_of_call(number, call)
        yield from self.close()

    def close(self) -> Iterator[Step]:
        if self._open is not None:
            block, self._open = self._open, None
            yield Closed(block)

    def _more(self, kind: Kind, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Iterator[Step]:
        if kind in self._late or not self._may_leave:
            self._late.add(kind)
        else:
            yield from self._write(kind, text, logprobs)

    def _more_of_call(self, delta: ToolCallDelta) -> Iterator[Step]:
        number = delta.index
        if number in self._late:
            return
        if number not in self._calls:
            may_begin = number == len(self._calls) and delta.function.name and delta.id
            if not may_begin or not self._may_leave:
                self._late.add(number)
                return
            yield from self._begin_call(number, delta.id or "", delta.function.name or "")
        if self._open is None or self._open.kind != "call" or self._open.number != number:
            self._late.add(number)
        elif delta.function.arguments:
            yield self._grow_call(self._open, delta.function.arguments)

    @property
    def _may_leave(self) -> bool:
        """Whether the open block may be closed for another one."""
        return self._open is None or self._open.is_finished

    def _write(self, kind: Kind, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Iterator[Step]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Block(kind, self._opened))
        assert self._open is not None
        if kind == "text":
            self._said += len(text)
            self._told_logprobs += len(logprobs)
        elif kind == "thought":
            self._thought += len(text)
        self._open.pieces.append(text)
        self._open.logprobs += logprobs
        yield Grown(self._open, text, logprobs)

    def _rest_of_call(self, number: int, call: Call) -> Iterator[Step]:
        if number not in self._calls:
            yield from self._begin_call(number, call.id, call.name)
        rest = call.arguments[self._calls[number] :]
        if rest and self._open is not None and self._open.kind == "call" and self._open.number == number:
            yield self._grow_call(self._open, rest)

    def _begin_call(self, number: int, call_id: str, name: str) -> Iterator[Step]:
        self._calls[number] = 0
        yield from self._begin(Block("call", self._opened, call_id, name, number))

    def _grow_call(self, block: Block, text: str) -> Grown:
        self._calls[block.number] += len(text)
        block.pieces.append(text)
        return Grown(block, text)

    def _begin(self, block: Block) -> Iterator[Step]:
        yield from self.close()
        self._open = block
        self._opened += 1
        yield Opened(block)


def calls_of(response: InferenceResponse) -> list[Call]:
    """The calls in an answer; a part that is missing is empty."""
    found = []
    for number, told in enumerate(response.tool_calls or ()):
        function = told.get("function")
        function = function if isinstance(function, dict) else {}
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        found.append(Call(str(told.get("id") or f"call_{number}"), str(function.get("name") or ""), text or "{}"))
    return found
