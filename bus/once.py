"""Reports a fault once instead of with every message: a peer that repeats it a thousand times a second does not fill
the log.
"""

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
        """Whether this is reported for the first time, as far as the last 1,000 reports show."""
        known = what in self._said
        self._said[what] = None
        self._said.move_to_end(what)
        if len(self._said) > self._remembered:
            self._said.popitem(last=False)
        return not known
