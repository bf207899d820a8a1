"""The last values of a figure, kept in order of size, so that a percentile needs no sorting. Pure."""

from bisect import bisect_left, insort
from collections import deque


class RecentValues:
    def __init__(self, most: int) -> None:
        """`most`: how many values are kept."""
        self._came: deque[float] = deque(maxlen=most)
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._came)

    def add(self, value: float) -> None:
        """Adds a value; when there are `most` already, the oldest is dropped."""
        if len(self._came) == self._came.maxlen:
            del self._ordered[bisect_left(self._ordered, self._came[0])]
        self._came.append(value)
        insort(self._ordered, value)

    def below(self, index: int) -> float:
        """The value at this place in order of size, the smallest at 0. Raises `IndexError`."""
        return self._ordered[index]
