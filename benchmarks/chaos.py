"""Are the books complete? Thousands of answers while the accountant, Postgres and NATS are killed with `kill -9`.

A real mesh (one Manager, two simulated workers, one accountant, each a process) answers at a steady pace; the faults
are spread over that time in a random order, and one of Postgres's keeps it away for long. Every question is asked once
and has a name of its own. When everything has settled, each that was answered must have exactly one row, with its
request id, and exactly one attempt that gave the answer.
"""

import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from pydantic_core import from_json, to_json

from benchmarks import results
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings
from bus.jetstream import api
from contracts import BullpenError
from contracts import subjects as s
from telemetry.stream import CONSUMER
from tests.servers import PostgresServer

ANSWER_WITHIN = 8.0
AT_ONCE = 100
"""Questions that wait for an answer: more would keep a busy machine from ever catching up."""
SETTLED_WITHIN = 120.0
"""Seconds from the last answer to the last row; what a killed accountant held comes again after 15."""
FIRST, LAST = 0.1, 0.9
"""The part of the load's time in which the faults happen."""
QUICK = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 5}', "BULLPEN_SIMULATED__OUTPUT_TOKENS": "32"}
BOOKED = "SELECT task_id, request_id::text FROM responses WHERE task_id LIKE 'chaos-%'"
ATTEMPTS = """
    SELECT request_id::text, count(*) FILTER (WHERE outcome = 'ok')
    FROM attempts
    WHERE task_id LIKE 'chaos-%'
    GROUP BY request_id
"""


@dataclass(frozen=True)
class Plan:
    """How much of everything. Seconds."""

    responses: int = 20_000
    load_s: float = 150.0
    accountant: int = 5
    postgres: int = 3
    nats: int = 3
    away_s: float = 60.0
    """How long Postgres is away once; the other times it is started again at once."""
    seed: int = field(default_factory=lambda: random.randrange(10**6))


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    answered: dict[str, str] = field(default_factory=dict)
    """Request ids by task id."""
    failed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    booked: int = 0
    lost: list[str] = field(default_factory=list)
    """Tasks that were answered and have no row, or another request's."""
    doubled: list[str] = field(default_factory=list)
    """Tasks with more than one row."""
    without_attempt: list[str] = field(default_factory=list)
    """Tasks whose answer was given by no attempt, or by several."""
    dead_letters: int = 0
    settled_after_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        return bool(self.answered) and not (self.lost or self.doubled or self.without_attempt or self.dead_letters)

    def __str__(self) -> str:
        return (
            f"answered {len(self.answered)}, of them booked {self.booked}, lost {len(self.lost)}, "
            f"doubled {len(self.doubled)}, without their attempt {len(self.without_attempt)}; "
            f"dead letters {self.dead_letters}; not answered {dict(self.failed)}; "
            f"settled {self.settled_after_s:.1f} s after the last question (seed {self.plan.seed}; "
            f"faults: {', '.join(self.faults)})"
        )


def main(plan: Plan) -> None:
    """Runs it, prints and writes what came of it; exit code 1 when the books are not complete."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # Postgres runs as somebody else when we are root
        outcome = asyncio.run(run(plan, Path(directory)))
    print(outcome)
    figures = {
        **{name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "answered": len(outcome.answered),
        "booked": outcome.booked,
        "lost": len(outcome.lost),
        "doubled": len(outcome.doubled),
        "without_attempt": len(outcome.without_attempt),
        "dead_letters": outcome.dead_letters,
        "not_answered": dict(outcome.failed),
        "settled_after_s": round(outcome.settled_after_s, 1),
        "faults": outcome.faults,
    }
    limits = [
        "kill -9 of processes, not power cuts: what the system had in memory for the disk survives",
        "the Manager and the workers live: what they had not told yet when killed is the spool's matter",
        "one machine, one NATS server, simulated models",
    ]
    print(f"written to {results.write('chaos', figures, does_not_prove=limits)}")
    sys.exit(0 if outcome.is_complete else 1)


async def run(plan: Plan, directory: Path) -> Outcome:
    """One mesh from start to stop. `directory` must be one that Postgres's own user may enter."""
    (directory / "books").mkdir()
    postgres = PostgresServer(directory / "books")
    await postgres.start()
    try:
        env = {**QUICK, "DATABASE_URL": postgres.url, "BULLPEN_LOG_LEVEL": "warning"}
        async with Mesh(directory / "mesh", workers=[("simulated", 2)], env=env) as mesh:
            bus = await Bus.connect("chaos", BusSettings(servers=(mesh.endpoints.nats_url,)))
            try:
                return await _Chaos(plan, mesh, postgres, bus).run()
            finally:
                await bus.close()
    finally:
        postgres.kill()


