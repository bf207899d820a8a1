"""Whether a worker, or one model at a worker, that keeps failing is asked again. Pure.

`now` is the loop's clock in seconds.

Closed: asked as usual. Too many failures open it: left alone for a while. Then one probe is let through: an answer
closes it, another failure doubles the rest.
"""

from collections import deque

from contracts import ErrorCode

IN_A_ROW = 5
"""So many failures one after the other open it …"""
SHARE, OF_AT_LEAST, WITHIN = 0.5, 10, 30.0
"""… or more than this share of at least so many within so many seconds."""
FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds."""
UNPROVED = frozenset(
    {
        ErrorCode.NO_WORKER.value,
        ErrorCode.INVALID_REQUEST.value,
        ErrorCode.PAYLOAD_TOO_LARGE.value,
    }
)
"""Failures that are no illness for certain: a worker that did not claim in time may be busy, one that declines may have
met odd requests only. It is asked all the same where no other can be."""


class CircuitBreaker:
    def __init__(self) -> None:
        self._recent: deque[tuple[float, bool]] = deque(maxlen=1000)
        self._in_a_row = 0
        self._open_until: float | None = None
        self._rest = FIRST_REST
        self._probing = False
        self.why = ""
        """The last failure, for people."""

    @property
    def is_open(self) -> bool:
        """Open or half-open: not trusted yet."""
        return self._open_until is not None

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    @property
    def is_unproved(self) -> bool:
        """Whether what opened it may not be an illness at all."""
        return self.why in UNPROVED

    def rest(self, now: float) -> float:
        """Seconds until it may be asked again; 0 when it may be now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def sent(self) -> bool:
        """A request was sent. True: it is the probe; say so when it ends."""
        self._probing = self.is_open
        return self._probing

    def succeeded(self, now: float, *, probe: bool) -> None:
        self._in_a_row = 0
        if probe:
            self._recent.clear()
            self._open_until, self._probing, self._rest = None, False, FIRST_REST
        elif not self.is_open:
            self._recent.append((now, True))

    def failed(self, now: float, why: str, *, probe: bool) -> None:
        self.why = why
        self._in_a_row += 1
        if probe:
            self._rest = min(LONGEST_REST, self._rest * 2)
            self._open(now)
        elif not self.is_open:
            self._recent.append((now, False))
            if self._in_a_row >= IN_A_ROW or self._mostly_fails(now):
                self._open(now)

    def forgiven(self, now: float, *, probe: bool) -> None:
        """It answered after all: what was taken for its last failure was none."""
        failure = next((entry for entry in reversed(self._recent) if not entry[1]), None)
        if failure is not None:
            self._recent.remove(failure)
        self.succeeded(now, probe=probe)

    def withdrawn(self, *, probe: bool) -> None:
        """The request ended without telling anything (refused, cancelled): another one may be the probe."""
        if probe:
            self._probing = False

    def _open(self, now: float) -> None:
        self._open_until, self._probing = now + self._rest, False

    def _mostly_fails(self, now: float) -> bool:
        while self._recent and self._recent[0][0] < now - WITHIN:
            self._recent.popleft()
        failures = sum(1 for _, answered in self._recent if not answered)
        return len(self._recent) >= OF_AT_LEAST and failures > SHARE * len(self._recent)
