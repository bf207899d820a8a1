"""What a request, a piece, a job and a heartbeat cost each role, in microseconds of processor time.

Throughput on a shared machine is noise; the user and system time that a process takes for so many requests is not.
Everything is a real process on loopback, with books and explanation on: one NATS server, one Manager, one simulated
worker that answers at once, a gateway, and a bare relay and echo (nats-py) as the yardstick of the same run. Each path
is measured in turn, several rounds, 64 requests at a time; figures are medians of the rounds. Streams have a mesh of
their own, whose worker speaks at a steady pace, and so have booked rows, with telemetry and Postgres.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
import uvloop

from benchmarks import results
from benchmarks.overhead import started
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings, Message
from bus.jetstream import StreamSpec, ensure_stream
from client import Bullpen
from contracts import Heartbeat
from contracts import subjects as s

AT_ONCE = 64
WORDS = 100
"""Pieces of one stream."""
PROMPT = "What is the capital of France?"
BODY = json.dumps({"prompt": PROMPT, "temperature": 0.2}).encode()
STREAM = json.dumps({"prompt": PROMPT, "stream": True, "max_tokens": WORDS}).encode()
CHAT = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}
CHAT_STREAM = {**CHAT, "stream": True, "max_tokens": WORDS}
ENV = {"BULLPEN_SIMULATED__MAX_CONCURRENCY": "256", "BULLPEN_LOG_LEVEL": "error"}
AT_ONCE_ENV = {**ENV, "BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 0}', "BULLPEN_SIMULATED__OUTPUT_TOKENS": "8"}
PACED_ENV = {**ENV, "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "40", "BULLPEN_SIMULATED__OUTPUT_TOKENS": f"{WORDS}"}
"""So slow that pieces do not wait for each other: a busy Manager joins those that do."""
PARTS = ("requests", "streams", "books")
WORKERS_HEARD = 1000
READY_WITHIN = 60.0
ROLES = {"manager": "manager-1", "worker": "worker-simulated-1", "nats": "nats", "gateway": "gateway-1"}
BOOKS = {"telemetry": "telemetry-1", "nats": "nats", "postgres": "postgres"}
BUDGETS = {
    ("infer.auto", "manager"): 220,
    ("infer.auto", "worker"): 130,
    ("infer.auto", "nats"): 110,
    ("piece", "manager"): 35,
    ("http", "gateway"): 250,
    ("http piece", "gateway"): 30,
    ("heartbeat", "manager"): 15,
    ("booked row", "telemetry"): 40,
}
"""Microseconds, as the design has them."""


@dataclass
class Figures:
    """What one path took. Microseconds per unit of it, by role, a value per round."""

    micros: dict[str, list[float]] = field(default_factory=dict)
    per_s: list[float] = field(default_factory=list)
    """Units per second of the wall clock: noise on a shared machine, but comparable within one run."""

    def add(self, seconds: dict[str, float], took: float, units: int) -> None:
        for role, spent in seconds.items():
            self.micros.setdefault(role, []).append(spent / units * 1e6)
        self.per_s.append(units / took)

    def row(self) -> dict[str, float]:
        """Medians."""
        micros = {f"{role}_us": round(statistics.median(values), 1) for role, values in self.micros.items()}
        return {**micros, "per_s": round(statistics.median(self.per_s))}


@dataclass(frozen=True)
class Way:
    """One way through the mesh. `run` does so many units and returns how many there were."""

    name: str
    about: str
    run: Callable[[int], Awaitable[int]]
    units: int


class Meter:
    """The processor time of the roles, and of this process as the client."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()} | {"client": psutil.Process()}

    async def measure(self, path: Way, figures: Figures) -> None:
        """Runs the path once and adds what it took."""
        before, began = self.read(), asyncio.get_running_loop().time()
        units = await path.run(path.units)
        took = asyncio.get_running_loop().time() - began
        await asyncio.sleep(0.3)  # the last events for the books leave
        after = self.read()
        figures.add({name: after[name] - before[name] for name in after}, took, units)

    def read(self) -> dict[str, float]:
        """Seconds of user and system time so far."""
        return {name: _seconds(process) for name, process in self._processes.items()}


def _seconds(process: psutil.Process) -> float:
    """User and system time of a process and of those it has started."""
    total = 0.0
    for one in (process, *process.children(recursive=True)) if process.pid != psutil.Process().pid else (process,):
        times = one.cpu_times()
        total += float(times.user + times.system)
    return total


