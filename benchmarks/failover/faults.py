"""The faults of processes and lines: killed, stopped, restarted, frozen, cut off, blocked; and a Manager's death."""

import asyncio
import signal
from pathlib import Path

from benchmarks.failover.blocking.backend import BLOCK
from benchmarks.failover.cast import (
    CROWD,
    LONG_MS,
    PAIR,
    QUICK_MS,
    UNDER_WAY,
    USUAL_MS,
    Rounds,
    ask,
    back,
    pair,
    typical,
    under_way,
    usual,
)
from benchmarks.failover.figures import Round
from benchmarks.failover.stage import Call, Stage
from client import Bullpen
from contracts import BullpenError
from contracts import subjects as s
from tests.proxy import Proxy

BLOCKING = Path(__file__).parent / "blocking"


# Gone


async def killed(stage: Stage, rounds: int, count: int) -> Rounds:
    await pair(stage)
    took = await usual(stage, count, count // 2)  # about as many as will move house
    for _ in range(rounds):
        calls, victim = await under_way(stage, count)
        fault = stage.send(victim, signal.SIGKILL)
        yield Round(await stage.answers(calls), stage.routes, frozenset([victim]), took, fault)
        await back(stage, victim)


async def killed_idle(stage: Stage, rounds: int, count: int) -> Rounds:
    """Nobody tells the Manager, and it asks within a heartbeat: only "no responders" can save the request."""
    await pair(stage, latency_ms=QUICK_MS)
    took = await usual(stage, count, CROWD)
    for number in range(rounds):
        victim = PAIR[number % 2]
        stage.send(victim, signal.SIGKILL)
        await stage.gone(victim)
        calls = await ask(stage, count)
        yield Round(calls, stage.routes, frozenset([victim]), took)
        await back(stage, victim)


async def stopped(stage: Stage, rounds: int, count: int) -> Rounds:
    """One question after the other; in the middle of them a worker is told to leave."""
    await pair(stage)
    await ask(stage, count, count)
    took = await typical(stage, await _trickle(stage, count))
    for _ in range(rounds):
        calls = await _trickle(stage, count // 2)
        victim = await stage.busiest(PAIR, calls)
        fault = stage.send(victim, signal.SIGTERM)
        calls += await _trickle(stage, count - len(calls))
        await stage.answers(calls)
        notes = {"exit code": await stage.gone(victim)}
        yield Round(calls, stage.routes, frozenset([victim]), took, fault, notes=notes)
        await back(stage, victim)


async def _trickle(stage: Stage, count: int) -> list[Call]:
    calls = []
    for _ in range(count):
        calls.append(await stage.ask_one())
        await asyncio.sleep(0.005)
    return calls


async def restarted(stage: Stage, rounds: int, count: int) -> Rounds:
    """No disconnect event, and a Manager that waits 30 beats: only the new `epoch` tells. Its first word counts."""
    await pair(stage, silent_after_beats=30)
    took = await usual(stage, count)
    for _ in range(rounds):
        calls, victim = await under_way(stage, count)
        stage.send(victim, signal.SIGKILL)
        await back(stage, victim)
        yield Round(
            await stage.answers(calls), stage.routes, frozenset([victim]), took, stage.epochs[stage.beats[victim].epoch]
        )


# Silent, from right after a heartbeat on: the worst moment


async def frozen(stage: Stage, rounds: int, count: int) -> Rounds:
    await pair(stage, latency_ms=LONG_MS)
    took = await usual(stage, count)
    for _ in range(rounds):
        calls, victim = await under_way(stage, count)
        await stage.heard(victim)
        fault = stage.send(victim, signal.SIGSTOP)
        await stage.answers(calls)
        stage.send(victim, signal.SIGCONT)
        await stage.heard(victim)  # late answers, if any come, come now
        yield Round(calls, stage.routes, frozenset([victim]), took, fault)


async def partitioned(stage: Stage, rounds: int, count: int) -> Rounds:
    async with Proxy(stage.server.port) as proxy:
        stage.manager()
        for name, url in zip(PAIR, ("", f"nats://127.0.0.1:{proxy.port}"), strict=True):
            stage.worker(name, latency_ms=LONG_MS, max_concurrency=256, url=url)
        await stage.ready()
        took = await usual(stage, count)
        for _ in range(rounds):
            calls, _ = await under_way(stage, count)
            await stage.heard(PAIR[1])
            fault = stage.now()
            proxy.blackhole()
            await stage.answers(calls)
            await proxy.heal()
            await stage.heard(PAIR[1])
            yield Round(calls, stage.routes, frozenset(PAIR[1:]), took, fault)


async def blocked(stage: Stage, rounds: int, count: int) -> Rounds:
    stage.manager()
    for name in PAIR:
        stage.worker(name, str(BLOCKING))
    await stage.ready()
    took = await usual(stage, count)
    for _ in range(rounds):
        calls, victim = await under_way(stage, count)
        await stage.heard(victim)
        fault = stage.now()
        blow = await stage.ask_one(subject=s.infer_worker(BLOCKING.name, victim), prompt=BLOCK)
        await stage.answers([*calls, blow])
        await stage.heard(victim)
        yield Round(calls, stage.routes, frozenset([victim]), took, fault)


# The Manager itself


async def manager_killed(stage: Stage, rounds: int, count: int) -> Rounds:
    """Three Managers; the Python client asks, with an idempotency key, and asks again when its Manager is gone."""
    managers = [f"manager-{number}" for number in (1, 2, 3)]
    for name in managers:
        stage.manager(name)
    stage.worker(PAIR[0], latency_ms=USUAL_MS, max_concurrency=512)
    await stage.ready()
    took = await usual(stage, count)
    async with Bullpen.connect(stage.server.url) as client:
        for number in range(rounds):
            calls = [stage.call() for _ in range(count)]
            asking = [asyncio.create_task(_ask(client, call)) for call in calls]
            await asyncio.sleep(UNDER_WAY)
            victim = managers[number % 3]
            fault = stage.send(victim, signal.SIGKILL)
            await asyncio.gather(*asking)
            again = sum(d.created_at.timestamp() > c.answered for c in calls for d in stage.routes.get(c.task_id, []))
            notes = {"started after it was answered": again}
            yield Round(calls, stage.routes, frozenset([victim]), took, fault, notes=notes)
            await stage.gone(victim)
            stage.restart(victim)
            await stage.ready()


async def _ask(client: Bullpen, call: Call) -> None:
    try:
        answer = await client.ask("hello there", task_id=call.task_id, idempotency_key=call.task_id, deadline_ms=5000)
    except BullpenError as error:
        call.finish({"error": {"code": error.code, "message": error.message}})
    else:
        call.finish(answer.model_dump(mode="json"))
