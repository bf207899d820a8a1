"""Which worker probably still has the start of a conversation in its cache and does not have to read it again. Pure.

A conversation is identified by its openings: the system text, then the system text and the first turn, and so on. A
worker that has answered a conversation holds all its openings, its own answer included. The Manager counts on this less
as time passes: other conversations need the cache. A cached prompt only shortens the expected time (`forecast`).
"""

from collections import OrderedDict
from typing import NamedTuple

from contracts import ChatMessage, EmbeddingRequest, InferenceRequest, Request
from contracts.tokens import frame_bytes, message_bytes, tokens_of, utf8_bytes

SHORTEST = 32
"""Tokens of the shortest opening that is remembered."""
HALF_GONE = 120.0
"""Seconds after which half of an opening is assumed to be still in the cache."""
FORGOTTEN = 600.0
REMEMBERED = 20_000
"""Openings remembered, of all conversations together."""
HOLDERS = 4
"""Workers remembered for one opening: the latest ones."""


class Opening(NamedTuple):
    """The start of a conversation."""

    key: int
    size: int
    """Bytes of UTF-8."""

    @property
    def tokens(self) -> int:
        """Tokens, estimated as for a prompt: the last opening of a conversation has as many as its prompt."""
        return tokens_of(self.size)


def openings(request: Request) -> tuple[Opening, ...]:
    """Every opening of this conversation, the shortest first; the last one is the whole conversation. Texts to embed
    have no openings.
    """
    if isinstance(request, EmbeddingRequest):
        return ()
    before, known = _frame(request), []
    for message in request.conversation:
        before = Opening(hash((before.key, _said(message))), before.size + message_bytes(message))
        known.append(before)
    return tuple(known)


def _frame(request: InferenceRequest) -> Opening:
    """The opening before the first message: other tools or another response format make another conversation."""
    size = frame_bytes(request)
    return Opening(hash(repr((request.tools, request.response_format))) if size else 0, size)


def _said(message: ChatMessage) -> tuple[object, ...]:
    """The parts of a message that tell it apart from another message."""
    if isinstance(message.content, str) and not message.tool_calls:
        return message.role, message.content, (), (), ""
    calls = repr(message.tool_calls) if message.tool_calls else ""
    return message.role, message.text, message.images, message.attachments, calls


def _answered(known: tuple[Opening, ...], output: str) -> Opening:
    """The opening that ends with the answer."""
    key, size = known[-1] if known else (0, 0)
    return Opening(hash((key, ("assistant", output, (), (), ""))), size + utf8_bytes(output))


class PrefixCache:
    def __init__(self) -> None:
        self._held: OrderedDict[int, dict[str, float]] = OrderedDict()
        """By opening, the workers that hold it and the time when they read it (loop's clock, seconds)."""

    def answered(self, worker_id: str, known: tuple[Opening, ...], output: str, now: float) -> None:
        """Records that a worker has read a conversation and answered `output`."""
        for opening in (*known, _answered(known, output)):
            if opening.tokens < SHORTEST:
                continue
            holders = self._held.setdefault(opening.key, {})
            holders.pop(worker_id, None)
            holders[worker_id] = now
            if len(holders) > HOLDERS:
                del holders[next(iter(holders))]
            self._held.move_to_end(opening.key)
        while len(self._held) > REMEMBERED:
            self._held.popitem(last=False)

    def cached(self, known: tuple[Opening, ...], now: float) -> dict[str, float]:
        """By worker, how many tokens of the conversation it probably does not read again."""
        found: dict[str, float] = {}
        for opening in reversed(known):
            for worker_id, since in self._held.get(opening.key, {}).items():
                if worker_id not in found and now - since < FORGOTTEN:
                    found[worker_id] = opening.tokens * 0.5 ** ((now - since) / HALF_GONE)
        return found
