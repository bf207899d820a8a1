"""Signed thoughts, which the API requires back unchanged, in their places beside the calls that they led to. Pure.

They travel as `extra["anthropic"]` of an answer: the blocks of the answer in order. Thoughts are complete; of other
blocks, which the answer has anyway, only kind and length.
"""

from typing import Any

from contracts import ChatMessage, JsonObject
from workers.base.provider.chat import SizeGuard

NAME, BLOCKS = "anthropic", "blocks"
THINKING, REDACTED = "thinking", "redacted_thinking"


class Thoughts:
    """Gathers the blocks of one answer."""

    def __init__(self, size: SizeGuard) -> None:
        self._size = size
        self._order: list[JsonObject] = []
        self._blocks: dict[int, JsonObject] = {}

    @property
    def extra(self) -> JsonObject | None:
        """The blocks for `extra`; None without signed thoughts. Thoughts without their signature are left out."""
        order = [block for block in self._order if block["type"] != THINKING or block["signature"]]
        if not any(block["type"] in (THINKING, REDACTED) for block in order):
            return None
        return {NAME: {BLOCKS: order}}

    def begin(self, index: int, block: Any) -> None:
        kind = getattr(block, "type", None)
        if kind == THINKING:
            self._add(index, {"type": THINKING, "thinking": "", "signature": ""})
        elif kind == REDACTED:
            self._add(index, {"type": REDACTED, "data": self._size.take(block.data)})

    def think(self, index: int, text: object) -> str:
        told = self._size.take(text)
        if index in self._blocks:
            self._blocks[index]["thinking"] += told
        return told

    def sign(self, index: int, signature: object) -> None:
        told = self._size.take(signature)
        if index in self._blocks:
            self._blocks[index]["signature"] += told

    def other(self, kind: str, characters: int = 0) -> None:
        """Records a block of another kind, or more of the same text."""
        last = self._order[-1] if self._order else {}
        if kind == "text" and last.get("type") == "text":
            last["characters"] += characters
        else:
            self._order.append({"type": kind, "characters": characters} if kind == "text" else {"type": kind})

    def _add(self, index: int, block: JsonObject) -> None:
        self._blocks[index] = block
        self._order.append(block)


def in_order(message: ChatMessage, calls: list[JsonObject]) -> list[JsonObject] | None:
    """The blocks of an earlier answer, with its thoughts in their places. None: its `extra` has none that fit the
    answer.

    `calls`: its blocks with tool calls.
    """
    own = (message.extra or {}).get(NAME)
    order = own.get(BLOCKS) if isinstance(own, dict) else None
    if message.role != "assistant" or not isinstance(order, list):
        return None
    text, left, blocks = message.text, list(calls), list[JsonObject]()
    for block in order:
        match block:
            case {"type": "thinking", "thinking": str(thinking), "signature": str(signature)}:
                blocks.append({"type": THINKING, "thinking": thinking, "signature": signature})
            case {"type": "redacted_thinking", "data": str(data)}:
                blocks.append({"type": REDACTED, "data": data})
            case {"type": "text", "characters": int(characters)}:
                said, text = text[:characters], text[characters:]
                blocks += [{"type": "text", "text": said}] if said.strip() else []
            case {"type": "tool_use"} if left:
                blocks.append(left.pop(0))
            case _:
                return None
    return None if text.strip() or left else blocks
