"""A day in the mesh, event by event: questions come, are given to workers, wait, are answered or fail.

What a strategy may see is what a Manager sees: heartbeats once a second, its own requests, how they ended. What
is the same for all: three tries on different workers, and a question whose time is over is not begun any more.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from benchmarks.routing.world import Question, Situation, Worker

TRIES = 3
BEAT = 1.0
HANDED_ON = 8
HOP = 0.001
"""Seconds that a message takes."""


@dataclass
class Place:
    """One worker, as it really is now."""

    worker: Worker
    running: list["Try"] = field(default_factory=list)
    queue: deque["Try"] = field(default_factory=deque)
    here: bool = False
    service_ms: float | None = None
    """Moving average, as workers tell it."""


@dataclass
class Try:
    question: Question
    place: Place
    manager: int
    started: float = 0.0
    ends: float = 0.0
    failed: bool = False


@dataclass
class Outcome:
    """How a question ended. Times in seconds, money in US dollars."""

    question: Question
    answered_after: float | None = None
    accepted: bool = False
    cost: float = 0.0
    tries: int = 0

    @property
    def in_time(self) -> bool:
        return self.answered_after is not None and self.answered_after <= self.question.deadline_s


class Strategy(Protocol):
    """What a Manager does. One object per Manager."""

    def choose(self, question: Question, now: float, tried: frozenset[str], ahead: int) -> str | None:
        """The worker to send it to; None: wait until something changes; empty: give up on it.

        `ahead`: how many wait before it.
        """

    def beat(self, place: Place, now: float) -> None:
        """A heartbeat, also when it joins."""

    def left(self, worker: str, now: float) -> None: ...

    def sent(self, attempt: Try, now: float) -> None: ...

    def ended(self, attempt: Try, now: float) -> None: ...


class Simulation:
    def __init__(self, situation: Situation, strategies: Sequence[Strategy], seed: int) -> None:
        self._rng = random.Random(f"{seed}/day")
        self._strategies = strategies
        self._places = {worker.name: Place(worker) for worker in situation.workers}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._lines: list[deque[Question]] = [deque() for _ in strategies]
        self._tried: dict[int, set[str]] = {}
        self.now = 0.0
        self.outcomes = [Outcome(question) for question in situation.arrivals(self._rng)]

    def run(self) -> list[Outcome]:
        for place in self._places.values():
            self._at(place.worker.joins, partial(self._join, place))
            self._at(place.worker.leaves, partial(self._leave, place))
        for outcome in self.outcomes:
            self._at(outcome.question.at, partial(self._arrive, outcome.question))
        last = self.outcomes[-1].question
        horizon = last.at + last.deadline_s + 60.0
        while self._events and self._events[0][0] <= horizon:
            self.now, _, happen = heapq.heappop(self._events)
            happen()
        return self.outcomes

    def places(self) -> Iterable[Place]:
        """Those who are here now: only an oracle may ask."""
        return [place for place in self._places.values() if place.here]

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, happen))

    # Workers

    def _join(self, place: Place) -> None:
        place.here = True
        self._beat(place)

    def _beat(self, place: Place) -> None:
        if not place.here:
            return
        for strategy in self._strategies:
            strategy.beat(place, self.now)
        self._at(self.now + BEAT, lambda: self._beat(place))
        self._look_around()

    def _leave(self, place: Place) -> None:
        """In order: what runs is finished, what waits is given back."""
        place.here = False
        for strategy in self._strategies:
            strategy.left(place.worker.name, self.now)
        while place.queue:
            attempt = place.queue.popleft()
            self._strategies[attempt.manager].ended(attempt, self.now)
            self._give(attempt.question, attempt.manager)

    # Questions

    def _arrive(self, question: Question) -> None:
        manager = self._rng.randrange(len(self._strategies))
        self._tried[question.number] = set()
        self._give(question, manager)

    def _give(self, question: Question, manager: int) -> None:
        """To a worker, or into the line."""
        if not self._try(question, manager, len(self._lines[manager])):
            self._lines[manager].append(question)

    def _try(self, question: Question, manager: int, ahead: int) -> bool:
        """True: it needs no further care now."""
        tried = self._tried[question.number]
        if self.now >= question.at + question.deadline_s or len(tried) >= TRIES:
            return True
        name = self._strategies[manager].choose(question, self.now, frozenset(tried), ahead)
        if not name:
            return name is not None
        place = self._places[name]
        attempt = Try(question, place, manager)
        self._strategies[manager].sent(attempt, self.now)
        self._at(self.now + HOP, lambda: self._reach(attempt))
        return True

    def _look_around(self) -> None:
        """Something has changed: those who wait are asked again, the oldest first, until so many have declined."""
        for manager, line in enumerate(self._lines):
            still: deque[Question] = deque()
            while line and len(still) < HANDED_ON:
                question = line.popleft()
                if not self._try(question, manager, len(still)):
                    still.append(question)
            line.extendleft(reversed(still))

    def _reach(self, attempt: Try) -> None:
        place = attempt.place
        if not place.here:
            self._strategies[attempt.manager].ended(attempt, self.now)
            self._give(attempt.question, attempt.manager)
        elif len(place.running) < place.worker.capacity:
            self._start(attempt)
        else:
            place.queue.append(attempt)

    def _start(self, attempt: Try) -> None:
        place, question = attempt.place, attempt.question
        attempt.failed = question.is_failed_by(place.worker)
        seconds = question.seconds(place.worker, len(place.running))
        attempt.started = self.now
        attempt.ends = self.now + (min(seconds, place.worker.fails_after_s) if attempt.failed else seconds)
        place.running.append(attempt)
        self._at(attempt.ends, lambda: self._end(attempt))

    def _end(self, attempt: Try) -> None:
        place, question, outcome = attempt.place, attempt.question, self.outcomes[attempt.question.number]
        place.running.remove(attempt)
        outcome.tries += 1
        if not attempt.failed:
            model = place.worker.model
            tokens = (question.tokens_in, question.length(model))
            outcome.cost += float(model.price.cost(*tokens))
            outcome.answered_after = self.now + HOP - question.at
            outcome.accepted = outcome.in_time and question.is_answered_well_by(model)
            taken = (attempt.ends - attempt.started) * 1000
            before = taken if place.service_ms is None else place.service_ms
            place.service_ms = before + 0.2 * (taken - before)
        self._next(place)
        self._strategies[attempt.manager].ended(attempt, self.now)
        if attempt.failed:
            self._tried[question.number].add(place.worker.name)
            self._give(question, attempt.manager)
        self._look_around()

    def _next(self, place: Place) -> None:
        """The next one in the worker's own queue whose time is not over."""
        while place.queue and len(place.running) < place.worker.capacity:
            attempt = place.queue.popleft()
            if self.now < attempt.question.at + attempt.question.deadline_s:
                self._start(attempt)
            else:
                self._strategies[attempt.manager].ended(attempt, self.now)
