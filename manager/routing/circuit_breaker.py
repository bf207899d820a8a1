"""Whether a worker that keeps failing, or one of its models, gets another request. Pure.

`now` is the loop's clock in seconds.

A closed breaker lets requests through. Too many failures open it: the worker gets no request for a while. Then the
breaker lets one probe through. An answer to the probe closes the breaker; another failure doubles the rest.
"""

from collections import deque

from contracts import ErrorCode

IN_A_ROW = 5
"""Failures in a row that open the breaker."""
SHARE, OF_AT_LEAST, WITHIN = 0.5, 10, 30.0
"""The breaker also opens when more than this share of at least this many requests failed within this many seconds."""
FIRST_REST, LONGEST_REST = 5.0, 60.0
"""Seconds that a breaker stays open, after the first failure and at most."""
UNPROVED = frozenset(
    {
        ErrorCode.NO_WORKER.value,
        ErrorCode.INVALID_REQUEST.value,
        ErrorCode.PAYLOAD_TOO_LARGE.value,
    }
)
"""Error codes that do not prove that the worker is ill: a worker that did not claim in time may be busy, and one that
declines may have met odd requests only. Where no other worker can be asked, such a worker is asked all the same.
"""


class CircuitBreaker:
    def __init__(self) -> None:
        self._recent: deque[tuple[float, bool]] = deque(maxlen=1000)
        self._in_a_row = 0
        self._open_until: float | None = None
        self._rest = FIRST_REST
        self._probing = False
        self.why = ""
        """The error code of the last failure."""

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open or half-open: the worker is not trusted yet."""
        return self._open_until is not None

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        return self._open_until is None or (now >= self._open_until and not self._probing)

    @property
    def is_unproved(self) -> bool:
        """Whether the worker may be well although the breaker opened."""
        return self.why in UNPROVED

    def rest(self, now: float) -> float:
        """Seconds until a request may be sent again; 0 when it may be sent now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - now)

    def sent(self) -> bool:
        """Records that a request was sent. Returns whether it is the probe: its end has to be reported with
        `probe=True`.
        """
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
        """Takes the last failure back: the worker answered that request after all."""
        failure = next((entry for entry in reversed(self._recent) if not entry[1]), None)
        if failure is not None:
            self._recent.remove(failure)
        self.succeeded(now, probe=probe)

    def withdrawn(self, *, probe: bool) -> None:
        """Records that a request ended without showing whether the worker is well (refused, cancelled): the next
        request may be the probe.
        """
        if probe:
            self._probing = False

    def _open(self, now: float) -> None:
        self._open_until, self._probing = now + self._rest, False

    def _mostly_fails(self, now: float) -> bool:
        while self._recent and self._recent[0][0] < now - WITHIN:
            self._recent.popleft()
        failures = sum(1 for _, answered in self._recent if not answered)
        return len(self._recent) >= OF_AT_LEAST and failures > SHARE * len(self._recent)
