"""Promotion and demotion: computes a grade and its reasons from the attempts of the last hour. Pure.

A new model at a worker is on probation. It becomes regular when it answers often enough, and senior when it is as sure
and as quick as its peers. It is benched when it fails: it then gets a request now and then, and comes back when these
go well. It is promoted slowly and benched quickly, and it stays down for some time after being benched again, so that
grades do not swing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median

from contracts import Grade

SAMPLE = 20
"""Attempts that are needed before a grade changes, and the number of the last attempts that count as recent. A benched
worker needs fewer.
"""
SENIOR_SAMPLE = 40
CANARIES = 5
"""A benched worker comes back when so many of its last attempts all went well."""
Z = 1.645
"""Normal quantile of the bounds: each of them holds in 95 of 100 cases."""
FAILS, DOES_WELL, EXCELS, STILL_EXCELS = 0.90, 0.80, 0.90, 0.85
"""Shares of answers among attempts. A worker is benched when its share is surely below the first. It becomes regular
when it is surely above the second, and senior above the third. It stops being senior when it is not surely above the
fourth less 0.1.
"""
DROP, COLLAPSE = 0.15, 0.30
"""How far a confidence may lie below that of its peers, or its own usual one. Beyond the first a worker loses a grade,
beyond the second it is benched.
"""
SLOW, TOO_SLOW = 1.5, 2.5
"""Multiples of the peers' median latency. Above the first a worker does not become senior, above the second it does not
stay senior.
"""
BENCHED_FOR = 30.0
"""Seconds that a worker stays benched at least."""
BENCHED_AGAIN_FOR = 600.0
"""Seconds that a worker stays benched when it was benched before within twice this time. It is also the time after a
benching in which it becomes no better than probation.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """The attempts of one model at one worker: only those of the last hour, and only those since it was last put on
    probation, benched or graded by hand.
    """

    model_id: str
    worker_id: str
    tries: int
    """Attempts that ended with an answer or a failure; at most the last `SENIOR_SAMPLE`."""
    answers: int
    recent_tries: int
    """Attempts among the last `SAMPLE`."""
    recent_answers: int
    confidence: float | None
    """Mean of the recent answers; the callers' judgements count instead, where there are any."""
    usual_confidence: float | None
    """Moving average of the confidence since the accountant started."""
    p50_ms: float | None
    cost_per_answer: float | None = None
    prompt_tokens: float | None = None
    """Mean over its answers, as are the three below."""
    completion_tokens: float | None = None
    service_ms: float | None = None
    first_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's present grade at one worker."""

    grade: Grade
    seconds: float
    """Seconds for which it has had this grade."""
    benched_ago: float | None = None
    """Seconds since it was last benched; None: it never was."""
    benched_before_ago: float | None = None
    """Seconds since it was benched the time before; None: it was not."""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    grade: Grade
    reasons: tuple[str, ...]


def judge(record: Record, standing: Standing, peers: Sequence[Record], surest: float | None = None) -> Verdict | None:
    """The new grade of a model at a worker; None: the grade stays.

    `peers`: the same model at other workers. `surest`: the highest confidence among the other models.
    """
    if standing.by_hand:
        return None
    if standing.grade == "benched":
        return _back(record, standing, peers)
    if failing := _failing(record, peers):
        return Verdict("benched", failing)
    if standing.grade == "senior":
        worse = _not_senior_any_more(record, peers) or _less_sure(record, surest, COLLAPSE)
        return Verdict("regular", worse) if worse else None
    if dropped := _dropped(record, peers):
        return Verdict("probation", dropped) if standing.grade == "regular" else None
    return _promoted(record, standing, peers, surest)


def _promoted(record: Record, standing: Standing, peers: Sequence[Record], surest: float | None) -> Verdict | None:
    if standing.benched_ago is not None and standing.benched_ago < BENCHED_AGAIN_FOR:
        return None
    if standing.grade == "probation":
        return _proven(record)
    return None if _less_sure(record, surest, DROP) else _senior(record, peers)


