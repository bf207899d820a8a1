"""Whether a Manager and a worker hold more with every request: memory and descriptors over many of them.

Real processes on loopback: one NATS server, one Manager, one simulated worker. Requests bear ever new task ids, tenants
and conversations; half of them go to the worker directly. After each round the processes are looked at. What they hold
when they are warm is theirs; what they hold more with each further round is a leak. Ends with 1 if there is one.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from benchmarks import results
from benchmarks.overhead import serve_nats, started
from bus import Bus, BusSettings, NoResponders, RequestTimeout
from bus.jetstream import StreamSpec, ensure_stream
from contracts import new_id
from contracts import subjects as s

SUBJECTS = (s.INFER_AUTO, s.infer_backend("simulated"))
READY_WITHIN = 30.0
AT_ONCE = 32
WARM_REQUESTS = 25_000
"""That are not counted: averages fill, and pydantic's cache of 16,384 strings."""
MOST_MIB = 0.5
"""Per 10,000 requests. The leak that this was made for was three times as large."""
MOST_DESCRIPTORS = 4
"""More at the end than when it was warm."""
MIB = 1 << 20


async def run(rounds: int, requests: int) -> bool:
    """Measures, prints, writes `benchmarks/results/growth.json`. True: nothing grows."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        url = stack.enter_context(serve_nats(Path(directory)))
        roles = {
            name: stack.enter_context(started([sys.executable, "-m", "bullpen", *words], url))
            for name, words in {
                "manager": ["manager", "--id", "bench"],
                "worker": ["worker", "simulated", "--id", "bench-1"],
            }.items()
        }
        return await _measure(url, roles, rounds, requests)


async def _measure(url: str, roles: dict[str, "subprocess.Popen[bytes]"], rounds: int, requests: int) -> bool:
    bus = await Bus.connect("benchmark", BusSettings(servers=(url,)), patience=10)
    await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,), max_bytes=64 << 20))
    for subject in SUBJECTS:
        await _ready(bus, subject)
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in roles}
    warm_rounds = -(-WARM_REQUESTS // requests)
    for number in range(warm_rounds + rounds):
        await _round(bus, requests)
        for name, process in roles.items():
            seen[name].append(_held(process.pid))
        if number >= warm_rounds:
            print(", ".join(f"{name} {held[-1][0]:.1f} MiB, {held[-1][1]} fds" for name, held in seen.items()))
    await bus.close()
    warm = {name: held[warm_rounds:] for name, held in seen.items()}
    figures = {
        name: {
            "mib_per_10000_requests": round(slope([mib for mib, _ in held]) * 10_000 / requests, 3),
            "more_descriptors": held[-1][1] - held[0][1],
        }
        for name, held in warm.items()
    }
    results.write("growth", figures, does_not_prove=["a leak of less than the allocator's own noise would not show"])
    print(json.dumps(figures, indent=2))
    return all(
        one["mib_per_10000_requests"] <= MOST_MIB and one["more_descriptors"] <= MOST_DESCRIPTORS
        for one in figures.values()
    )


def slope(values: Sequence[float]) -> float:
    """How much more with each step, by least squares."""
    return statistics.linear_regression(range(len(values)), values).slope


def _held(pid: int) -> tuple[float, int]:
    """MiB and descriptors. The process that we started, or what it started in its place."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    largest = max(family, key=lambda one: one.memory_info().rss)
    return largest.memory_info().rss / MIB, largest.num_fds()


async def _ready(bus: Bus, subject: str) -> None:
    """Waits until somebody answers there."""
    async with asyncio.timeout(READY_WITHIN):
        while True:
            try:
                if b'"output"' in (await bus.request(subject, b"hi", timeout=5)).data:
                    return
            except (NoResponders, RequestTimeout):
                pass
            await asyncio.sleep(0.1)


async def _round(bus: Bus, requests: int) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(number: int) -> None:
        task_id = new_id()
        body = {"prompt": f"hello {task_id}", "task_id": task_id, "metadata": {"tenant": f"t-{task_id[-6:]}"}}
        async with free:
            await bus.request(SUBJECTS[number % 2], json.dumps(body).encode(), timeout=30)

    await asyncio.gather(*(ask(number) for number in range(requests)))


def main(rounds: int, requests: int) -> None:
    if not asyncio.run(run(rounds, requests)):
        sys.exit(1)
