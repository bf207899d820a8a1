"""Where the time of one HTTP request went: the header `Server-Timing` (milliseconds, W3C's form)."""

from collections.abc import Iterable
from time import perf_counter

from contracts import Answer

SERVER_TIMING = "Server-Timing"


class Timing:
    """The times of one request; begins when it is made."""

    def __init__(self) -> None:
        self._began = self._asked = perf_counter()

    def asked(self) -> None:
        """Notes that the request is read, and sent to the mesh now."""
        self._asked = perf_counter()

    def told(self, answers: Iterable[Answer] = ()) -> str:
        """The header's value. `read`: until the request to the mesh; `mesh`: from then until now, which in a stream is
        the first piece.

        For whole answers also the mesh's time for the slowest one (`answer`), and how long it waited (`queue`).
        """
        now = perf_counter()
        found = {"read": (self._asked - self._began) * 1000, "mesh": (now - self._asked) * 1000}
        if self._asked == self._began:
            found = {"read": (now - self._began) * 1000}
        slowest = max(answers, key=lambda answer: answer.duration_ms, default=None)
        if slowest is not None:
            found |= {"answer": slowest.duration_ms, "queue": slowest.queue_ms}
        return ", ".join(f"{name};dur={ms:.1f}" for name, ms in found.items())
