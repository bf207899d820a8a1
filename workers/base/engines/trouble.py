"""Models that hardly answer anything of late, as the heartbeat, `bullpen workers` and `bullpen doctor` tell it.

Only what is the model's own fault counts (`ErrorDetail.fault`), and only codes are told: a provider may quote the
request in its own words. Telling is all that happens here: leaving such a model alone is the Manager's breaker's part.
Pure: the time is handed in, in seconds of the loop's clock.
"""

from collections import Counter, deque
from math import inf

from config.bounded import Latest
from contracts import BullpenError, ErrorCode
from contracts.heartbeat import MOST_MODELS

KEPT, LEAST = 20, 10
"""Outcomes of a model that are remembered, and how many there must be to say anything of it."""
NEARLY_ALL = 0.9
OF_LATE = 300.0
"""Seconds."""
FAILURES = frozenset({ErrorCode.UPSTREAM_ERROR.value, ErrorCode.MALFORMED_TOOL_CALL.value})
NO_TROUBLE = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.CONTEXT_LENGTH_EXCEEDED})
"""The model is well; it has to be left alone for a while, or the prompt was too long for it."""


class ModelRecord:
    """How one model's last requests ended."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, ErrorCode | None]] = deque(maxlen=KEPT)
        self._failed_at = -inf

    def answered(self, now: float) -> None:
        """What came before an answer is over, if it was trouble."""
        if self.trouble(now):
            self._ended.clear()
        self._ended.append((now, None))

    def failed(self, code: ErrorCode, now: float) -> None:
        self._ended.append((now, code))
        self._failed_at = now

    def trouble(self, now: float) -> str:
        """Empty while it answers."""
        if now - self._failed_at >= OF_LATE:
            return ""
        late = [code for at, code in self._ended if now - at < OF_LATE]
        codes = Counter(code.value for code in late if code is not None)
        failed = codes.total()
        if len(late) < LEAST or failed < NEARLY_ALL * len(late):
            return ""
        verb = "failed" if FAILURES & codes.keys() else "refused"
        told = ", ".join(code for code, _ in codes.most_common())
        return f"{verb} {failed} of its last {len(late)} requests ({told})"


class Troubles:
    """Of all models of a worker."""

    def __init__(self) -> None:
        self._records: Latest[str, ModelRecord] = Latest(MOST_MODELS)

    def ended(self, model: str, failure: BullpenError | None, now: float) -> bool:
        """A request has ended. True: what is told of its model has begun or ended."""
        record = self._records.setdefault(model, ModelRecord())
        was_well = not record.trouble(now)
        if failure is None:
            record.answered(now)
        elif failure.fault == "model" and failure.code not in NO_TROUBLE:
            record.failed(failure.code, now)
        return was_well is bool(record.trouble(now))

    def of(self, model: str, now: float) -> str:
        record = self._records.get(model)
        return record.trouble(now) if record is not None else ""
