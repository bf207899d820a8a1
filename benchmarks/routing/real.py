"""Whether the simulation tells the truth: the same day with real processes, and what the simulation says of it.

A Manager, a NATS server and simulated workers (a process each) get the very questions of the simulated day, at the
same times. `balanced` asks the Manager; `random` asks `infer.simulated`, where the server picks one of the workers
blindly. Workers here know no crowding and read prompts in no time, so the simulated ones do not either.
"""

import asyncio
import random
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.routing.contest import play
from benchmarks.routing.judge import Figures
from benchmarks.routing.simulation import Outcome
from benchmarks.routing.world import Question, Situation, Worker, situations
from contracts import subjects as s
from tests.roles import AS_SHIPPED, Roles
from tests.roles import Question as Asked
from tests.servers import NatsServer
from tests.support import eventually

DAYS = ("mixed speeds", "one failing fast")
PATHS = {"balanced": s.INFER_AUTO, "random": "infer.simulated"}
INFINITE = 1e9
GRACE = 2.0
"""Seconds that are waited beyond a deadline."""


def run(seconds: float, seed: int) -> None:
    """Plays the days really and in the simulation, prints both, writes `results/routing-real.json`."""
    figures: dict[str, Any] = {}
    print(f"{'':40}  goodput   p50 s   p95 s   p99 s")
    for day in (day for day in situations(seconds) if day.name in DAYS):
        plain = replace(day, workers=tuple(_plain(worker) for worker in day.workers))
        for name, subject in PATHS.items():
            real = asyncio.run(_play(plain, subject, seed))
            for where, told in (("real", real), ("simulated", play(plain, name, seed))):
                figures[f"{day.name} / {name} / {where}"] = asdict(told)
                title = f"{day.name}, {name}, {where}"
                print(f"{title:40}  {told.goodput:7.3f}  {told.p50_s:6.2f}  {told.p95_s:6.2f}  {told.p99_s:6.2f}")
    path = results.write(
        "routing-real", {"seconds": seconds, "seed": seed, "results": figures}, does_not_prove=["more than two days"]
    )
    print(f"written to {path}")


def _plain(worker: Worker) -> Worker:
    return replace(worker, name=f"w-{worker.name}", crowding=0.0, prompt_tokens_per_second=INFINITE, fails_after_s=0.0)


async def _play(day: Situation, subject: str, seed: int) -> Figures:
    questions = day.arrivals(random.Random(f"{seed}/day"))
    with tempfile.TemporaryDirectory() as place:
        server = NatsServer(Path(place))
        await server.start()
        try:
            async with Roles(Path(place), server.url) as roles:
                roles.manager(**AS_SHIPPED)
                for worker in day.workers:
                    roles.worker(worker.name, **_settings(worker))
                await roles.ready()
                return Figures.of(await _ask(roles, questions, subject, day.workers[0]))
        finally:
            server.kill()


def _settings(worker: Worker) -> dict[str, str]:
    told = {
        "SEED": sum(worker.name.encode()),
        "MAX_CONCURRENCY": worker.capacity,
        "MAX_QUEUE": worker.capacity * 100,
        "TTFT_MS": worker.first_token_s * 1000,
        "TOKENS_PER_SECOND": worker.tokens_per_second,
        "OUTPUT_TOKENS": 100_000,  # as many as each request allows
        "ERROR_RATE": worker.fails,
    }
    return {f"BULLPEN_SIMULATED__{name}": str(value) for name, value in told.items()}


async def _ask(roles: Roles, questions: Any, subject: str, like: Worker) -> list[Outcome]:
    begun = time.monotonic()
    asked: list[tuple[Question, Asked]] = []
    for question in questions:
        await asyncio.sleep(max(0.0, begun + question.at - time.monotonic()))
        body = {"max_tokens": question.length(like.model), "deadline_ms": round(question.deadline_s * 1000)}
        asked.append((question, await roles.ask(subject, **body)))
    with suppress(AssertionError):  # one that was never told anything counts as not answered
        await eventually(lambda: all(one.finals for _, one in asked), timeout=asked[-1][0].deadline_s + GRACE)
    return [_outcome(question, one) for question, one in asked]


def _outcome(question: Question, asked: Asked) -> Outcome:
    answered = bool(asked.finals) and "output" in asked.finals[0]
    outcome = Outcome(question, asked.took if answered else None)
    outcome.accepted = outcome.in_time
    outcome.tries = len(asked.finals[0].get("attempts", ())) if asked.finals else 0
    return outcome
