"""Situations: who works here, who asks, and what would happen if this question went to that worker.

Everything that could happen is drawn beforehand from a seed: how long each answer of each model is, how hard
each question is, whether this worker fails on it. So every strategy meets the very same day, and an oracle can
look it up.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from contracts import Price


@dataclass(frozen=True)
class Model:
    name: str
    input_per_mtok: float
    output_per_mtok: float
    quality: float
    """Share of questions that it answers well enough to be accepted."""
    wordiness: float = 1.0
    """Tokens of its answers, against what the question asks for."""

    @property
    def price(self) -> Price:
        return Price(
            input_per_mtok=Decimal(str(self.input_per_mtok)), output_per_mtok=Decimal(str(self.output_per_mtok))
        )


@dataclass(frozen=True)
class Worker:
    name: str
    model: Model
    capacity: int = 4
    tokens_per_second: float = 50.0
    prompt_tokens_per_second: float = 1000.0
    first_token_s: float = 0.2
    crowding: float = 0.05
    """How much longer an answer takes for each other one that runs there when it starts."""
    fails: float = 0.0
    """Share of requests that it fails."""
    fails_after_s: float = 0.02
    joins: float = 0.0
    leaves: float = math.inf


@dataclass(frozen=True)
class Question:
    number: int
    at: float
    tokens_in: int
    tokens_out: int
    deadline_s: float
    hard: float
    """0..1: models whose quality is above it answer it well."""
    seed: int

    def length(self, model: Model) -> int:
        """Tokens of this model's answer."""
        noise = random.Random(f"{self.seed}/{model.name}").lognormvariate(0.0, 0.3)
        return max(1, round(self.tokens_out * model.wordiness * noise))

    def seconds(self, worker: Worker, others: int) -> float:
        """How long this worker is at it when it does not fail, with so many others running there."""
        alone = (
            worker.first_token_s
            + self.tokens_in / worker.prompt_tokens_per_second
            + self.length(worker.model) / worker.tokens_per_second
        )
        return alone * (1 + worker.crowding * others)

    def is_failed_by(self, worker: Worker) -> bool:
        return random.Random(f"{self.seed}/{worker.name}/fails").random() < worker.fails

    def is_answered_well_by(self, model: Model) -> bool:
        return self.hard < model.quality

    def confidence(self, model: Model) -> float:
        """What the model says of its answer: right on average, noisy in each case."""
        noise = random.Random(f"{self.seed}/{model.name}/sure").gauss(0.0, 0.1)
        return min(1.0, max(0.0, model.quality + noise))


Arrivals = Callable[[random.Random], Sequence[Question]]


@dataclass(frozen=True)
class Situation:
    name: str
    says: str
    workers: tuple[Worker, ...]
    arrivals: Arrivals
    managers: int = 1
    mixed_quality: bool = False
    """Its models differ in quality: then the price of an answer says little, that of an accepted one much."""


SMALL = Model("small", 0.05, 0.20, 0.80)


def steady(
    per_second: float, seconds: float, *, tokens_in: int = 200, tokens_out: int = 100, deadline_s: float = 10.0
) -> Arrivals:
    """Questions that come by chance, so many per second on average."""

    def drawn(rng: random.Random) -> list[Question]:
        times = _times(rng, lambda _: per_second, per_second, seconds)
        return _questions(rng, times, lambda: (tokens_in, tokens_out), deadline_s)

    return drawn


def bursty(
    per_second: float, seconds: float, *, peak: float, every: float, lasts: float, deadline_s: float
) -> Arrivals:
    """A steady trickle, and now and then `peak` times as much for a while."""

    def drawn(rng: random.Random) -> list[Question]:
        def rate(at: float) -> float:
            return per_second * (peak if at % every < lasts else 1.0)

        return _questions(rng, _times(rng, rate, per_second * peak, seconds), lambda: (200, 100), deadline_s)

    return drawn


def long_and_short(per_second: float, seconds: float, *, long: float, deadline_s: float) -> Arrivals:
    """A share of long ones: a long prompt, and a long answer."""

    def drawn(rng: random.Random) -> list[Question]:
        def size() -> tuple[int, int]:
            return (3000, 500) if rng.random() < long else (100, 40)

        return _questions(rng, _times(rng, lambda _: per_second, per_second, seconds), size, deadline_s)

    return drawn


