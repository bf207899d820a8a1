"""Joins two workers' halves of one answer: what the second is asked, and which of its words are new. Pure.

The caller of a seamless stream has the first half already, and cannot take it back. A model that can be given a start
(`prefill`) goes on after it. Any other model is shown the first half and asked to repeat its end, the anchor, before it
goes on; the repeat is found and cut. Where it is not found the halves do not join: no second half is better than a
wrong one.

The anchor is compared without blanks, and with one kind of quotes, dashes and letter cases, because models are careless
with them. Before it a model may say a few words ("Sure, here is the rest:") or repeat more than it was asked.
"""

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from itertools import takewhile
from math import ceil

from contracts.tokens import utf8_bytes

ANCHOR = 32
"""Characters of the anchor without blanks: about forty with them."""
LONGEST = 160
"""Characters of the anchor where a shorter one stands in the text more than once."""
ENOUGH = 12
"""A start with fewer characters must be repeated at once: so few characters are found by chance as well."""
LEAD_IN = 200
"""Characters that a model may say before the anchor."""
LOOKED_AT = 1 << 13
"""Characters at the end of the first half in which the anchor must be unique."""

_SAME = {ord(char): one for one, chars in {"'": "‘’‚‛′", '"': "“”„‟«»″", "-": "‐‑‒–—―−"}.items() for char in chars}
_OPENED = re.compile(r"(?:^|[:\n])\s*(?:```\w*\n\s*)?(?:\.\.\.|…)?\s*")
"""Where a repeat may begin: at the start, on a new line or after a colon."""
_CLOSED_BY = {'"': '"', "“": "”", "„": "“", "«": "»"}
_FENCE = "```"


class Verdict(Enum):
    """Whether a second half that has brought nothing new yet may still join."""

    WAIT = "wait"
    """It may still be the anchor, or a preface to it."""
    NO_JOIN = "no join"


@dataclass(frozen=True, slots=True)
class Anchor:
    """The end of a first half, by which the second half is joined to it."""

    text: str
    """The anchor as the model is shown it. Empty: the first half has nothing but blanks."""
    key: str
    """The anchor as it is compared."""
    before: str
    """The text before it, as it is compared."""
    blanks: str
    """The blanks after it: the first half's last ones."""
    is_clear: bool
    """Whether it stands in the first half once, and is too long to be found by chance."""
    in_code: bool
    """Whether the first half ends within a block of code."""
    quotes: str
    """The first half's quotation marks, in their order."""

    @classmethod
    def of(cls, begun: str) -> "Anchor":
        text = begun.rstrip()
        blanks, near = begun[len(text) :], text[-LOOKED_AT:]
        whole, size = _key(near), ANCHOR
        start = _start(near, size)
        while not _is_once(_key(near[start:]), whole) and size < LONGEST and start:
            size *= 2
            start = _start(near, min(size, LONGEST))
        key = _key(near[start:])
        return cls(
            text=near[start:],
            key=key,
            before=whole[: len(whole) - len(key)],
            blanks=blanks,
            is_clear=len(key) >= ENOUGH and _is_once(key, whole),
            in_code=text.count(_FENCE) % 2 == 1,
            quotes=_quotes(text),
        )

    @property
    def most_tokens(self) -> int:
        """How many tokens the repeat may need, with a short preface."""
        return utf8_bytes(self.text) // 2 + 16


def _start(text: str, size: int) -> int:
    """Where the last `size` characters that are no blanks begin, or the word that contains their start."""
    at = len(text)
    while at and size:
        at -= 1
        size -= not text[at].isspace()
    word = at
    while word and not text[word - 1].isspace() and at - word < ANCHOR:
        word -= 1
    at = word if not word or text[word - 1].isspace() else at
    while at and (unicodedata.category(text[at]).startswith("M") or text[at - 1] == "\u200d"):
        at -= 1
    return at


def _is_once(key: str, whole: str) -> bool:
    return whole.find(key) == len(whole) - len(key)


@lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    """A character as it is compared; blanks are dropped."""
    return "" if char.isspace() else unicodedata.normalize("NFKD", char).casefold().translate(_SAME)


def _key(text: str) -> str:
    return "".join(text.split()).lower() if text.isascii() else "".join(map(_plain, text))


def _quotes(text: str) -> str:
    return "".join(char for char in text if char in _CLOSED_BY or char in _CLOSED_BY.values())


class Matcher:
    """Takes a second half, piece by piece, and returns what comes after the anchor."""

    def __init__(self, anchor: Anchor) -> None:
        self._anchor = anchor
        self._raw = ""
        """The second half, until it is joined."""
        self._keys = ""
        self._starts: list[int] = []
        """Where in the second half each character of its key comes from."""
        self._quote = ""
        """The mark that closes the quotation into which the model has put its words."""
        self._found = not anchor.key
        self._undecided = False
        """Whether the model may have quoted the anchor alone: the next character tells."""
        self._blanks = anchor.blanks
        self._held = ""
        self._new: list[str] = []
        self.repeated = 0
        """Characters until the anchor's end."""

    @property
    def joined(self) -> bool:
        return self._found and not self._undecided

    def take(self, text: str) -> str | Verdict:
        """The new part of `text`."""
        for at, char in enumerate(text):
            if self.joined:
                return self._after(text[at:])
            if self._undecided:
                self._undecided = False
                self._found = char != self._quote
                if self._found:
                    return self._after(text[at:])
                self._quote = ""
            self._read(char)
            if self._is_hopeless():
                return Verdict.NO_JOIN
        return "" if self.joined else Verdict.WAIT

    def end(self) -> str | Verdict:
        """The second half is complete: returns what was held back."""
        if not self._found:
            return Verdict.NO_JOIN
        self._undecided = False
        held, self._held = self._held, ""
        if not held or not self._quote:
            return held
        quotes = self._anchor.quotes + _quotes("".join(self._new))
        opening, closing = quotes.count(self._opening), quotes.count(self._quote)
        balanced = opening % 2 == 0 if self._opening == self._quote else opening == closing
        return "" if balanced else held

    @property
    def _opening(self) -> str:
        return next(opening for opening, closing in _CLOSED_BY.items() if closing == self._quote)

    def _read(self, char: str) -> None:
        """Takes in one character before the halves are joined."""
        key = _plain(char)
        self._starts += [len(self._raw)] * len(key)
        self._raw += char
        self._keys += key
        if key and self._keys.endswith(self._anchor.key):
            before = self._raw[: self._starts[-len(self._anchor.key)]]
            quote = self._opening_before(before)
            if quote is not None:
                self._found, self._quote, self._undecided = True, quote, bool(quote)
                self.repeated = len(self._raw)

    def _opening_before(self, said: str) -> str | None:
        """The mark that closes a quotation opened before the anchor, or ""; None: the anchor may not follow `said`."""
        if self._repeats(said):
            return ""
        if not self._anchor.is_clear or len(said) - len(self._anchor.before) > LEAD_IN:
            return None
        for lead in _OPENED.finditer(said):
            rest = said[lead.end() :]
            if _FENCE in said[: lead.end()] and not self._anchor.in_code:
                return None
            if self._repeats(rest):
                return ""
            if rest[:1] in _CLOSED_BY and self._repeats(rest[1:]):
                return _CLOSED_BY[rest[0]]
        return None

    def _repeats(self, said: str) -> bool:
        """Whether `said` is empty, or repeats more of the first half than was asked for."""
        key = _key(said)
        return not key or (self._anchor.is_clear and self._anchor.before.endswith(key))

    def _is_hopeless(self) -> bool:
        if self._found:
            return False
        anchor = self._anchor
        if not anchor.is_clear:
            return not anchor.key.startswith(self._keys)
        too_long = len(self._raw) > LEAD_IN + 2 * len(anchor.text)
        return too_long and self._keys not in anchor.before + anchor.key

    def _after(self, text: str) -> str:
        """The new part of what follows the anchor: without the blanks that the caller has, and without a mark that may
        close the quotation.
        """
        pairs = zip(text, self._blanks, strict=False)
        again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._blanks = self._blanks[again:] if again == len(text) else ""
        text = self._held + text[again:]
        self._held = ""
        if self._quote:
            last = text.rstrip()
            if last.endswith(self._quote):
                self._held, text = text[len(last) - 1 :], last[:-1]
            self._new.append(text)
        return text