class _Chaos:
    def __init__(self, plan: Plan, mesh: Mesh, postgres: PostgresServer, bus: Bus) -> None:
        self._plan = plan
        self._mesh = mesh
        self._postgres = postgres
        self._bus = bus
        self._outcome = Outcome(plan)
        self._began = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> Outcome:
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_all())
            for fault in self._faults():
                group.create_task(fault)
        asked = time.monotonic()
        await self._until_settled()
        self._outcome.settled_after_s = time.monotonic() - asked
        await self._audit()
        return self._outcome

    async def _ask_all(self) -> None:
        """At a steady pace, whatever happens meanwhile, until so many were answered."""
        pace = self._plan.load_s / self._plan.responses
        asked = 0
        asking: set[asyncio.Task[None]] = set()
        while len(self._outcome.answered) + len(asking) < self._plan.responses:
            due = int((time.monotonic() - self._began) / pace) + 1
            room = min(AT_ONCE, self._plan.responses - len(self._outcome.answered)) - len(asking)
            for _ in range(min(due - asked, room)):
                asked += 1
                task = asyncio.create_task(self._ask(f"chaos-{asked}"))
                asking.add(task)
                task.add_done_callback(asking.discard)
            await asyncio.sleep(max(pace, 0.005))
            while asking and len(self._outcome.answered) + len(asking) >= self._plan.responses:
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    async def _ask(self, task_id: str) -> None:
        wanted_for = round(1000 * ANSWER_WITHIN)
        body = to_json({"prompt": "is every answer booked?", "task_id": task_id, "deadline_ms": wanted_for})
        try:
            answer: dict[str, Any] = from_json(
                (await self._bus.request(s.INFER_AUTO, body, timeout=ANSWER_WITHIN)).data
            )
        except (BusError, BullpenError) as error:
            self._outcome.failed[type(error).__name__] += 1
            return
        if "output" in answer:
            self._outcome.answered[task_id] = answer["request_id"]
        else:
            self._outcome.failed[answer["error"]["code"]] += 1

    def _faults(self) -> list[Any]:
        """Each waits for its moment."""
        plan = self._plan
        chance = random.Random(plan.seed)
        kinds = [self._kill_accountant] * plan.accountant + [self._kill_nats] * plan.nats
        kinds += [lambda: self._kill_postgres(0.0)] * max(0, plan.postgres - 1)
        chance.shuffle(kinds)
        if plan.postgres:  # in time for the others to happen while it is away
            kinds.insert(len(kinds) // 3, lambda: self._kill_postgres(plan.away_s))
        step = plan.load_s * (LAST - FIRST) / max(1, len(kinds))
        begin = plan.load_s * FIRST
        return [self._later(begin + step * (place + chance.random() / 2), kind) for place, kind in enumerate(kinds)]

    async def _later(self, seconds: float, fault: Any) -> None:
        await asyncio.sleep(seconds)
        self._outcome.faults.append(f"{await fault()} at {seconds:.1f} s")

    async def _kill_accountant(self) -> str:
        await self._kill("telemetry-1")
        return "accountant"

    async def _kill_nats(self) -> str:
        await self._kill("nats")
        return "nats"

    async def _kill(self, name: str) -> None:
        for _ in range(100):
            pid = self._mesh.endpoints.pids.get(name)  # not there while the last fault is being repaired
            if pid:
                with suppress(ProcessLookupError):  # dead already, and not started again
                    os.kill(pid, signal.SIGKILL)
                    return
            await asyncio.sleep(0.1)

    async def _kill_postgres(self, away_s: float) -> str:
        async with self._one_at_a_time:
            await asyncio.to_thread(self._postgres.kill)
            await asyncio.sleep(away_s)
            await self._postgres.start()
        return f"postgres for {away_s:g} s" if away_s else "postgres"

    async def _until_settled(self) -> None:
        """Nothing is on its way to the books, three times in a row: publishers look again every two seconds."""
        end = time.monotonic() + SETTLED_WITHIN
        quiet = 0
        before = -1
        while quiet < 3 and time.monotonic() < end:
            try:
                told = await api(self._bus, f"CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}", timeout=2)
                state = told["delivered"]["stream_seq"] + told["num_pending"]
                still = told["num_pending"] + told["num_ack_pending"]
            except BusError:
                state, still = -1, 1
            quiet = quiet + 1 if still == 0 and state == before else 0
            before = state
            await asyncio.sleep(1)

    async def _audit(self) -> None:
        connection = await asyncpg.connect(self._postgres.url)
        try:
            booked = [(row[0], row[1]) for row in await connection.fetch(BOOKED)]
            gave = {row[0]: row[1] for row in await connection.fetch(ATTEMPTS)}
            self._outcome.dead_letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
        finally:
            await connection.close()
        answered, rows = self._outcome.answered, set(booked)
        self._outcome.lost = [task for task, request in answered.items() if (task, request) not in rows]
        self._outcome.booked = len(answered) - len(self._outcome.lost)
        self._outcome.doubled = [task for task, count in Counter(task for task, _ in booked).items() if count > 1]
        self._outcome.without_attempt = [task for task, request in answered.items() if gave.get(request, 0) != 1]