def _times(rng: random.Random, rate: Callable[[float], float], most: float, seconds: float) -> Iterator[float]:
    """A Poisson stream whose rate changes, by thinning: `most` is the highest rate."""
    at = rng.expovariate(most)
    while at < seconds:
        if rng.random() * most < rate(at):
            yield at
        at += rng.expovariate(most)


def _questions(
    rng: random.Random, times: Iterator[float], size: Callable[[], tuple[int, int]], deadline_s: float
) -> list[Question]:
    questions: list[Question] = []
    for number, at in enumerate(times):
        tokens_in, tokens_out = size()
        scattered = max(1, round(tokens_in * rng.uniform(0.7, 1.3)))
        questions.append(Question(number, at, scattered, tokens_out, deadline_s, rng.random(), rng.getrandbits(48)))
    return questions


def situations(seconds: float) -> tuple[Situation, ...]:
    """The days that are played; `seconds` of each."""
    nano = Model("nano", 0.05, 0.20, 0.45)
    mid = Model("mid", 0.30, 1.20, 0.80)
    large = Model("large", 2.50, 10.0, 0.92)
    huge = Model("huge", 15.0, 60.0, 0.95, wordiness=1.5)
    return (
        Situation(
            "mixed speeds",
            "six workers of one model, the quickest eight times as quick as the slowest",
            tuple(Worker(f"w{n}", SMALL, tokens_per_second=rate) for n, rate in enumerate((160, 120, 80, 40, 25, 20))),
            steady(9.0, seconds),
        ),
        Situation(
            "one slow",
            "four equal workers, one of which has become ten times slower",
            (*(Worker(f"w{n}", SMALL) for n in range(3)), Worker("slow", SMALL, tokens_per_second=5.0)),
            steady(4.0, seconds),
        ),
        Situation(
            "one failing fast",
            "four equal workers, one of which fails 60 of 100 within 20 ms",
            (*(Worker(f"w{n}", SMALL) for n in range(3)), Worker("failing", SMALL, fails=0.6)),
            steady(3.6, seconds),
        ),
        Situation(
            "price and quality",
            "four models, the dearest 300 times as dear as the cheapest and twice as good",
            (
                Worker("nano-1", nano, capacity=4, tokens_per_second=120),
                Worker("mid-1", mid, capacity=4, tokens_per_second=80),
                Worker("mid-2", mid, capacity=4, tokens_per_second=80),
                Worker("large-1", large, capacity=8, tokens_per_second=60, first_token_s=0.4),
                Worker("huge-1", huge, capacity=8, tokens_per_second=40, first_token_s=0.8),
            ),
            steady(5.0, seconds),
            mixed_quality=True,
        ),
        Situation(
            "burst",
            "four workers, one half as quick; every minute six times as many questions for ten seconds",
            (*(Worker(f"w{n}", SMALL) for n in range(3)), Worker("w3", SMALL, tokens_per_second=25.0)),
            bursty(2.2, seconds, peak=6.0, every=60.0, lasts=10.0, deadline_s=15.0),
        ),
        Situation(
            "long and short",
            "one in eight has 15 times the prompt and 12 times the answer; workers differ in speed",
            tuple(Worker(f"w{n}", SMALL, tokens_per_second=rate) for n, rate in enumerate((100, 100, 50, 25))),
            long_and_short(5.5, seconds, long=0.125, deadline_s=25.0),
        ),
        Situation(
            "joining and leaving",
            "six workers of which two leave and two others come; one of the new ones is slow",
            (
                Worker("stays-1", SMALL),
                Worker("stays-2", SMALL, tokens_per_second=80),
                Worker("leaves-1", SMALL, leaves=seconds * 0.3),
                Worker("leaves-2", SMALL, tokens_per_second=80, leaves=seconds * 0.6),
                Worker("joins-1", SMALL, tokens_per_second=80, joins=seconds * 0.35),
                Worker("joins-2", SMALL, tokens_per_second=12, joins=seconds * 0.5),
            ),
            steady(6.0, seconds),
        ),
        Situation(
            "three Managers",
            "eight workers of two speeds, and three Managers that know of each other's work by heartbeats only",
            tuple(Worker(f"w{n}", SMALL, tokens_per_second=80.0 if n < 4 else 40.0) for n in range(8)),
            steady(13.0, seconds),
            managers=3,
        ),
    )
