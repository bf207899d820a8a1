"""Has every durable job exactly one result? Thousands of them while NATS, Managers and workers are killed with kill -9.

A real mesh (three Managers, three simulated workers, each a process) works off jobs that were all submitted before the
first fault; the faults come in a random order, spread over the work. A job is lost when it has no result, doubled when
it has two. How many attempts it took is told as well: at least once is what is promised.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import results
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings, Message
from client import Bullpen
from contracts import InferenceResponse
from contracts.headers import ATTEMPT, REQUEST

DONE_WITHIN = 180.0
"""Seconds from the last fault to the last result; what a killed Manager had comes again after 30."""
SUBMIT_AT_ONCE = 64
MANAGERS, WORKERS = 3, 3
SLOW = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 500}', "BULLPEN_LOG_LEVEL": "warning"}


@dataclass(frozen=True)
class Plan:
    jobs: int = 2400
    each: int = 3
    """How often NATS, a Manager and a worker are killed."""
    over_s: float = 45.0
    seed: int = field(default_factory=lambda: random.randrange(10**6))


@dataclass
class Outcome:
    plan: Plan
    counts: Counter[str] = field(default_factory=Counter)
    """Results by job."""
    failed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    submitted_s: float = 0.0
    took_s: float = 0.0
    executions: int = 0
    """Attempts that Managers sent to workers, as far as they were heard: not those while the listener reconnected."""

    @property
    def lost(self) -> int:
        return self.plan.jobs - len(self.counts)

    @property
    def doubled(self) -> int:
        return sum(1 for count in self.counts.values() if count > 1)

    @property
    def is_complete(self) -> bool:
        return not (self.lost or self.doubled or self.failed)

    def __str__(self) -> str:
        return (
            f"{self.plan.jobs} jobs submitted in {self.submitted_s:.1f} s; results {self.counts.total()}, lost "
            f"{self.lost}, doubled {self.doubled}, errors {dict(self.failed)}; all there after {self.took_s:.1f} s; "
            f"{self.executions} attempts heard (seed {self.plan.seed}; faults: {', '.join(self.faults)})"
        )


def main(plan: Plan) -> None:
    """Runs it, prints and writes what came of it; exit code 1 when a job is lost, doubled or failed."""
    with tempfile.TemporaryDirectory() as directory:
        outcome = asyncio.run(run(plan, Path(directory)))
    print(outcome)
    figures = {
        **{name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "submitted_s": round(outcome.submitted_s, 2),
        "results": outcome.counts.total(),
        "lost": outcome.lost,
        "doubled": outcome.doubled,
        "errors": dict(outcome.failed),
        "took_s": round(outcome.took_s, 1),
        "attempts_heard": outcome.executions,
        "faults": outcome.faults,
    }
    limits = [
        "kill -9 of processes, not power cuts: what the system had in memory for the disk survives",
        "one machine, one NATS server, simulated models, no accountant",
        "attempts are those heard: what was sent while our listener reconnected is not counted",
    ]
    print(f"written to {results.write('jobs', figures, does_not_prove=limits)}")
    sys.exit(0 if outcome.is_complete else 1)


async def run(plan: Plan, directory: Path) -> Outcome:
    """One mesh from start to stop."""
    workers = [("simulated", WORKERS)]
    async with Mesh(directory / "mesh", workers=workers, managers=MANAGERS, postgres=False, env=SLOW) as mesh:
        url = mesh.endpoints.nats_url
        listener = await Bus.connect("jobs", BusSettings(servers=(url,)))
        try:
            async with Bullpen.connect(url) as client:
                return await _Chaos(plan, mesh, client, listener).run()
        finally:
            await listener.close()


class _Chaos:
    def __init__(self, plan: Plan, mesh: Mesh, client: Bullpen, listener: Bus) -> None:
        self._plan = plan
        self._mesh = mesh
        self._client = client
        self._listener = listener
        self._outcome = Outcome(plan)
        self._attempts: set[tuple[str, str]] = set()

    async def run(self) -> Outcome:
        await self._listener.subscribe_inline("infer.*.w.*", self._sent)
        await self._client.jobs.ready()
        began = time.monotonic()
        await self._submit()
        self._outcome.submitted_s = time.monotonic() - began
        async with asyncio.TaskGroup() as group:
            group.create_task(self._break_things())
            group.create_task(self._follow())
        self._outcome.took_s = time.monotonic() - began
        await self._audit()
        self._outcome.executions = len(self._attempts)
        return self._outcome

    def _sent(self, message: Message) -> None:
        self._attempts.add((message.headers.get(REQUEST, ""), message.headers.get(ATTEMPT, "")))

    async def _submit(self) -> None:
        numbers = iter(range(self._plan.jobs))

        async def some() -> None:
            for number in numbers:
                await self._client.submit("is every job done?", job_id=f"chaos-{number}")

        await asyncio.gather(*(some() for _ in range(SUBMIT_AT_ONCE)))

    async def _break_things(self) -> None:
        chance = random.Random(self._plan.seed)
        kinds = ["nats", "manager", "worker"] * self._plan.each
        chance.shuffle(kinds)
        for kind in kinds:
            await asyncio.sleep(self._plan.over_s / len(kinds))
            name = {
                "nats": "nats",
                "manager": f"manager-{chance.randint(1, MANAGERS)}",
                "worker": f"worker-simulated-{chance.randint(1, WORKERS)}",
            }[kind]
            if pid := self._mesh.endpoints.pids.get(name):
                os.kill(pid, signal.SIGKILL)
                self._outcome.faults.append(name)

    async def _follow(self) -> None:
        seen: set[str] = set()
        try:
            async with asyncio.timeout(self._plan.over_s + DONE_WITHIN):
                async for result in self._client.jobs.results(follow=True):
                    seen.add(result.job_id)
                    if len(seen) == self._plan.jobs:
                        return
        except TimeoutError:
            print(f"gave up with {len(seen)} results")

    async def _audit(self) -> None:
        await asyncio.sleep(35)  # long enough for a job that somebody may still do for the second time
        async for result in self._client.jobs.results():
            self._outcome.counts[result.job_id] += 1
            if not isinstance(answer := result.answer, InferenceResponse):
                self._outcome.failed[answer.error.code] += 1
