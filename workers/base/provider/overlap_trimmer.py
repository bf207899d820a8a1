"""Continues an answer after the start that another worker delivered, so that the caller does not see the seam.

Models read a word together with the space before it. So the model gets the start without the blanks at its end, and
writes them itself. `OverlapTrimmer` then removes what the caller has already: those blanks, and the whole start when a
provider repeats it instead of continuing.

A start that ends in the middle of a word may still show a seam, if this model would have cut the word elsewhere.
"""

from itertools import takewhile

ENOUGH = 12
"""Characters of the shortest start that is removed when it is repeated. A shorter repetition may be what the answer
really says ("ha ha").
"""


def begun(prefix: str) -> str:
    """The start of the answer as the model gets it."""
    return prefix.rstrip()


class OverlapTrimmer:
    """Takes the text of an answer, piece by piece, and returns what comes after `prefix`."""

    def __init__(self, prefix: str, *, may_repeat: bool = True) -> None:
        """`may_repeat`: false for a model that surely continues, whatever its text looks like."""
        start = begun(prefix)
        self._blanks = prefix[len(start) :]
        """Blanks at the end of the start that the model has not written again yet."""
        self._start = start if may_repeat and len(start) >= ENOUGH else ""
        """The start, until the text is known to differ from it."""
        self._held = ""

    def take(self, text: str) -> str:
        """The new part of `text`; empty as long as the text may be a repetition of the start."""
        if self._start:
            self._held += text
            if len(self._held) < len(self._start) and self._start.startswith(self._held):
                return ""
            text, self._held = self._held.removeprefix(self._start), ""
            self._start = ""
        return self._without_blanks(text)

    def end(self) -> str:
        """The text that was held back, when the answer ended before it had repeated the whole start."""
        held, self._held = self._held, ""
        return self._without_blanks(held)

    def _without_blanks(self, text: str) -> str:
        pairs = zip(text, self._blanks, strict=False)
        again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._blanks = self._blanks[again:] if again == len(text) else ""
        return text[again:]
