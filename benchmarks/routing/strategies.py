"""Who decides: what gateways do today, an oracle, and Bullpen's own Manager code.

The gateways' rules are those that LiteLLM, SGLang's and vLLM's routers document. All of them leave a worker alone
for 5 s after more than half of at least 5 requests within a minute failed there, as LiteLLM does.
"""

import random
from collections import deque

from benchmarks.routing.simulation import Place, Simulation, Try
from benchmarks.routing.world import Question as Asked
from benchmarks.routing.world import Worker

COOLDOWN, COOL_WITHIN, COOL_SHARE, COOL_AT_LEAST = 5.0, 60.0, 0.5, 5


class Gateway:
    """What they have in common: who is here, what runs where, and who is left alone."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.workers: dict[str, Worker] = {}
        self.inflight: dict[str, int] = {}
        self.latency: dict[str, deque[float]] = {}
        self._recent: dict[str, deque[tuple[float, bool]]] = {}
        self._cool_until: dict[str, float] = {}
        self._sent: dict[int, float] = {}

    def choose(self, question: Asked, now: float, tried: frozenset[str], ahead: int) -> str | None:
        names = [n for n in self.workers if n not in tried and self._cool_until.get(n, 0.0) <= now]
        return self.pick(names, question) if names else None

    def pick(self, names: list[str], question: Asked) -> str:
        raise NotImplementedError

    def beat(self, place: Place, now: float) -> None:
        self.workers.setdefault(place.worker.name, place.worker)
        self.inflight.setdefault(place.worker.name, 0)

    def left(self, worker: str, now: float) -> None:
        self.workers.pop(worker, None)

    def sent(self, attempt: Try, now: float) -> None:
        self.inflight[attempt.place.worker.name] += 1
        self._sent[id(attempt)] = now

    def ended(self, attempt: Try, now: float) -> None:
        name = attempt.place.worker.name
        self.inflight[name] -= 1
        sent = self._sent.pop(id(attempt))
        if not attempt.failed and attempt.ends:
            self.latency.setdefault(name, deque(maxlen=10)).append(now - sent)
        recent = self._recent.setdefault(name, deque())
        recent.append((now, attempt.failed))
        while recent[0][0] < now - COOL_WITHIN:
            recent.popleft()
        if len(recent) >= COOL_AT_LEAST and sum(f for _, f in recent) > COOL_SHARE * len(recent):
            self._cool_until[name] = now + COOLDOWN


class Random(Gateway):
    def pick(self, names: list[str], question: Asked) -> str:
        return self.rng.choice(names)


class RoundRobin(Gateway):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._turn = 0

    def pick(self, names: list[str], question: Asked) -> str:
        self._turn += 1
        return names[self._turn % len(names)]


class LeastBusy(Gateway):
    """The fewest requests of our own under way."""

    def pick(self, names: list[str], question: Asked) -> str:
        self.rng.shuffle(names)
        return min(names, key=lambda name: self.inflight[name])


class LowestLatency(Gateway):
    """The lowest mean of the last ten answers' times; who has none comes first."""

    def pick(self, names: list[str], question: Asked) -> str:
        self.rng.shuffle(names)
        return min(names, key=lambda name: sum(self.latency.get(name, ())) / max(1, len(self.latency.get(name, ()))))


class LowestCost(Gateway):
    """The lowest sum of the prices of a token in and a token out, whatever the mix."""

    def pick(self, names: list[str], question: Asked) -> str:
        self.rng.shuffle(names)
        return min(names, key=lambda n: self.workers[n].model.input_per_mtok + self.workers[n].model.output_per_mtok)


class PowerOfTwo(Gateway):
    """Two by lot, then the less busy of them."""

    def pick(self, names: list[str], question: Asked) -> str:
        two = self.rng.sample(names, min(2, len(names)))
        return min(two, key=lambda name: self.inflight[name])


class WeightedShuffle(Gateway):
    """By lot, in proportion to what each was configured to take (its capacity times its speed)."""

    def pick(self, names: list[str], question: Asked) -> str:
        weights = [self.workers[name].capacity * self.workers[name].tokens_per_second for name in names]
        return self.rng.choices(names, weights)[0]


class Oracle:
    """Knows how long every question would take everywhere, who would fail, and what runs until when.

    It takes the worker that is done first, of those that will not fail, and begins nothing that cannot be done in
    time. Not the best schedule that could be (that is a hard problem), but nobody without its knowledge gets near.
    """

    def __init__(self) -> None:
        self.simulation: Simulation | None = None
        self._plan: dict[str, list[float]] = {}
        """By worker, when each of those that are there will be done."""
        self._done: dict[int, float] = {}

    def choose(self, question: Asked, now: float, tried: frozenset[str], ahead: int) -> str | None:
        assert self.simulation is not None
        until = question.at + question.deadline_s
        best: tuple[float, float, str] | None = None
        for place in self.simulation.places():
            if question.is_failed_by(place.worker) or place.worker.name in tried:
                continue
            done = self._starts(place, now) + question.seconds(place.worker, len(place.running))
            cost = place.worker.model.output_per_mtok
            if done + 0.003 < until and (best is None or (done, cost) < best[:2]):
                best = (done, cost, place.worker.name)
        return best[2] if best else None

    def _starts(self, place: Place, now: float) -> float:
        """When a place is free for the next one."""
        coming = sorted(self._plan.get(place.worker.name, ()))
        worker = place.worker
        return now if len(coming) < worker.capacity else max(now, coming[len(coming) - worker.capacity])

    def beat(self, place: Place, now: float) -> None: ...

    def left(self, worker: str, now: float) -> None: ...

    def sent(self, attempt: Try, now: float) -> None:
        place = attempt.place
        done = self._starts(place, now) + attempt.question.seconds(place.worker, len(place.running))
        self._plan.setdefault(place.worker.name, []).append(done)
        self._done[id(attempt)] = done

    def ended(self, attempt: Try, now: float) -> None:
        self._plan[attempt.place.worker.name].remove(self._done.pop(id(attempt)))
