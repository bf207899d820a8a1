"""How the Manager's costs grow: with workers, with Managers, with the size of a prompt; and how long callers wait.

Real processes on loopback, as in `cost`. Workers beyond the first are heartbeats of workers that are full, which every
decision has to look at. Half load is half of what the mesh answered at its limit, sent at random moments.
"""

import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cost import AT_ONCE_ENV, PROMPT, Load, Meter, Way, opened, rounds_of
from bullpen.supervision.mesh import Mesh
from bus import BusError
from client import Bullpen
from contracts import Heartbeat
from contracts import subjects as s

WORKERS = (1, 10, 100, 1000)
MANAGERS = (1, 2, 4)
PAYLOADS = (1_000, 10_000, 100_000, 1_000_000)
"""Bytes of a prompt."""
LONG_WINDOW = {"BULLPEN_SIMULATED__MODELS": '[{"name": "simulated", "context_window": 1000000}]'}
BEAT_EVERY = 1.0
SHARES = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Of the most that was answered with 64 requests at once."""
LOADED_S = 8.0
LOADED = {"manager": "manager-1", "worker-1": "worker-simulated-1", "worker-2": "worker-simulated-2", "nats": "nats"}

Row = dict[str, Any]


async def with_workers(rounds: int, requests: int) -> list[Row]:
    """µs of the Manager per request among so many workers, their heartbeats included."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), workers=[("simulated", 1)], postgres=False, env=AT_ONCE_ENV)
        async with mesh, opened(mesh) as load:
            await load.ready(s.INFER_AUTO)
            meter = Meter({"manager": mesh.pid("manager-1")})
            for size in WORKERS:
                beating = asyncio.create_task(_beat(load, size - 1))
                await asyncio.sleep(2 * BEAT_EVERY)
                way = Way("auto", "", load.asking(s.INFER_AUTO), requests)
                figures = (await rounds_of(meter, [way], rounds))["auto"].row()
                rows.append({"workers": size, "manager_us": figures["manager_us"], "per_s": figures["per_s"]})
                beating.cancel()
    return rows


async def _beat(load: Load, count: int) -> None:
    """Heartbeats of so many full workers, once a second, until cancelled."""
    heard = await Bullpen(load.bus).workers(1.5)
    like = next(beat for beat in heard if beat.worker_id.startswith("simulated"))
    seq = like.seq
    while True:
        seq += 1
        began = time.monotonic()
        for number in range(count):
            beat = _full(like, f"full-{number}", seq)
            await load.bus.publish(s.worker_heartbeat("simulated", beat.worker_id), beat.to_bytes())
        await asyncio.sleep(max(0.0, BEAT_EVERY - (time.monotonic() - began)))


def _full(like: Heartbeat, worker_id: str, seq: int) -> Heartbeat:
    return like.model_copy(update={"worker_id": worker_id, "seq": seq, "inflight": like.capacity, "queued": 0})


async def with_managers(rounds: int, requests: int) -> list[Row]:
    """Requests per second with so many Managers, and with two workers, so that these are not the limit."""
    rows: list[Row] = []
    for managers in MANAGERS:
        with tempfile.TemporaryDirectory() as folder:
            mesh = Mesh(Path(folder), workers=[("simulated", 2)], managers=managers, postgres=False, env=AT_ONCE_ENV)
            async with mesh, opened(mesh) as load:
                await load.ready(s.INFER_AUTO)
                meter = Meter({f"manager-{number}": mesh.pid(f"manager-{number}") for number in range(1, managers + 1)})
                way = Way("auto", "", load.asking(s.INFER_AUTO), requests)
                figures = (await rounds_of(meter, [way], rounds))["auto"].row()
                spent = sum(value for name, value in figures.items() if name.startswith("manager"))
                rows.append({"managers": managers, "managers_us": round(spent, 1), "per_s": figures["per_s"]})
    first = rows[0]["per_s"]
    return [{**row, "times_one": round(row["per_s"] / first, 2)} for row in rows]


async def with_payloads(rounds: int, requests: int) -> list[Row]:
    """µs of the Manager per request with prompts of so many bytes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), workers=[("simulated", 1)], postgres=False, env={**AT_ONCE_ENV, **LONG_WINDOW})
        async with mesh, opened(mesh) as load:
            await load.ready(s.INFER_AUTO)
            meter = Meter({"manager": mesh.pid("manager-1"), "worker": mesh.pid("worker-simulated-1")})
            for size in PAYLOADS:
                body = json.dumps({"prompt": (PROMPT * (1 + size // len(PROMPT)))[:size]}).encode()
                few = max(20, min(requests, 20_000_000 // size))
                way = Way("auto", "", load.asking(s.INFER_AUTO, body), few)
                figures = (await rounds_of(meter, [way], rounds))["auto"].row()
                rows.append({"bytes": size, **{name: figures[name] for name in ("manager_us", "worker_us", "per_s")}})
    return rows


async def under_load(requests: int) -> list[Row]:
    """Milliseconds that callers wait, one Manager and two workers, at shares of the most that it answers.

    With how much of a processor each role then takes: where one takes all of it, or all of them all processors, the
    waiting begins.
    """
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), workers=[("simulated", 2)], postgres=False, env=AT_ONCE_ENV)
        async with mesh, opened(mesh) as load:
            await load.ready(s.INFER_AUTO)
            ask = load.asking(s.INFER_AUTO)
            await ask(requests // 4)
            began = time.monotonic()
            await ask(requests)
            most = requests / (time.monotonic() - began)
            meter = Meter({role: mesh.pid(name) for role, name in LOADED.items()})
            return [{"share": share, **await _paced(load, meter, share * most)} for share in SHARES]


async def _paced(load: Load, meter: Meter, per_s: float) -> Row:
    rng, taken, failed = random.Random(1), [], 0

    async def one() -> None:
        nonlocal failed
        began = time.monotonic()
        try:
            await load.ask(s.INFER_AUTO)
        except (AssertionError, BusError):
            failed += 1
        else:
            taken.append((time.monotonic() - began) * 1000)

    before, tasks, began = meter.read(), [], time.monotonic()
    at = began
    while at < began + LOADED_S:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        tasks.append(asyncio.create_task(one()))
        at += rng.expovariate(per_s)
    await asyncio.gather(*tasks)
    took, after = time.monotonic() - began, meter.read()
    ordered = sorted(taken)
    return {
        "offered_per_s": round(per_s),
        "answered_per_s": round(len(taken) / took),
        "failed": failed,
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(0.99 * len(ordered))], 2),
        **{f"{role}_busy": round((after[role] - before[role]) / took, 2) for role in after},
    }
