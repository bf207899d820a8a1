"""Every strategy plays every day, with the same seeds; `python -m benchmarks routing` prints who did how."""

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import get_args

from benchmarks.routing import strategies as rivals
from benchmarks.routing.judge import Figures
from benchmarks.routing.ours import Bullpen
from benchmarks.routing.simulation import Simulation, Strategy
from benchmarks.routing.world import Situation, situations
from contracts import Policy

RIVALS: dict[str, type[rivals.Gateway]] = {
    "random": rivals.Random,
    "round robin": rivals.RoundRobin,
    "least busy": rivals.LeastBusy,
    "lowest latency": rivals.LowestLatency,
    "lowest cost": rivals.LowestCost,
    "power of two": rivals.PowerOfTwo,
    "weighted shuffle": rivals.WeightedShuffle,
}
OURS: tuple[Policy, ...] = ("balanced", "cheapest", "fastest", "best")
ORACLE = "oracle"
NAMES = (*RIVALS, *OURS, ORACLE)


@dataclass(frozen=True)
class Result:
    situation: str
    strategy: str
    figures: Figures
    """Means over the seeds."""

    @property
    def ours(self) -> bool:
        return self.strategy in OURS


def play(situation: Situation, name: str, seed: int) -> Figures:
    """One day of one strategy."""
    if name == ORACLE:
        oracle = rivals.Oracle()
        oracle.simulation = Simulation(situation, [oracle], seed)
        return Figures.of(oracle.simulation.run())
    team = [_strategy(name, random.Random(f"{seed}/{number}")) for number in range(situation.managers)]
    return Figures.of(Simulation(situation, team, seed).run())


def contest(seconds: float, seeds: Sequence[int], names: Sequence[str] = NAMES, only: str = "") -> list[Result]:
    """Everybody in every situation, on all processors."""
    days = [situation.name for situation in situations(seconds) if only in situation.name]
    jobs = [(day, name, seed, seconds) for day in days for name in names for seed in seeds]
    with ProcessPoolExecutor() as pool:
        played = dict(zip(jobs, pool.map(_played, jobs), strict=True))
    return [
        Result(day, name, mean([played[day, name, seed, seconds] for seed in seeds])) for day in days for name in names
    ]


def mean(figures: Sequence[Figures]) -> Figures:
    return Figures(**{name: fmean(asdict(one)[name] for one in figures) for name in asdict(figures[0])})


def regret(result: Result, results: Sequence[Result]) -> float:
    """How much of the oracle's goodput is missing, 0..1."""
    oracle = next(r for r in results if r.strategy == ORACLE and r.situation == result.situation)
    return 1 - result.figures.goodput / oracle.figures.goodput


def _played(job: tuple[str, str, int, float]) -> Figures:
    day, name, seed, seconds = job
    return play(next(s for s in situations(seconds) if s.name == day), name, seed)


def _strategy(name: str, rng: random.Random) -> Strategy:
    if name in RIVALS:
        return RIVALS[name](rng)
    policy: Policy = next(policy for policy in get_args(Policy) if policy == name)
    return Bullpen(policy, rng)
