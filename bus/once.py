"""Says what is wrong once, not with every message: a peer that says it a thousand times a second fills no log."""

from collections import OrderedDict
from collections.abc import Hashable

REMEMBERED = 1000


class Once:
    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._said: OrderedDict[Hashable, None] = OrderedDict()
        self._remembered = remembered

    def __len__(self) -> int:
        return len(self._said)

    def first(self, *what: Hashable) -> bool:
        """Whether this was not said before, as far as is remembered: the last thousand things are."""
        known = what in self._said
        self._said[what] = None
        self._said.move_to_end(what)
        if len(self._said) > self._remembered:
            self._said.popitem(last=False)
        return not known
