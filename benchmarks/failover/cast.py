"""Who is on stage in most plays of `benchmarks failover`, and how they are asked."""

import asyncio
import statistics
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.failover.figures import Round
from benchmarks.failover.stage import Call, Stage

Rounds = AsyncIterator[Round]
"""What a play tells: every play asks `count` questions per round."""

PAIR = ("worker-1", "worker-2")
QUICK_MS, USUAL_MS, LONG_MS = 50, 500, 1500
"""How long a worker takes: quick where nothing has to be under way, long where the fault waits for a heartbeat."""
DEAR, CHEAP = ({"input_per_mtok": price, "output_per_mtok": price} for price in (50.0, 0.1))
"""Prices that decide who is asked first."""
CROWD = 5
"""So many at a time, where questions that come all at once would wait for each other more than for the fault."""
UNDER_WAY = 0.25
"""Seconds after which every question has reached its worker, been claimed, and is far from done."""


async def ask(stage: Stage, count: int, crowd: int = CROWD, **request: Any) -> list[Call]:
    """So many questions, a few at a time."""
    calls: list[Call] = []
    while len(calls) < count:
        calls += await stage.answers(await stage.ask(min(crowd, count - len(calls)), **request))
    return calls


async def usual(stage: Stage, count: int, crowd: int = 0, **request: Any) -> float:
    """The median of as many questions asked in the same way, in seconds, when nothing is wrong."""
    crowd = crowd or count
    await ask(stage, crowd, crowd, **request)  # the first ones warm everything up
    return await typical(stage, await ask(stage, count, crowd, **request))


async def typical(stage: Stage, calls: list[Call]) -> float:
    """The median of these, in seconds."""
    await stage.answers(calls)
    if failed := [call.error for call in calls if call.error]:
        raise RuntimeError(f"{len(failed)} of {len(calls)} questions failed before any fault: {failed[0]}")
    return statistics.median(call.took for call in calls)


async def pair(stage: Stage, *, latency_ms: float = USUAL_MS, **manager: Any) -> None:
    """A Manager and two equal workers."""
    stage.manager(**manager)
    for name in PAIR:
        stage.worker(name, latency_ms=latency_ms, max_concurrency=256)
    await stage.ready()


async def under_way(stage: Stage, count: int) -> tuple[list[Call], str]:
    """So many questions, all of them being worked on, and the worker that has most of them."""
    calls = await stage.ask(count)
    await asyncio.sleep(UNDER_WAY)
    return calls, await stage.busiest(PAIR, calls)


async def back(stage: Stage, name: str) -> None:
    """A process that ended is started again under its own name."""
    await stage.gone(name)
    stage.restart(name)
    await stage.heard(name)
