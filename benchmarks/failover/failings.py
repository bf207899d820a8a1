"""The faults of workers that are alive but no use: full, mute, hung, babbling, or let down by their provider."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

from aiohttp import web

from benchmarks.failover.cast import CHEAP, CROWD, DEAR, PAIR, QUICK_MS, USUAL_MS, Rounds, ask, back, pair, usual
from benchmarks.failover.figures import Round
from benchmarks.failover.impostors import RUBBISH, impostor
from benchmarks.failover.stage import Call, Stage
from contracts import subjects as s
from tests.backends.providers import Failure, OpenAIProvider
from tests.support import eventually

STALL_S = 1.0
RETRY_AFTER_S = 2


async def full(stage: Stage, rounds: int, count: int) -> Rounds:
    """Others fill the worker behind the Manager's back; it believes the last heartbeat, 10 s ago, and asks."""
    stage.manager()
    stage.worker(PAIR[0], latency_ms=QUICK_MS, max_concurrency=256, price=DEAR)
    await stage.ready()
    took = await usual(stage, count, CROWD)
    stage.worker(PAIR[1], latency_ms=60_000, max_concurrency=16, max_queue=0, heartbeat_interval=10, price=CHEAP)
    for number in range(rounds):
        if number:
            stage.send(PAIR[1], signal.SIGKILL)
            await back(stage, PAIR[1])
        else:
            await stage.heard(PAIR[1])
        await stage.ask(16, subject=s.infer_worker("simulated", PAIR[1]))
        await stage.bus.flush()
        calls: list[Call] = []
        while len(calls) < count:
            calls += await ask(stage, min(CROWD, count - len(calls)))
            await asyncio.sleep(0.1)  # until it is believed again
        yield Round(calls, stage.routes, frozenset(PAIR[1:]), took)


async def unclaimed(stage: Stage, rounds: int, count: int) -> Rounds:
    await pair(stage)
    took = await usual(stage, count)
    for number in range(rounds):
        async with impostor(stage, f"mute-{number}", like=PAIR[0]):
            calls = await stage.answers(await stage.ask(count))
        yield Round(calls, stage.routes, frozenset([f"mute-{number}"]), took)


async def garbage(stage: Stage, rounds: int, count: int) -> Rounds:
    await pair(stage, latency_ms=QUICK_MS)
    took = await usual(stage, count, CROWD)
    for number in range(rounds):
        async with impostor(stage, f"babbler-{number}", like=PAIR[0], says=RUBBISH):
            calls = await ask(stage, count)
        yield Round(calls, stage.routes, frozenset([f"babbler-{number}"]), took)


async def hung(stage: Stage, rounds: int, count: int, *, after: int, stream: bool = False) -> Rounds:
    stage.manager()
    stage.worker(PAIR[0], latency_ms=USUAL_MS, max_concurrency=256, price=DEAR)
    await stage.ready()
    took = await usual(stage, count, stream=stream)
    stage.worker(
        PAIR[1],
        latency_ms=USUAL_MS,
        max_concurrency=256,
        price=CHEAP,
        hang_after_tokens=after,
        first_token_timeout=STALL_S,
        next_token_timeout=STALL_S,
    )
    for number in range(rounds):
        if number:
            stage.send(PAIR[1], signal.SIGKILL)  # who starts anew is trusted anew
            await back(stage, PAIR[1])
        else:
            await stage.heard(PAIR[1])
        calls = await stage.answers(await stage.ask(count, stream=stream))
        notes = {"streams with a gap, or not resumed": sum(map(_broken, calls))} if stream else {}
        yield Round(calls, stage.routes, frozenset(PAIR[1:]), took, notes=notes)


def _broken(stream: Call) -> bool:
    pieces = [piece for _, piece in stream.pieces]
    moved = len(stream.answer.get("attempts", ())) > 1
    resumed = any(piece["type"] == "resumed" for piece in pieces)
    return [piece["seq"] for piece in pieces] != [*range(len(pieces))] or (moved and not resumed)


async def hung_before(stage: Stage, rounds: int, count: int) -> Rounds:
    async for one in hung(stage, rounds, count, after=0):
        yield one


async def hung_between(stage: Stage, rounds: int, count: int) -> Rounds:
    async for one in hung(stage, rounds, count, after=8):
        yield one


async def hung_in_stream(stage: Stage, rounds: int, count: int) -> Rounds:
    async for one in hung(stage, rounds, count, after=8, stream=True):
        yield one


# Its provider fails


class Refusing(OpenAIProvider):
    """Writes down when it answered which task; the prompt names it."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: dict[str, float] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = await super().answer(request)
        question = self.received[-1]["messages"][-1]["content"]
        self.answered[question.rpartition(" ")[2]] = time.time()
        return response


async def refused(stage: Stage, rounds: int, count: int, failure: Failure) -> AsyncIterator[tuple[Round, Refusing]]:
    """Two workers of a paid backend; the one whose provider is cheap, and so is asked first, fails from now on."""
    async with OpenAIProvider() as good, Refusing() as bad:
        stage.manager()
        for name, provider, price in zip(PAIR, (good, bad), (DEAR, CHEAP), strict=True):
            model = {"name": "m", "price": price}
            url = f"{provider.url}/v1"
            stage.worker(name, "openai", base_url=url, models=[model], max_concurrency=256, health_interval=60)
        await stage.ready()
        took = await usual(stage, count, CROWD)
        for number in range(rounds):
            if number:
                stage.send(PAIR[1], signal.SIGKILL)
                await back(stage, PAIR[1])
            bad.failure = failure
            bad.received.clear()
            calls = await ask(stage, count // 2)
            yield Round(calls, stage.routes, frozenset(PAIR[1:]), took, faults=bad.answered), bad
            bad.failure = Failure()


async def answers_500(stage: Stage, rounds: int, count: int) -> Rounds:
    async for one, bad in refused(stage, rounds, count, Failure(status=500)):
        one.calls += await ask(stage, count - len(one.calls))
        one.notes["calls of the failing provider"] = len(bad.received)
        yield one


async def answers_401(stage: Stage, rounds: int, count: int) -> Rounds:
    """The second half is asked when the worker has said that it is out; its provider must not be called again."""
    async for one, bad in refused(stage, rounds, count, Failure(status=401)):
        await eventually(lambda: stage.beats[PAIR[1]].state == "degraded")
        called = len(bad.received)
        one.calls += await ask(stage, count - len(one.calls))
        one.notes["calls after it was out"] = len(bad.received) - called
        yield one


async def answers_429(stage: Stage, rounds: int, count: int) -> Rounds:
    """The second half is asked before `Retry-After` is over; that provider must not be called again until then."""
    async for one, bad in refused(stage, rounds, count, Failure(429, {"Retry-After": str(RETRY_AFTER_S)})):
        until = one.calls[0].sent + RETRY_AFTER_S - 0.1
        called, bad.failure = len(bad.received), Failure()
        while len(one.calls) < count - CROWD and stage.now() < until:
            one.calls += await ask(stage, min(5, count - CROWD - len(one.calls)))
        await asyncio.sleep(max(0.0, until - stage.now()))
        one.notes["calls before Retry-After was over"] = len(bad.received) - called
        await asyncio.sleep(0.5)
        one.calls += await ask(stage, count - len(one.calls))
        one.notes["calls after it was over"] = len(bad.received) - called
        yield one
