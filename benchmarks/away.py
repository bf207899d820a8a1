"""Does an answer wait for Postgres? The same questions with Postgres there, killed, and frozen, in turn, in one run.

A real mesh of processes with a worker that answers at once, so that what is measured is the mesh alone. Rounds are
interleaved, because a shared machine is slower in one minute than in the next; ratios are of medians over all rounds.
"""

import asyncio
import json
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import results
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings
from contracts import subjects as s
from tests.servers import PostgresServer

BODY = json.dumps({"prompt": "What is the capital of France?"}).encode()
QUICK = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 0}', "BULLPEN_SIMULATED__OUTPUT_TOKENS": "8"}
SETTLE = 1.5
"""Seconds after a change before it is measured: the accountant notices, or catches up."""
THERE = "there"


def main(rounds: int, requests: int) -> None:
    """Measures, prints, writes `benchmarks/results/away.json`."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o755)  # Postgres runs as somebody else when we are root
        (folder / "books").mkdir()
        took = asyncio.run(_run(folder, rounds, requests))
    _tell(took, rounds, requests)


async def _run(folder: Path, rounds: int, requests: int) -> dict[str, list[float]]:
    postgres = PostgresServer(folder / "books")
    await postgres.start()
    env = {**QUICK, "DATABASE_URL": postgres.url, "BULLPEN_LOG_LEVEL": "error"}
    try:
        async with Mesh(folder / "mesh", workers=[("simulated", 1)], env=env) as mesh:
            bus = await Bus.connect("away", BusSettings(servers=(mesh.endpoints.nats_url,)))
            try:
                return await _measure(bus, postgres, rounds, requests)
            finally:
                await bus.close()
    finally:
        postgres.kill()


async def _measure(bus: Bus, postgres: PostgresServer, rounds: int, requests: int) -> dict[str, list[float]]:
    """Milliseconds of every request, by what Postgres did."""

    async def nothing() -> None: ...

    async def kill() -> None:
        postgres.kill()

    async def freeze() -> None:
        postgres.send(signal.SIGSTOP)

    async def thaw() -> None:
        postgres.send(signal.SIGCONT)

    phases: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]] = {
        THERE: (nothing, nothing),
        "killed": (kill, postgres.start),
        "frozen": (freeze, thaw),
    }
    took: dict[str, list[float]] = {name: [] for name in phases}
    await _ask(bus, requests)
    for _ in range(rounds):
        for name, (before, after) in phases.items():
            await before()
            await asyncio.sleep(SETTLE)
            took[name] += await _ask(bus, requests)
            await after()
            await asyncio.sleep(SETTLE)
    return took


async def _ask(bus: Bus, requests: int) -> list[float]:
    took: list[float] = []
    for _ in range(requests):
        started = time.perf_counter()
        answer = await bus.request(s.INFER_AUTO, BODY, timeout=10)
        took.append((time.perf_counter() - started) * 1000)
        assert b'"output"' in answer.data, answer.data
    return took


def _tell(took: dict[str, list[float]], rounds: int, requests: int) -> None:
    figures = {}
    print("Postgres is      median        p99       ratio")
    for name, all_of_them in took.items():
        median, p99 = statistics.median(all_of_them), statistics.quantiles(all_of_them, n=100)[98]
        ratio = median / statistics.median(took[THERE])
        figures[name] = {"median_ms": round(median, 3), "p99_ms": round(p99, 3), "ratio": round(ratio, 3)}
        print(f"{name:12} {median:8.2f} ms {p99:8.2f} ms {ratio:8.3f}")
    path = results.write(
        "away",
        {"rounds": rounds, "requests": requests, "postgres": figures},
        does_not_prove=["that it holds for hours: then JetStream's room is the limit", "anything about throughput"],
    )
    print(f"written to {path}")