class Load:
    """The client of all paths: one connection to NATS, and one HTTP session."""

    def __init__(self, bus: Bus, http: aiohttp.ClientSession, url: str) -> None:
        self.bus = bus
        self._http = http
        self._url = f"{url}/v1/chat/completions"

    def paths(self, requests: int) -> list[Way]:
        """Those of a worker that answers at once."""
        few = max(AT_ONCE, requests // 10)
        return [
            Way("infer.auto", "the Manager picks a worker", self.asking(s.INFER_AUTO), requests),
            Way("infer.simulated", "a worker asked directly", self.asking("infer.simulated"), requests),
            Way("job", "a durable request, to its result", self._jobs, few),
            Way("http", "an OpenAI chat request", self._chatting, requests // 2),
            Way("heartbeat", f"of {WORKERS_HEARD} workers", self._heartbeats, 5),
            Way("bare.relay", "nats-py relay to the echo", self.asking("bare.relay"), requests),
        ]

    def streams(self) -> list[Way]:
        """Those of a worker that speaks at a steady pace."""
        return [
            Way("piece", "one piece of a stream of 100", self._streaming, 2 * AT_ONCE),
            Way("http piece", "one SSE piece of a stream of 100", self._chat_streams, 2 * AT_ONCE),
        ]

    async def ready(self, subject: str) -> None:
        """Returns when somebody answers there."""
        async with asyncio.timeout(READY_WITHIN):
            while True:
                try:
                    if b'"output"' in (await self.bus.request(subject, BODY, timeout=5)).data:
                        return
                except BusError:
                    await asyncio.sleep(0.1)

    def asking(self, subject: str, body: bytes = BODY) -> Callable[[int], Awaitable[int]]:
        """Asks there so many times, 64 at a time."""
        return lambda count: many(count, lambda: self.ask(subject, body))

    async def ask(self, subject: str, body: bytes = BODY) -> int:
        """One request."""
        reply = await self.bus.request(subject, body, timeout=60)
        assert b'"output"' in reply.data, reply.data
        return 1

    async def _streaming(self, count: int) -> int:
        return await many(count, self._read_stream)

    async def _read_stream(self) -> int:
        """Pieces."""
        ended, pieces = asyncio.Event(), 0

        def heard(message: Message) -> None:
            nonlocal pieces
            pieces += 1
            if not message.data:
                ended.set()

        with self.bus.listen(heard) as inbox:
            await self.bus.publish(s.INFER_AUTO, STREAM, reply=inbox.subject)
            async with asyncio.timeout(60):
                await ended.wait()
        return pieces - 2

    async def _jobs(self, count: int) -> int:
        bullpen = Bullpen(self.bus)

        async def job() -> int:
            await bullpen.result(await bullpen.submit(PROMPT), 60)
            return 1

        return await many(count, job)

    async def _chatting(self, count: int) -> int:
        async def chat() -> int:
            async with self._http.post(self._url, json=CHAT) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            return 1

        return await many(count, chat)

    async def _chat_streams(self, count: int) -> int:
        async def read() -> int:
            pieces = 0
            async with self._http.post(self._url, json=CHAT_STREAM) as answer:
                async for line in answer.content:
                    pieces += line.startswith(b"data: {")
            return pieces

        return await many(count, read)

    async def _heartbeats(self, rounds: int) -> int:
        """So many rounds of all of them, paced: they arrive as heartbeats do, not as one block."""
        heard = await Bullpen(self.bus).workers(1.5)
        like = next(beat for beat in heard if beat.backend == "simulated")
        for seq in range(1, rounds + 1):
            await self._beat(like.model_copy(update={"state": "draining", "seq": like.seq + seq}))
            await asyncio.sleep(0.5)
        await self._beat(like.model_copy(update={"state": "stopped", "seq": like.seq + rounds + 1}))
        return rounds * WORKERS_HEARD

    async def _beat(self, beat: Heartbeat) -> None:
        """All of them once. They drain: a Manager knows them, and asks none of them."""
        for number in range(WORKERS_HEARD):
            worker_id = f"heard-{number}"
            body = beat.model_copy(update={"worker_id": worker_id}).to_bytes()
            await self.bus.publish(s.worker_heartbeat("simulated", worker_id), body)


async def many(count: int, one: Callable[[], Awaitable[int]]) -> int:
    """`one` so many times, 64 at a time. Returns the units of all of them."""
    left, units = iter(range(count)), 0

    async def some() -> None:
        nonlocal units
        for _ in left:
            done = await one()
            units += done

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return units


@asynccontextmanager
async def opened(mesh: Mesh, *, with_books: bool = False) -> AsyncIterator[Load]:
    bus = await Bus.connect("benchmark", BusSettings(servers=(mesh.endpoints.nats_url,)))
    if not with_books:  # nobody else makes the stream that events go to
        await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        yield Load(bus, http, mesh.endpoints.http_url or "")
    await bus.close()


async def rounds_of(meter: Meter, ways: list[Way], rounds: int) -> dict[str, Figures]:
    figures = {way.name: Figures() for way in ways}
    for way in ways:
        await way.run(way.units // 4 or 1)
    for _ in range(rounds):
        for way in ways:
            await meter.measure(way, figures[way.name])
    return figures


async def _requests(folder: Path, rounds: int, requests: int) -> dict[str, Figures]:
    async with AsyncExitStack() as stack:
        mesh = Mesh(folder, workers=[("simulated", 1)], postgres=False, http=True, env=AT_ONCE_ENV)
        await stack.enter_async_context(mesh)
        bare = {
            role: stack.enter_context(
                started([sys.executable, "-m", "benchmarks.bare", role], mesh.endpoints.nats_url)
            ).pid
            for role in ("echo", "relay")
        }
        load = await stack.enter_async_context(opened(mesh))
        for subject in (s.INFER_AUTO, "infer.simulated", "bare.relay"):
            await load.ready(subject)
        meter = Meter({name: mesh.pid(place) for name, place in ROLES.items()} | bare)
        return await rounds_of(meter, load.paths(requests), rounds)


async def _streams(folder: Path, rounds: int) -> dict[str, Figures]:
    mesh = Mesh(folder, workers=[("simulated", 1)], postgres=False, http=True, env=PACED_ENV)
    async with mesh, opened(mesh) as load:
        await load.ready(s.INFER_AUTO)
        meter = Meter({name: mesh.pid(place) for name, place in ROLES.items()})
        return await rounds_of(meter, load.streams(), rounds)


async def _rows(folder: Path, rounds: int, requests: int) -> dict[str, Figures]:
    """What is booked of a request is two rows: its own, and its attempt's."""
    async with Mesh(folder, workers=[("simulated", 1)], env=AT_ONCE_ENV) as mesh, opened(mesh, with_books=True) as load:
        await load.ready(s.INFER_AUTO)
        asking = load.paths(requests)[0]

        async def book(count: int) -> int:
            rows = 2 * await asking.run(count)
            await asyncio.sleep(2)  # the last of them are written
            return rows

        meter = Meter({name: mesh.pid(place) for name, place in BOOKS.items()})
        return await rounds_of(meter, [Way("booked row", "in Postgres", book, requests)], rounds)


def starting() -> dict[str, dict[str, float]]:
    """Seconds of processor time to import each role as its process does, the logs first, and MB that it then holds."""
    code = (
        "import bullpen.logs, {}, psutil; p = psutil.Process(); t = p.cpu_times(); "
        "print(t.user + t.system, p.memory_info().rss)"
    )
    told: dict[str, dict[str, float]] = {}
    for role in ("manager.manager", "workers.base", "telemetry.service", "gateway.gateway", "bullpen.cli"):
        best = min(_imported(code.format(role)) for _ in range(3))
        told[role.partition(".")[0]] = {"import_s": round(best[0], 2), "mb": round(best[1] / 1e6, 1)}
    return told


def _imported(code: str) -> tuple[float, float]:
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return float(told[0]), float(told[1])


async def measure(rounds: int, requests: int, parts: Sequence[str] = PARTS) -> dict[str, dict[str, float]]:
    """Medians by way: µs of processor time per unit of each role, and units per second."""
    measured: dict[str, Figures] = {}
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            match part:
                case "requests":
                    measured |= await _requests(Path(folder), rounds, requests)
                case "streams":
                    measured |= await _streams(Path(folder), rounds)
                case "books":
                    measured |= await _rows(Path(folder), rounds, requests)
                case _:
                    sys.exit(f"no part {part!r}: there are {', '.join(PARTS)}")
    return {name: one.row() for name, one in measured.items()}


def main(rounds: int, requests: int, only: str) -> None:
    """Measures, prints a table, writes `benchmarks/results/cost.json`."""
    rows = uvloop.run(measure(rounds, requests, only.split(",") if only else list(PARTS)))
    roles = sorted({name for row in rows.values() for name in row if name.endswith("_us")})
    print(f"µs of processor time per unit, medians of {rounds} rounds; * above its budget")
    print(f"{'':<18}" + "".join(f"{role.removesuffix('_us'):>12}" for role in roles) + f"{'per s':>10}")
    for name, row in rows.items():
        shown = "".join(f"{_cell(name, role, row):>12}" for role in roles)
        print(f"{name:<18}{shown}{row['per_s']:>10}")
    limits = [
        "all processes share the processors of this one machine: rates are comparable within this run only",
        "a worker that answers at once, one short prompt, loopback, no TLS",
    ]
    told = {"paths": rows, "starting": starting(), "budgets_us": {"/".join(at): us for at, us in BUDGETS.items()}}
    print(json.dumps(told["starting"]))
    print(f"written to {results.write('cost', told, does_not_prove=limits)}")


def _cell(path: str, role: str, row: dict[str, float]) -> str:
    if role not in row:
        return ""
    budget = BUDGETS.get((path, role.removesuffix("_us")))
    return f"{row[role]:.0f}{'*' if budget is not None and row[role] > budget else ''}"
