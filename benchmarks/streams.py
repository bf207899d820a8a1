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

SECONDS = 5
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

    def figures(self, pause_s: float) -> dict[str, float]:
        """`pause_s`: between two words, as the worker says them."""
        ordered = sorted(self.pauses)
        return {
            "pieces_per_s": round(self.pieces / self.took),
            "pause_p50_ms": round(statistics.median(ordered) * 1000, 1),
            "pause_p99_ms": round(ordered[int(0.99 * len(ordered))] * 1000, 1),
            "late_p99_ms": round((ordered[int(0.99 * len(ordered))] - pause_s) * 1000, 1),
            "manager_us_per_piece": round(self.manager_cpu / self.pieces * 1e6, 1),
            "took_s": round(self.took, 2),
            "failed": self.failed,
        }


def main(streams: int, words: float) -> None:
    """Measures, prints a table, writes `benchmarks/results/streams.json`."""
    _report(streams, words, uvloop.run(measure(streams, words)))


async def measure(streams: int, words: float) -> dict[str, dict[str, float]]:
    """By subject, how so many streams of so many words a second fared."""
    settings = {
        "TOKENS_PER_SECOND": str(words),
        "OUTPUT_TOKENS": str(int(words * SECONDS)),
        "MAX_CONCURRENCY": str(streams),
    }
    env = {f"BULLPEN_SIMULATED__{name}": value for name, value in settings.items()} | {"BULLPEN_LOG_LEVEL": "error"}
    with tempfile.TemporaryDirectory() as directory:
        async with Mesh(Path(directory), workers=[("simulated", 1)], postgres=False, env=env) as mesh:
            bus = await Bus.connect("benchmark", BusSettings(servers=(mesh.endpoints.nats_url,)))
            manager = psutil.Process(mesh.pid("manager-1"))
            runs = {subject: await _run(bus, manager, subject, streams) for subject in (DIRECT, ROUTED)}
            await bus.close()
    return {subject: run.figures(1 / words) for subject, run in runs.items()}


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


def _report(streams: int, words: float, figures: dict[str, dict[str, float]]) -> None:
    print(f"{streams} streams at once, {words:g} words a second each, {SECONDS} s")
    for subject, row in figures.items():
        print(f"{subject:<18}" + "".join(f"{name} {value:<10}" for name, value in row.items()))
    limits = [
        "the caller, the server, the Manager and the worker share the processors of this one machine",
        "one worker makes all the words, as no real one could",
    ]
    told = {"streams": streams, "words_per_s": words, "paths": figures}
    print(f"written to {results.write('streams', told, does_not_prove=limits)}")
