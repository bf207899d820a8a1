"""A run from its seed to its verdict."""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import results
from benchmarks.soak.check import Verdict, check
from benchmarks.soak.history import History, Inflicted, Journal
from benchmarks.soak.load import INBOXES, RATE, WORKER_ENVIRONMENT, Load
from benchmarks.soak.nemesis import inflict
from benchmarks.soak.plan import Topology, faults
from benchmarks.soak.watch import Watch
from bullpen.supervision.mesh import Mesh
from bus import BusError

WARM_UP = 5.0
"""Seconds of load before the first fault, after which the processes are measured."""
QUIET_END = 3.0
"""Seconds of load after the last fault may begin."""
SETTLES_WITHIN = 60.0
"""Seconds after the load in which books are complete and everything is let go."""
LIMITS = [
    "one machine, loopback: no lost packets, no slow links, no partition (see `python -m benchmarks failover`)",
    "simulated workers: no real model and no provider is asked, nothing costs anything",
    "one NATS server: JetStream is not replicated, and power failures are not tried",
    "faults come one at a time, each healed before the next",
    "asyncio tasks inside the roles are not counted: descriptors, sockets, threads, memory and open work are",
]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    seed: int
    history: History
    verdict: Verdict
    directory: Path
    """The journal, and the logs of every process."""

    @property
    def figures(self) -> dict[str, Any]:
        history, ended = self.history, self.history.ended
        return {
            "seed": self.seed,
            "requests": len(history.asked),
            "streams": sum(asked.stream for asked in history.asked),
            "outcomes": dict(Counter(e.code or e.how for e in ended)),
            "more_than_one_attempt": sum(len(e.tries) > 1 for e in ended),
            "streams_resumed": sum(any(piece.mode for piece in e.pieces) for e in ended),
            "replayed": sum(e.replayed for e in ended),
            "faults": [_told(fault) for fault in history.faults],
            "explained": dict(self.verdict.explained),
            "violations": [str(violation) for violation in self.verdict.violations],
            "memory_mib": {
                name: [vitals.rss >> 20, history.rested[name].rss >> 20]
                for name, vitals in history.warm.items()
                if name in history.rested
            },
        }

    @property
    def story(self) -> str:
        """For people: what was asked, what went wrong, and how to see it again."""
        figures = self.figures
        counted = ", ".join(f"{count} {how}" for how, count in sorted(figures["outcomes"].items()))
        return "\n".join(
            (
                f"seed {self.seed}: {figures['requests']} requests, {len(figures['faults'])} faults: {counted}",
                *(f"  explained by a fault: {what}: {count}" for what, count in self.verdict.explained.items()),
                *(f"  VIOLATION {violation}" for violation in self.verdict.violations),
                f"  broken; the journal and the logs are in {self.directory}" if self.verdict.violations else "  holds",
            )
        )


async def soak(seed: int, seconds: float, directory: Path, tell: Tell = lambda line: None) -> Outcome:
    """One run of so many seconds of load; `directory` gets the journal and the mesh."""
    topology = Topology()
    journal = Journal(directory / "history.jsonl")
    alone = {"NATS_URL": "", "DATABASE_URL": ""}  # never somebody's real servers
    mesh = Mesh(
        directory / "mesh",
        workers=[("simulated", topology.workers)],
        managers=topology.managers,
        env={**alone, **WORKER_ENVIRONMENT},
    )

    def note(fault: Inflicted) -> None:
        journal.note(fault)
        tell(_told(fault))

    os.environ["NATS_INBOX_PREFIX"] = INBOXES  # the client's, which reads the environment; the mesh has its copy
    try:
        async with (
            mesh,
            Watch.open(mesh, topology, journal.history) as watch,
            Load.open(mesh.endpoints.nats_url, journal, seed) as load,
        ):
            stop, end = asyncio.Event(), asyncio.get_running_loop().time() + seconds
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run(stop))
                await asyncio.sleep(WARM_UP)
                journal.history.warm = watch.vitals()
                await inflict(faults(seed, topology), mesh, watch, end - QUIET_END, note)
                await asyncio.sleep(max(0.0, end - asyncio.get_running_loop().time()))
                stop.set()
            verdict = await _settled(watch, journal.history)
    finally:
        del os.environ["NATS_INBOX_PREFIX"]
        journal.close()
    return Outcome(seed, journal.history, verdict, directory)


async def _settled(watch: Watch, history: History) -> Verdict:
    """What is still wrong when everything has had its time to come right."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLES_WITHIN
    watch.listen_anew()
    while True:
        await asyncio.sleep(1)
        history.busy, history.rested = watch.busy(), watch.vitals()
        try:
            await watch.read_books()
        except (OSError, asyncpg.PostgresError, BusError) as error:
            history.busy = (*history.busy, f"the books cannot be read: {error!r}")
        verdict = check(history)
        if not _may_get_better(verdict) or loop.time() > end:
            return verdict


def _may_get_better(verdict: Verdict) -> bool:
    return any(v.kind in ("leak", "backlog", "not booked", "attempts differ") for v in verdict.violations)


async def run(seconds: float, seeds: Sequence[int]) -> int:
    """Runs every seed, prints what came of it, writes `benchmarks/results/soak.json`; returns the exit code."""
    runs = []
    for seed in seeds:
        print(f"seed {seed}: {seconds:g} s at {RATE:g} requests/s", flush=True)
        directory = Path(tempfile.mkdtemp(prefix=f"bullpen-soak-{seed}-"))
        outcome = await soak(seed, seconds, directory, tell=lambda line: print(f"  {line}", flush=True))
        runs.append(outcome.figures)
        print(outcome.story)
        if not outcome.verdict.violations:
            shutil.rmtree(directory, ignore_errors=True)
    figures = {"seconds": seconds, "requests_per_s": RATE, "topology": asdict(Topology()), "runs": runs}
    print(f"written to {results.write('soak', figures, does_not_prove=LIMITS)}")
    return 1 if any(figures["violations"] for figures in runs) else 0


def _told(fault: Inflicted) -> str:
    if fault.healed is None:
        return f"{fault.deed} {fault.victim}: never well again"
    return f"{fault.deed} {fault.victim}: well after {(fault.healed - fault.begin) / 1e9:.1f} s"
