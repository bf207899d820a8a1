"""History in, violations out. Pure: knows nothing of how the history came about.

The mesh promises to mend every fault of the plan, so an error is a violation, whatever happened at the time; but a
deadline of milliseconds leaves no time to mend anything, and a Manager that is killed takes what it had not booked
yet along. What a fault explains in this way is counted, and told. A request that began before a fault had healed
counts as touched by it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from benchmarks.soak.history import Asked, AttemptRow, Ended, History, Inflicted, Piece, ResponseRow, Vitals

SECOND = 10**9
GRACE = 1.0
"""Seconds after its deadline in which a request must have ended."""
ALLOWANCE = 1.0
"""Seconds more, because caller, mesh and servers share the processors of a machine that may be busy otherwise."""
BOOKED_BY_THEN = 5.0
"""Seconds after its answer in which a Manager that is killed may take the books of it along: they were in memory."""
AFTER_HEALING = 1.0
"""Seconds in which a fault that has healed may still be felt."""

MORE_FDS, MORE_SOCKETS, MORE_THREADS = 8, 4, 4
RSS_FACTOR, RSS_MORE = 1.5, 48 << 20
"""What a process may hold beyond what it held when it was warm: pools, caches, a log file."""

Cause = tuple[str, str]
"""A role and what was done to it."""
NATS_AWAY: frozenset[Cause] = frozenset({("nats", "kill"), ("nats", "freeze")})
MANAGER_LOST: frozenset[Cause] = frozenset({("manager", "kill")})
LOST_ON_THE_WAY = NATS_AWAY | MANAGER_LOST
"""What may take a question or an answer along. A client that has time enough notices, and asks again."""
GIVEN_UP = frozenset({"uncertain", "refused", "cancelled"})
SETTLED_LATER = frozenset({"late_discarded", "hedged_loser"})
"""What the books may know in the end of an attempt that was given up on: the answer did not wait for its last words."""


@dataclass(frozen=True, slots=True)
class Violation:
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(slots=True)
class Verdict:
    violations: list[Violation] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    """What went wrong as it may, by what it was and why."""

    def add(self, kind: str, what: str) -> None:
        self.violations.append(Violation(kind, what))


def check(history: History) -> Verdict:
    """Every invariant, over the whole history."""
    verdict = Verdict()
    _Check(history, verdict).all()
    return verdict


class _Check:
    def __init__(self, history: History, verdict: Verdict) -> None:
        self._history = history
        self._verdict = verdict
        self._ended: dict[int, list[Ended]] = defaultdict(list)
        for ended in history.ended:
            self._ended[ended.number].append(ended)
        self._owner = {asked.expected: asked.number for asked in history.asked}
        self._rows: dict[str, list[ResponseRow]] = defaultdict(list)
        self._of_task: dict[str, list[ResponseRow]] = defaultdict(list)
        for row in history.responses:
            self._rows[row.request_id].append(row)
            self._of_task[row.task_id].append(row)
        self._tries: dict[str, list[AttemptRow]] = defaultdict(list)
        for attempt in history.attempts:
            self._tries[attempt.request_id].append(attempt)

    def all(self) -> None:
        for asked in self._history.asked:
            self._outcome(asked)
        self._wire()
        self._keys()
        self._leaks()
        self._aftermath()

    # One request

    def _outcome(self, asked: Asked) -> None:
        outcomes = self._ended[asked.number]
        if len(outcomes) != 1:
            kind = "double" if outcomes else "lost"
            self._verdict.add(kind, f"{asked.task_id} has {len(outcomes)} outcomes")
            return
        ended = outcomes[0]
        self._in_time(asked, ended)
        self._text(asked, ended)
        self._once(asked, ended)
        if ended.how == "failed":
            self._failure(asked, ended)
        if ended.how != "left" and ended.request_id is not None:
            self._booked(asked, ended, ended.request_id)

    def _in_time(self, asked: Asked, ended: Ended) -> None:
        took = (ended.at - asked.at) / SECOND
        allowed = asked.deadline_ms / 1000 + GRACE + ALLOWANCE
        if took > allowed:
            self._verdict.add("late", f"{asked.task_id} ended after {took:.2f} s, {allowed:g} s are allowed")

    def _failure(self, asked: Asked, ended: Ended) -> None:
        """No fault excuses an error, as long as there was time to mend it."""
        silent = ended.code == "deadline_exceeded" and ended.request_id is None
        if (asked.cancelled and ended.code == "cancelled") or (asked.hurried and _told_late(ended)):
            return
        felt = self._felt(asked.at, ended.at)
        if silent and asked.hurried and felt & LOST_ON_THE_WAY:
            self._verdict.explained[f"silence during {_named(felt & LOST_ON_THE_WAY)}, with no time to ask again"] += 1
            return
        told = f"{asked.task_id}: {ended.code}: {ended.message}; tries {list(ended.tries)}"
        self._verdict.add("silence" if silent else "error", f"{told} (during {_named(felt) or 'no fault'})")

    def _text(self, asked: Asked, ended: Ended) -> None:
        if [piece.seq for piece in ended.pieces] != list(range(len(ended.pieces))):
            self._verdict.add("gap", f"{asked.task_id} came as {[piece.seq for piece in ended.pieces]}")
        streamed = _joined(ended.pieces)
        if ended.how == "answered" and asked.stream and streamed != ended.text:
            self._verdict.add("stream differs", f"{asked.task_id}: {streamed!r} came, the answer is {ended.text!r}")
        if ended.how == "answered" and ended.text != asked.expected:
            self._wrong(asked, ended.text)
        elif ended.how != "answered" and not asked.expected.startswith(streamed):
            self._wrong(asked, streamed)

    def _wrong(self, asked: Asked, text: str) -> None:
        owner = self._owner.get(text)
        if owner is not None:
            self._verdict.add("cross-talk", f"{asked.task_id} got the answer of request {owner}")
        else:
            self._verdict.add("wrong text", f"{asked.task_id}: {text!r} instead of {asked.expected!r}")

    def _once(self, asked: Asked, ended: Ended) -> None:
        """An answer that was made is not made again, unless whoever had it was lost."""
        answers = [row for row in self._of_task[asked.task_id] if row.status == "ok" and not row.replayed]
        if len({row.request_id for row in answers}) < 2:
            return
        if self._felt(asked.at, ended.at) & LOST_ON_THE_WAY:
            self._verdict.explained["answered twice: the first answer was lost with NATS or a Manager"] += 1
        else:
            self._verdict.add("double", f"{asked.task_id} was answered {len(answers)} times, by no fault")

    # Its books

    def _booked(self, asked: Asked, ended: Ended, request_id: str) -> None:
        rows = self._rows[request_id]
        if not rows:
            self._missing(asked, ended, request_id, "has no row")
            return
        self._row(asked, ended, rows[0])
        if ended.how == "answered" and not ended.replayed:
            self._same_tries(asked, ended, request_id)

    def _row(self, asked: Asked, ended: Ended, row: ResponseRow) -> None:
        wanted = ("ok", None, ended.text) if ended.how == "answered" else ("error", ended.code, None)
        found = (row.status, row.error_code, row.output)
        if found != wanted or row.task_id != asked.task_id:
            self._verdict.add("booked wrong", f"{asked.task_id}: {found} as {row.task_id}, told was {wanted}")

    def _same_tries(self, asked: Asked, ended: Ended, request_id: str) -> None:
        booked = sorted(self._tries[request_id], key=lambda row: row.attempt)
        if len(booked) < len(ended.tries):
            self._missing(asked, ended, request_id, f"has {len(booked)} of {len(ended.tries)} attempts")
            return
        numbers = [row.attempt for row in booked]
        pairs = zip_longest(((row.worker_id, row.outcome) for row in booked), ended.tries)
        if numbers != list(range(1, len(numbers) + 1)) or not all(_agree(row, told) for row, told in pairs):
            rows = [(row.attempt, row.worker_id, row.outcome) for row in booked]
            self._verdict.add("attempts differ", f"{asked.task_id}: {rows} booked, {list(ended.tries)} told")

    def _missing(self, asked: Asked, ended: Ended, request_id: str, what: str) -> None:
        booker = self._history.managers.get(request_id)
        if self._was_killed(booker, asked.at, ended.at + round(BOOKED_BY_THEN * SECOND)):
            self._verdict.explained["not booked because its booker was killed"] += 1
            return
        told = f"{asked.task_id} (request {request_id}, {booker or 'some Manager'}, {ended.how}) {what}"
        self._verdict.add("not booked", told)

    def _was_killed(self, booker: str | None, begin: int, end: int) -> bool:
        """Not known who it was: whether it may have been."""
        killed = [f for f in self._history.faults if (f.role, f.deed) in MANAGER_LOST and begin <= f.begin <= end]
        return any(booker in (None, fault.victim) for fault in killed)

    # The whole

    def _wire(self) -> None:
        """No answer was sent to its caller twice."""
        sent = Counter((final.inbox, final.request_id) for final in self._history.finals if final.request_id)
        tasks = {(final.inbox, final.request_id): final.task_id for final in self._history.finals}
        for key, times in sent.items():
            if times > 1:
                self._verdict.add("double", f"{tasks[key]}: {times} final messages for request {key[1]}")

    def _keys(self) -> None:
        for request_id, rows in self._rows.items():
            if len(rows) > 1:
                self._verdict.add("booked twice", f"{rows[0].task_id} (request {request_id}) has {len(rows)} rows")
        for key, times in Counter((row.request_id, row.attempt) for row in self._history.attempts).items():
            if times > 1:
                self._verdict.add("booked twice", f"attempt {key[1]} of request {key[0]} has {times} rows")

    def _leaks(self) -> None:
        for name, warm in self._history.warm.items():
            rested = self._history.rested.get(name)
            for what in () if rested is None else leaks(warm, rested):
                self._verdict.add("leak", f"{name} holds {what}")

    def _aftermath(self) -> None:
        history = self._history
        for fault in history.faults:
            if fault.healed is None:
                self._verdict.add("not healed", f"{fault.deed} {fault.victim}")
        for who in history.busy:
            self._verdict.add("leak", f"nobody asks any more, but {who}")
        if history.unbooked_events:
            self._verdict.add("backlog", f"{history.unbooked_events} events are not acknowledged")
        if history.dead_letters:
            self._verdict.add("dead letters", f"{history.dead_letters} events could not be booked")

    def _felt(self, begin: int, end: int) -> frozenset[Cause]:
        """What was done to the mesh at that time."""
        return frozenset((f.role, f.deed) for f in self._history.faults if begin <= _over(f) and f.begin <= end)


def leaks(warm: Vitals, rested: Vitals) -> Iterator[str]:
    """What a process holds beyond what it may, in words."""
    for what, before, now, more in (
        ("file descriptors", warm.fds, rested.fds, MORE_FDS),
        ("sockets", warm.sockets, rested.sockets, MORE_SOCKETS),
        ("threads", warm.threads, rested.threads, MORE_THREADS),
    ):
        if now > before + more:
            yield f"{now} {what}, {before} when it was warm"
    if rested.rss > warm.rss * RSS_FACTOR + RSS_MORE:
        yield f"{rested.rss >> 20} MiB, {warm.rss >> 20} when it was warm"


def _told_late(ended: Ended) -> bool:
    return ended.code == "deadline_exceeded" and ended.request_id is not None


def _named(causes: Iterable[Cause]) -> str:
    return " and ".join(f"{role} {deed}" for role, deed in sorted(causes))


def _over(fault: Inflicted) -> float:
    return float("inf") if fault.healed is None else fault.healed + AFTER_HEALING * SECOND


def _agree(booked: tuple[str, str] | None, told: tuple[str, str] | None) -> bool:
    if booked is None or told is None:
        return False
    settled = told[1] in GIVEN_UP and booked[1] in SETTLED_LATER
    return booked[0] == told[0] and (booked[1] == told[1] or settled)


def _joined(pieces: Iterable[Piece]) -> str:
    """The text that the reader of a stream has in the end."""
    text = ""
    for piece in pieces:
        text = "" if piece.mode == "restarted" else text + piece.delta
    return text
