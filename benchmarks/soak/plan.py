"""Which faults a seed means, in which order. Pure: the same seed is the same story, on any machine.

Faults come out of a bag, so that every kind has its turn before any comes twice. One at a time, and each is
healed before the next: never all Managers, never all workers.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["worker", "manager", "nats", "postgres", "telemetry"]
Deed = Literal["kill", "term", "freeze"]
"""SIGKILL, SIGTERM, or SIGSTOP and after a while SIGCONT."""


@dataclass(frozen=True, slots=True)
class Fault:
    role: Role
    deed: Deed
    victim: str
    """The process, as the mesh names it."""
    after: float
    """Seconds of peace before it."""
    lasts: float = 0.0
    """Seconds until SIGCONT."""

    def __str__(self) -> str:
        return f"{self.deed} {self.victim}" + (f" for {self.lasts:g} s" if self.lasts else "")


@dataclass(frozen=True, slots=True)
class Topology:
    managers: int = 3
    workers: int = 3

    def victims(self, role: Role) -> Sequence[str]:
        match role:
            case "worker":
                return [f"worker-simulated-{number}" for number in range(1, self.workers + 1)]
            case "manager":
                return [f"manager-{number}" for number in range(1, self.managers + 1)]
            case "telemetry":
                return ["telemetry-1"]
            case "nats" | "postgres":
                return [role]


FREEZES: dict[Role, tuple[float, float]] = {"worker": (1.0, 6.0), "nats": (2.0, 4.0), "telemetry": (2.0, 5.0)}
"""Seconds. A worker's from too short to be noticed to beyond every patience."""
BAG: tuple[tuple[Role, Deed], ...] = (
    ("worker", "kill"),
    ("worker", "kill"),
    ("worker", "freeze"),
    ("worker", "freeze"),
    ("worker", "term"),
    ("manager", "kill"),
    ("manager", "kill"),
    ("manager", "term"),
    ("nats", "kill"),
    ("nats", "freeze"),
    ("postgres", "kill"),
    ("telemetry", "kill"),
    ("telemetry", "freeze"),
)
PEACE = (1.0, 4.0)
"""Seconds between the healing of one fault and the next."""


def faults(seed: int, topology: Topology) -> Iterator[Fault]:
    """Without end; whoever runs them stops when the time is up."""
    rng = random.Random(seed)
    while True:
        for role, deed in rng.sample(BAG, len(BAG)):
            lasts = round(rng.uniform(*FREEZES[role]), 1) if deed == "freeze" else 0.0
            yield Fault(role, deed, rng.choice(topology.victims(role)), round(rng.uniform(*PEACE), 1), lasts)
