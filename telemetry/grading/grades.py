"""Promotion and demotion: the books of the last minutes in, a grade with its reasons out. Pure.

New ones are on probation. One that did well often enough is regular, one that did better than its peers is senior, one
that fails is benched: it is tried now and then, and comes back when that goes well. It is slow to
trust and quick to bench, and a benched one is not trusted again at once, so grades do not go up and down all the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, median

from contracts import Grade

SAMPLE = 20
"""So many tries are looked at, at least, before anything is decided; benched ones come back after fewer."""
SENIOR_SAMPLE = 40
CANARIES = 5
"""So many tries of a benched worker that all went well bring it back."""
Z = 1.645
"""Bounds that hold in 90 of 100 cases."""
FAILS, DOES_WELL, EXCELS, STILL_EXCELS = 0.90, 0.80, 0.90, 0.85
"""Shares of success: certainly below the first: benched; certainly above the others: regular, becomes, stays senior."""
DROP, COLLAPSE = 0.15, 0.30
"""A confidence so much below its peers' or its own of before costs a grade, or all of them."""
SLOW, TOO_SLOW = 1.5, 2.5
"""Times its peers' usual time: is not promoted to senior, does not stay it."""
BENCHED_FOR = 30.0
"""Seconds at least …"""
BENCHED_AGAIN_FOR = 600.0
"""… and one that is benched twice within twice this time, or was benched in this time, has to wait so long for more."""


@dataclass(frozen=True, slots=True)
class Record:
    """One model at one worker, since it last lost a grade, and not longer ago than the last hour."""

    model_id: str
    worker_id: str
    tries: int
    """Those that ended with an answer or a failure; at most the last `SENIOR_SAMPLE`."""
    answers: int
    recent_tries: int
    """Of the last `SAMPLE`."""
    recent_answers: int
    confidence: float | None
    """Mean of the recent answers, or of the callers' judgements where there are some."""
    usual_confidence: float | None
    """The same over the whole of the books."""
    p50_ms: float | None
    cost_per_answer: float | None = None
    prompt_tokens: float | None = None
    """Mean of its answers, as those below."""
    completion_tokens: float | None = None
    service_ms: float | None = None
    first_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The grade it has."""

    grade: Grade
    seconds: float
    """Seconds that it has had this grade."""
    benched_ago: float | None = None
    """Seconds since it was last benched; None: never."""
    benched_before_ago: float | None = None
    """Seconds since the time before that."""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    grade: Grade
    reasons: tuple[str, ...]


def judge(record: Record, standing: Standing, peers: Sequence[Record], surest: float | None = None) -> Verdict | None:
    """The grade it should have from now on; None: it keeps the one it has.

    `peers`: others with the same model. `surest`: how sure the surest of the other models is.
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
    """Than the surest model: it is not the one to answer `best`."""
    if surest is None or record.confidence is None or record.confidence >= surest - by:
        return ()
    return (f"its confidence is {record.confidence:.2f}, that of another model {surest:.2f}",)


def _slower(record: Record, peers: Sequence[Record], times: float) -> tuple[str, ...]:
    others = [peer.p50_ms for peer in peers if peer.p50_ms is not None and peer.tries >= SAMPLE]
    if record.p50_ms is None or not others or record.p50_ms <= times * median(others):
        return ()
    return (f"it takes {record.p50_ms:.0f} ms, its peers {median(others):.0f} ms",)


def lower(good: int, of: int) -> float:
    """The share that it certainly reaches (Wilson's bound)."""
    return _wilson(good, of, -1.0)


def upper(good: int, of: int) -> float:
    """The share that it certainly does not exceed (Wilson's bound)."""
    return _wilson(good, of, 1.0)


def _wilson(good: int, of: int, side: float) -> float:
    if of == 0:
        return 0.0 if side < 0 else 1.0
    share, square = good / of, Z * Z
    middle = share + square / (2 * of)
    width = Z * sqrt(share * (1 - share) / of + square / (4 * of * of))
    return (middle + side * width) / (1 + square / of)
