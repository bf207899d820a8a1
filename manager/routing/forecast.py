"""The expected time, quality and price of each candidate's answer. Pure; `now` is the loop's clock in seconds.

What this Manager has seen of a worker counts most, and less as it gets older. A worker that never answered is expected
to be as fast as the fastest worker with the same model, so that a new worker gets a chance. Where no worker with a
model has answered, each is expected to be as fast as it reports.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from contracts import Heartbeat
from manager.routing.costs import output_tokens, usual_price
from manager.routing.estimates import Estimates, WorkerRecord, crowded
from manager.routing.query import Choice, RoutingQuery

UNKNOWN_S = 1.0
"""Seconds assumed for an answer when no worker has answered or reported a time."""
UNSURE = 1.5
"""Factor on the expected wait for a place: a place may become free later than estimated."""
FADES = 30.0
"""Seconds without a request after which a slow or failing worker's record counts half: it may be well again."""
HOPE = 2.0
"""Standard deviations by which a model is assumed to be better than its record: a new one is tried until it is known
better.
"""
DOUBT = 2.0
"""Standard deviations by which a worker is assumed to be more reliable than its record: it is avoided only when its
failures leave no doubt.
"""


class Prospect(NamedTuple):
    """What is expected of one candidate."""

    usd: float | None
    """US dollars for each good answer: the price divided by `good`. None: the price is unknown."""
    good: float
    """Probability (0..1) that an answer comes and is good."""
    seconds: float
    """Seconds until the answer, including the wait for a place and another try after a failure."""
    left_s: float
    """Seconds until the deadline."""
    heartbeat: Heartbeat


class Forecast:
    def __init__(self, query: RoutingQuery, choices: Sequence[Choice], estimates: Estimates, now: float) -> None:
        self._query = query
        self._choices = choices
        self._estimates = estimates
        self._now = now
        self._records: dict[Choice, WorkerRecord] = {}
        self._seen: dict[Choice, float | None] = {}
        """By candidate, the seconds that an answer takes as this Manager has seen it. None: the worker has never
        answered.
        """
        self._says: dict[Choice, float | None] = {}
        """By candidate, the seconds that an answer takes as the worker reports it."""
        self._output: dict[str, float] = {}
        """By model, the tokens of its answer."""
        self._hoped: dict[str, float] = {}
        """By model, the seconds that its fastest worker takes, as this Manager has seen it."""
        self._reported: dict[str, float] = {}
        """By model, the seconds that its fastest worker takes, as the workers report it."""
        self._confidence: dict[str, float] = {}
        """By model, the confidence (0..1) that is expected of its answers."""
        for choice in choices:
            self._look_at(choice)
        self._quickest = min(self._hoped.values(), default=UNKNOWN_S)
        """Seconds expected of a model that has never answered."""
        self.line_s = self._line_s() if query.waiting else 0.0
        """Seconds until all requests that wait already have found places."""

    def of(self, choice: Choice) -> Prospect:
        query, worker, card = self._query, choice.worker, choice.card
        record = self._records[choice]
        success = record.success.hoped(DOUBT, self._kept_since(record.at))
        good = success * self._confidence[card.model_id]
        cached = self._cached(choice)
        price = usual_price(card)
        usd = None if price is None else price.cost(query.tokens_in, self._output[card.model_id], cached)
        capacity, load = worker.heartbeat.capacity, worker.load
        service_s = self._service_s(choice, cached)
        wait_s = 0.0 if load < capacity else self.line_s + service_s * crowded(1.0) * (load - capacity + 1) / capacity
        seconds = UNSURE * wait_s + service_s * crowded(load / capacity) / success
        return Prospect(None if usd is None else float(usd) / good, good, seconds, query.left_s, worker.heartbeat)

    def _look_at(self, choice: Choice) -> None:
        model, worker = choice.card.model_id, choice.worker
        if model not in self._output:
            self._output[model] = output_tokens(self._query, model, self._estimates)
            self._confidence[model] = self._estimates.look(model).confidence.hoped(HOPE)
        record = self._records[choice] = self._estimates.look_at(worker.worker_id, model)
        seen = self._seen[choice] = record.seconds(self._query.tokens_in, self._output[model])
        says = self._says[choice] = _reported_s(worker.heartbeat) if seen is None else None
        if seen is not None:
            self._hoped[model] = min(seen, self._hoped.get(model, inf))
        elif says is not None:
            self._reported[model] = min(says, self._reported.get(model, inf))

    def _service_s(self, choice: Choice, cached: float) -> float:
        """Seconds that the worker needs for the request once it has begun. `cached`: tokens that it does not read
        again.
        """
        seconds = self._service_anew_s(choice)
        reading = self._records[choice].first
        return max(0.0, seconds - cached * reading.value) if cached and reading.weight else seconds

    def _service_anew_s(self, choice: Choice) -> float:
        """Seconds that a worker needs which has never seen this conversation."""
        hoped, seen = self._hoped.get(choice.card.model_id), self._seen[choice]
        if hoped is None:
            says = self._says[choice]
            return self._reported.get(choice.card.model_id, self._quickest) if says is None else says
        if seen is None:
            return hoped
        return hoped + (seen - hoped) * self._kept_since(self._records[choice].at)

    def _cached(self, choice: Choice) -> float:
        """Tokens of the conversation that this worker probably does not read again."""
        cached = self._query.cached.get(choice.worker.worker_id)
        return cached * self._records[choice].kept.mean if cached else 0.0

    def _kept_since(self, at: float) -> float:
        """Weight, 0..1, that a record last changed at `at` still has."""
        return float(0.5 ** (max(0.0, self._now - at) / FADES))

    def _line_s(self) -> float:
        """Seconds until all waiting requests have found places: all full workers together serve them."""
        full = [c for c in self._choices if c.worker.load >= c.worker.heartbeat.capacity and not c.worker.obstacle]
        rate = sum(c.worker.heartbeat.capacity / self._service_s(c, self._cached(c)) for c in full) / crowded(1.0)
        return self._query.waiting / rate if rate else 0.0


def _reported_s(beat: Heartbeat) -> float | None:
    """Seconds that a worker reports for an answer, reduced to those of an empty worker. None: the worker has not
    answered yet.
    """
    return None if beat.ewma_ms is None else beat.ewma_ms / 1000 / crowded(beat.inflight / max(1, beat.capacity))
