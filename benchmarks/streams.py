"""How many streams one Manager relays: thousands at once through `infer.auto`, against the same worker asked directly.

Everything is a real process on loopback. Each stream is some seconds of words at a steady pace; what counts is how late
a piece comes (the pause between two pieces of one stream), and what a piece costs the Manager in processor time.
"""

import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import uvloop

from benchmarks import results
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings, Message

WORDS_PER_SECOND, SECONDS = 10.0, 5
DIRECT, ROUTED = "infer.simulated", "infer.auto"
WITHIN = 120.0


@dataclass(slots=True)
class Run:
    """What came of so many streams at once. Seconds."""

    pieces: int = 0
    failed: int = 0
    pauses: list[float] = field(default_factory=list)
    took: float = 0.0
    manager_cpu: float = 0.0

    def figures(self) -> dict[str, float]:
        ordered = sorted(self.pauses)
        return {
            "pieces_per_s": round(self.pieces / self.took),
            "pause_p50_ms": round(statistics.median(ordered) * 1000, 1),
            "pause_p99_ms": round(ordered[int(0.99 * len(ordered))] * 1000, 1),
            "manager_us_per_piece": round(self.manager_cpu / self.pieces * 1e6, 1),
            "took_s": round(self.took, 2),
            "failed": self.failed,
        }


def main(streams: int) -> None:
    """Measures, prints a table, writes `benchmarks/results/streams.json`."""
    uvloop.run(_measure(streams))


async def _measure(streams: int) -> None:
    settings = {
        "TOKENS_PER_SECOND": str(WORDS_PER_SECOND),
        "OUTPUT_TOKENS": str(int(WORDS_PER_SECOND * SECONDS)),
        "MAX_CONCURRENCY": str(streams),
    }
    env = {f"BULLPEN_SIMULATED__{name}": value for name, value in settings.items()} | {"BULLPEN_LOG_LEVEL": "error"}
    with tempfile.TemporaryDirectory() as directory:
        async with Mesh(Path(directory), workers=[("simulated", 1)], postgres=False, env=env) as mesh:
            bus = await Bus.connect("benchmark", BusSettings(servers=(mesh.endpoints.nats_url,)))
            manager = psutil.Process(mesh.pid("manager-1"))
            runs = {subject: await _run(bus, manager, subject, streams) for subject in (DIRECT, ROUTED)}
            await bus.close()
    _report(streams, runs)


async def _run(bus: Bus, manager: psutil.Process, subject: str, streams: int) -> Run:
    run, cpu, start = Run(), _cpu(manager), time.perf_counter()
    await asyncio.gather(*(_read(bus, subject, run) for _ in range(streams)))
    run.took, run.manager_cpu = time.perf_counter() - start, _cpu(manager) - cpu
    return run


async def _read(bus: Bus, subject: str, run: Run) -> None:
    """Reads one stream to its end."""
    ended, last = asyncio.Event(), 0.0

    def heard(message: Message) -> None:
        nonlocal last
        if not message.data:
            ended.set()
            return
        now = time.perf_counter()
        if last:
            run.pauses.append(now - last)
        last, run.pieces = now, run.pieces + 1
        run.failed += "Nats-Service-Error" in message.headers

    with bus.listen(heard) as inbox:
        await bus.publish(subject, json.dumps({"prompt": "hello", "stream": True}).encode(), reply=inbox.subject)
        async with asyncio.timeout(WITHIN):
            await ended.wait()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _report(streams: int, runs: dict[str, Run]) -> None:
    figures = {subject: run.figures() for subject, run in runs.items()}
    print(f"{streams} streams at once, {WORDS_PER_SECOND:g} words a second each, {SECONDS} s")
    for subject, row in figures.items():
        print(f"{subject:<18}" + "".join(f"{name} {value:<10}" for name, value in row.items()))
    limits = [
        "the caller, the server, the Manager and the worker share the processors of this one machine",
        "one worker makes all the words, as no real one could",
    ]
    told = {"streams": streams, "words_per_s": WORDS_PER_SECOND, "paths": figures}
    print(f"written to {results.write('streams', told, does_not_prove=limits)}")
