"""What is to be expected of each candidate: how soon, how good, how dear. Pure; `now` is the loop's clock in seconds.

What this Manager has seen of a worker counts most, and the longer ago the less. A worker that never answered is hoped
to be as quick as the quickest with the same model: hope is what lets a new worker show what it can do. Where no worker
with a model has answered, each is as quick as it says itself.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from contracts import Heartbeat
from manager.routing.costs import output_tokens, usual_price
from manager.routing.estimates import Estimates, WorkerRecord, crowded
from manager.routing.query import Choice, RoutingQuery

UNKNOWN_S = 1.0
"""Seconds that an answer is taken to need where nothing at all is known."""
UNSURE = 1.5
"""A place that is not free yet may come later than it seems."""
FADES = 30.0
"""Seconds after which a slow or failing worker that was not asked is half forgiven: it may be well again."""
HOPE = 2.0
"""So many standard deviations a model may be better than its record: a new one is tried until it is known better."""
DOUBT = 2.0
"""The same of a worker's reliability: before it is shunned there is to be no doubt, and telemetry knows it too."""


class Prospect(NamedTuple):
    """What is expected of one candidate."""

    usd: float | None
    """US dollars for an answer worth having, those that are not included; None: price unknown."""
    good: float
    """Probability (0..1) that an answer comes and is worth having."""
    seconds: float
    """Until the answer, the wait for a place and another try included."""
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
        """By candidate, the seconds as this Manager has seen them; None: it has never answered."""
        self._says: dict[Choice, float | None] = {}
        """The same as the worker says itself."""
        self._output: dict[str, float] = {}
        """By model, tokens of its answer."""
        self._hoped: dict[str, float] = {}
        """By model, the seconds of its quickest worker."""
        self._reported: dict[str, float] = {}
        """The same as its workers say themselves."""
        self._confidence: dict[str, float] = {}
        """By model, how sure of its answers it is hoped to be."""
        for choice in choices:
            self._look_at(choice)
        self._quickest = min(self._hoped.values(), default=UNKNOWN_S)
        """Seconds: hope for a model that has never answered."""
        self.line_s = self._line_s() if query.waiting else 0.0
        """Seconds until the requests that wait already have found places."""

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
        """Seconds that the request takes there once it is begun. `cached`: tokens that need not be read again."""
        seconds = self._service_anew_s(choice)
        reading = self._records[choice].first
        return max(0.0, seconds - cached * reading.value) if cached and reading.weight else seconds

    def _service_anew_s(self, choice: Choice) -> float:
        """The same at a worker that has never seen this conversation."""
        hoped, seen = self._hoped.get(choice.card.model_id), self._seen[choice]
        if hoped is None:
            says = self._says[choice]
            return self._reported.get(choice.card.model_id, self._quickest) if says is None else says
        if seen is None:
            return hoped
        return hoped + (seen - hoped) * self._kept_since(self._records[choice].at)

    def _cached(self, choice: Choice) -> float:
        """Tokens of the conversation that this worker need not read again."""
        cached = self._query.cached.get(choice.worker.worker_id)
        return cached * self._records[choice].kept.mean if cached else 0.0

    def _kept_since(self, at: float) -> float:
        """What an experience of that time still counts, 0..1."""
        return float(0.5 ** (max(0.0, self._now - at) / FADES))

    def _line_s(self) -> float:
        """The requests that wait are waiting for all the full workers together."""
        full = [c for c in self._choices if c.worker.load >= c.worker.heartbeat.capacity and not c.worker.obstacle]
        rate = sum(c.worker.heartbeat.capacity / self._service_s(c, self._cached(c)) for c in full) / crowded(1.0)
        return self._query.waiting / rate if rate else 0.0


def _reported_s(beat: Heartbeat) -> float | None:
    """Seconds that a worker says it takes, as if it had nothing else to do; None: it has not answered yet."""
    return None if beat.ewma_ms is None else beat.ewma_ms / 1000 / crowded(beat.inflight / max(1, beat.capacity))
