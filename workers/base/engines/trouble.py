"""Models that have answered hardly any request lately, as the heartbeat, `bullpen workers` and `bullpen doctor` show
them.

Only failures that are the model's fault count (`ErrorDetail.fault`). Only their codes are shown: a provider may quote
the request in its message. This module only reports; the Manager's breaker decides whether such a model gets requests.
Pure: the caller passes the time in, in seconds of the loop's clock.
"""

from collections import Counter, deque
from math import inf

from config.bounded import Latest
from contracts import BullpenError, ErrorCode
from contracts.heartbeat import MOST_MODELS

KEPT, LEAST = 20, 10
"""Outcomes remembered for each model, and the fewest that allow a judgement."""
NEARLY_ALL = 0.9
OF_LATE = 300.0
"""Seconds for which an outcome counts."""
FAILURES = frozenset({ErrorCode.UPSTREAM_ERROR.value, ErrorCode.MALFORMED_TOOL_CALL.value})
NO_TROUBLE = frozenset({ErrorCode.RATE_LIMITED, ErrorCode.CONTEXT_LENGTH_EXCEEDED})
"""Error codes that do not mean that the model is ill: it is rate limited, or the prompt was too long for it."""


class ModelRecord:
    """How one model's last requests ended."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, ErrorCode | None]] = deque(maxlen=KEPT)
        self._failed_at = -inf

    def answered(self, now: float) -> None:
        """Records an answer. If the model was in trouble, earlier outcomes are forgotten."""
        if self.trouble(now):
            self._ended.clear()
        self._ended.append((now, None))

    def failed(self, code: ErrorCode, now: float) -> None:
        self._ended.append((now, code))
        self._failed_at = now

    def trouble(self, now: float) -> str:
        """What is wrong with the model, in words; empty while it answers."""
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
    """The outcomes of all models of a worker."""

    def __init__(self) -> None:
        self._records: Latest[str, ModelRecord] = Latest(MOST_MODELS)

    def ended(self, model: str, failure: BullpenError | None, now: float) -> bool:
        """Records the end of a request. Returns whether the model's trouble has begun or ended with it."""
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