def _back(record: Record, standing: Standing, peers: Sequence[Record]) -> Verdict | None:
    again = standing.benched_before_ago is not None and standing.benched_before_ago < 2 * BENCHED_AGAIN_FOR
    if standing.seconds < (BENCHED_AGAIN_FOR if again else BENCHED_FOR):
        return None
    if record.recent_tries < CANARIES or record.recent_answers < record.recent_tries:
        return None
    if _lower_confidence(record, peers, DROP, CANARIES):
        return None
    return Verdict("probation", (f"its last {record.recent_tries} tries went well",))


def _failing(record: Record, peers: Sequence[Record]) -> tuple[str, ...]:
    if record.recent_tries >= SAMPLE and upper(record.recent_answers, record.recent_tries) < FAILS:
        return (f"{record.recent_tries - record.recent_answers} of its last {record.recent_tries} tries failed",)
    return _lower_confidence(record, peers, COLLAPSE)


def _dropped(record: Record, peers: Sequence[Record]) -> tuple[str, ...]:
    return _lower_confidence(record, peers, DROP)


def _lower_confidence(record: Record, peers: Sequence[Record], by: float, sample: int = SAMPLE) -> tuple[str, ...]:
    if record.confidence is None or record.recent_answers < sample:
        return ()
    before = record.usual_confidence
    if before is not None and record.confidence < before - by:
        return (f"its confidence fell from {before:.2f} to {record.confidence:.2f}",)
    others = [peer.confidence for peer in peers if peer.confidence is not None and peer.recent_answers >= SAMPLE]
    if others and record.confidence < fmean(others) - by:
        return (f"its confidence is {record.confidence:.2f}, that of its peers {fmean(others):.2f}",)
    return ()


def _proven(record: Record) -> Verdict | None:
    if record.tries < SAMPLE or lower(record.answers, record.tries) < DOES_WELL:
        return None
    return Verdict("regular", (f"{record.answers} of its last {record.tries} tries went well",))


def _senior(record: Record, peers: Sequence[Record]) -> Verdict | None:
    if record.tries < SENIOR_SAMPLE or lower(record.answers, record.tries) < EXCELS or _slower(record, peers, SLOW):
        return None
    others = [peer.confidence for peer in peers if peer.confidence is not None]
    if others and (record.confidence is None or record.confidence < fmean(others) - DROP / 3):
        return None
    return Verdict(
        "senior", (f"{record.answers} of its last {record.tries} tries went well, as sure and as quick as its peers",)
    )


def _not_senior_any_more(record: Record, peers: Sequence[Record]) -> tuple[str, ...]:
    if record.recent_tries >= SAMPLE and lower(record.answers, record.tries) < STILL_EXCELS - 0.1:
        return (f"{record.tries - record.answers} of its last {record.tries} tries failed",)
    return _dropped(record, peers) or _slower(record, peers, TOO_SLOW)


def _less_sure(record: Record, surest: float | None, by: float) -> tuple[str, ...]:
    """Whether the model is too far below the surest model to answer `best`; empty: it is not."""
    if surest is None or record.confidence is None or record.confidence >= surest - by:
        return ()
    return (f"its confidence is {record.confidence:.2f}, that of another model {surest:.2f}",)


def _slower(record: Record, peers: Sequence[Record], times: float) -> tuple[str, ...]:
    others = [peer.p50_ms for peer in peers if peer.p50_ms is not None and peer.tries >= SAMPLE]
    if record.p50_ms is None or not others or record.p50_ms <= times * median(others):
        return ()
    return (f"it takes {record.p50_ms:.0f} ms, its peers {median(others):.0f} ms",)


def lower(good: int, of: int) -> float:
    """The lower bound of the true share (Wilson)."""
    return _wilson(good, of, -1.0)


def upper(good: int, of: int) -> float:
    """The upper bound of the true share (Wilson)."""
    return _wilson(good, of, 1.0)


def _wilson(good: int, of: int, side: float) -> float:
    if of == 0:
        return 0.0 if side < 0 else 1.0
    share, square = good / of, Z * Z
    middle = share + square / (2 * of)
    width = Z * sqrt(share * (1 - share) / of + square / (4 * of * of))
    return (middle + side * width) / (1 + square / of)
