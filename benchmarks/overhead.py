"""What the mesh adds to a request: `infer.auto` and the direct subject against a bare relay and the floor.

Everything is a real process on loopback: one NATS server, one Manager, one simulated worker that answers
at once, and beside them a bare echo and a bare relay (nats-py, no routing, no books). Every path is
measured in turn, several rounds; ratios are of medians within this one run.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import results
from bullpen.embedded import nats_server
from bullpen.supervision.leash import leashed
from bus import Bus, BusSettings, NoResponders, RequestTimeout
from bus.jetstream import StreamSpec, ensure_stream
from contracts import subjects as s

AT_ONCE = 64
BODY = json.dumps({"prompt": "What is the capital of France?", "temperature": 0.2}).encode()
PATHS = {
    "infer.auto": "the Manager picks a worker, both roles book and explain",
    "infer.simulated": "a worker asked directly",
    "bare.relay": "nats-py relay to the echo: no routing, no books",
    "bare.echo": "the floor: nats-py client to nats-py echo",
}
SIMULATED = {"LATENCY_MS": '{"fixed": 0}', "OUTPUT_TOKENS": "8", "MAX_CONCURRENCY": "256"}


async def run(rounds: int, requests: int, burst: int) -> None:
    """Measures, prints a table, writes `benchmarks/results/overhead.json`."""
    _report(await measure(rounds, requests, burst), rounds)


async def measure(rounds: int, requests: int, burst: int) -> dict[str, dict[str, Any]]:
    """By path, round trips, rates, and both against the bare relay's."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        url = stack.enter_context(serve_nats(Path(directory)))
        for words in (["manager", "--id", "bench"], ["worker", "simulated", "--id", "bench-1"]):
            stack.enter_context(started([sys.executable, "-m", "bullpen", *words], url))
        for role in ("echo", "relay"):
            stack.enter_context(started([sys.executable, "-m", "benchmarks.bare", role], url))
        return await asyncio.to_thread(lambda: uvloop.run(_measure_all(url, rounds, requests, burst)))


async def _measure_all(url: str, rounds: int, requests: int, burst: int) -> dict[str, dict[str, Any]]:
    bus = await Bus.connect("benchmark", BusSettings(servers=(url,)), patience=10)
    await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
    medians: dict[str, list[float]] = {path: [] for path in PATHS}
    rates: dict[str, list[float]] = {path: [] for path in PATHS}
    for path in PATHS:
        await _warm(bus, path)
    for _ in range(rounds):
        for path in PATHS:
            medians[path].append(await _one_by_one(bus, path, requests))
            rates[path].append(await _many(bus, path, burst))
    await bus.close()
    return _figures(medians, rates)


async def _warm(bus: Bus, path: str) -> None:
    """Waits until the path answers, then runs it in."""
    end = time.monotonic() + 30
    while True:
        try:
            reply = await bus.request(path, BODY, timeout=2)
            if b'"output"' in reply.data:
                break
        except (NoResponders, RequestTimeout):
            pass
        if time.monotonic() > end:
            sys.exit(f"{path} does not answer")
        await asyncio.sleep(0.1)
    await _many(bus, path, 500)


async def _one_by_one(bus: Bus, path: str, requests: int) -> float:
    """The median round trip, in milliseconds, one request in flight."""
    taken = []
    for _ in range(requests):
        start = time.perf_counter()
        await bus.request(path, BODY, timeout=10)
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


async def _many(bus: Bus, path: str, requests: int) -> float:
    """Answers per second with 64 requests in flight."""
    left = iter(range(requests))

    async def ask() -> None:
        for _ in left:
            reply = await bus.request(path, BODY, timeout=10)
            assert b'"output"' in reply.data, reply.data

    start = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return requests / (time.perf_counter() - start)


def _figures(medians: dict[str, list[float]], rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    ms = {path: statistics.median(values) for path, values in medians.items()}
    rate = {path: statistics.median(values) for path, values in rates.items()}
    return {
        path: {
            "what": PATHS[path],
            "round_trip_ms": round(ms[path], 3),
            "requests_per_s": round(rate[path]),
            "round_trip_vs_relay": round(ms[path] / ms["bare.relay"], 2),
            "throughput_vs_relay": round(rate[path] / rate["bare.relay"], 2),
            "round_trip_vs_floor": round(ms[path] / ms["bare.echo"], 2),
            "rounds_ms": [round(value, 3) for value in medians[path]],
            "rounds_per_s": [round(value) for value in rates[path]],
        }
        for path in PATHS
    }


def _report(figures: dict[str, dict[str, Any]], rounds: int) -> None:
    print(f"{'path':<18}{'round trip':>12}{'vs relay':>10}{'req/s':>10}{'vs relay':>10}   (medians of {rounds} rounds)")
    for path, row in figures.items():
        trip = f"{row['round_trip_ms']:.3f} ms"
        print(
            f"{path:<18}{trip:>12}{row['round_trip_vs_relay']:>10}{row['requests_per_s']:>10}{row['throughput_vs_relay']:>10}"
        )
    limits = [
        "client, server, Manager, worker and both bare processes share the processors of this one machine",
        "a worker that answers at once: with a real model the overhead is a small part of the answer's time",
        "loopback only: no network latency, no TLS",
        "the books are written to JetStream, not to Postgres: no telemetry role runs here",
    ]
    print(f"written to {results.write('overhead', {'paths': figures}, does_not_prove=limits)}")


@contextmanager
def serve_nats(directory: Path) -> Iterator[str]:
    port = _free_port()
    command = leashed(nats_server.command(port, directory / "jetstream", "benchmark"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield nats_server.url(port)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def started(command: list[str], url: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {f"BULLPEN_SIMULATED__{key}": value for key, value in SIMULATED.items()}
    environment |= {"NATS_URL": url, "BULLPEN_LOG_LEVEL": "error"}
    process = subprocess.Popen(leashed(command), env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