def _ends(text: str, tokens: int) -> list[int]:
    """Where each token of the second half ends, as far as can be told: by its words, or by equal lengths."""
    words = [word.end() for word in re.finditer(r"\s*\S+", text)]
    return words if len(words) == tokens else [ceil(len(text) * (at + 1) / tokens) for at in range(tokens)]


class Joint:
    """One attempt's part of a seamless stream: which of its words the caller gets."""

    def __init__(self, anchor: Anchor | None = None, room: int | None = None) -> None:
        """`anchor`: None where the worker is given the start itself. `room`: tokens that the answer may still have."""
        self._matcher = None if anchor is None else Matcher(anchor)
        self._room = room
        self._heard = ""
        self._said = 0
        """Tokens heard so far."""
        self._unspoken = 0
        """Tokens of pieces without text among them: reasoning, and tool calls."""
        self._repeated = 0
        """Tokens of the repeat."""
        self._tokens = 0
        """Tokens of the new part."""
        self.text = ""
        """The new part so far."""
        self.was_cut = False
        """The second half had more tokens than there was room for."""

    @property
    def joined(self) -> bool:
        return self._matcher is None or self._matcher.joined or self._room == 0

    def take(self, said: str, tokens: int) -> str | Verdict:
        """The new part of a piece; `tokens` were heard up to its end."""
        self._heard += said
        before, new = self.joined, said
        came, self._said = tokens - self._said, tokens
        if not said:
            self._unspoken += came
        tokens -= self._unspoken
        if self._room == 0:
            self.was_cut, self._repeated, new = True, tokens, ""
        elif self._matcher is not None:
            found = self._matcher.take(said)
            if isinstance(found, Verdict):
                return found
            new = found
            if not before:
                again = len(said) - (len(self._heard) - self._matcher.repeated)
                self._repeated = min(
                    tokens, tokens - came + (bisect_left(_ends(said, came), again) + 1 if again > 0 else 0)
                )
        return self._within(new, max(0, tokens - self._repeated))

    def _within(self, new: str, tokens: int) -> str:
        """As much of the new part as there is room for."""
        came, left = tokens - self._tokens, None if self._room is None else max(0, self._room - self._tokens)
        if left is not None and came > left:
            self.was_cut = True
            new, tokens = new[: _ends(new, came)[left - 1] if left else 0], self._tokens + left
        self._tokens = max(self._tokens, tokens)
        self.text += new
        return new

    def finish(self, output: str, tokens: int, *, has_gap: bool = False) -> str | Verdict:
        """Takes the whole answer: returns what is new in it, and was not heard before.

        Some workers put another text into the answer than into the pieces (without blanks around it): then what was
        heard is the answer, unless it `has_gap`.
        """
        if output.startswith(self._heard):
            return self._end(output[len(self._heard) :], tokens)
        return Verdict.NO_JOIN if has_gap else self._end("", tokens)

    def _end(self, rest: str, tokens: int) -> str | Verdict:
        new = self.take(rest, tokens) if rest else ""
        if self._matcher is None or self.was_cut or new is Verdict.NO_JOIN:
            return new
        waited, last = not self.joined, self._matcher.end()
        if isinstance(last, Verdict):
            return last
        if waited or isinstance(new, Verdict):
            new, self._repeated = "", tokens - self._unspoken  # it said the anchor, and nothing else
        self.text += last
        return new + last

    def withheld(self, tokens: int) -> int:
        """How many tokens the caller did not get: the repeat, and those beyond the limit."""
        return tokens - self._unspoken - self._tokens if self.was_cut else self._repeated
