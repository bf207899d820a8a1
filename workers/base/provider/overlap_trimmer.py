"""Going on after the start of an answer that another worker delivered, so that nobody sees the seam.

Models read a word together with the space before it. So the model is given the start without the blanks at
its end; it writes them itself, and `OverlapTrimmer` takes away what the reader has already: those blanks, and the whole
start when a provider repeats it instead of going on.

What stays visible: a start that ends in the middle of a word that this model would have cut elsewhere.
"""

from itertools import takewhile

ENOUGH = 12
"""Characters. A shorter start that comes again may be what the answer really says ("ha ha"); it is not taken away."""


def begun(prefix: str) -> str:
    """What the model is given of the start of an answer."""
    return prefix.rstrip()


class OverlapTrimmer:
    """Takes the text of an answer, piece by piece, and gives what comes after `prefix`."""

    def __init__(self, prefix: str, *, may_repeat: bool = True) -> None:
        """`may_repeat`: false for a model that surely goes on, whatever its text looks like."""
        start = begun(prefix)
        self._blanks = prefix[len(start) :]
        """At the end of the start, and not written again yet."""
        self._start = start if may_repeat and len(start) >= ENOUGH else ""
        """Until the text is known to be other than that."""
        self._held = ""

    def take(self, text: str) -> str:
        """What is new in `text`; nothing as long as it may be the start once more."""
        if self._start:
            self._held += text
            if len(self._held) < len(self._start) and self._start.startswith(self._held):
                return ""
            text, self._held = self._held.removeprefix(self._start), ""
            self._start = ""
        return self._without_blanks(text)

    def end(self) -> str:
        """What was held back in vain: the answer ended before it was the whole start."""
        held, self._held = self._held, ""
        return self._without_blanks(held)

    def _without_blanks(self, text: str) -> str:
        pairs = zip(text, self._blanks, strict=False)
        again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._blanks = self._blanks[again:] if again == len(text) else ""
        return text[again:]
