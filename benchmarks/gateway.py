"""What the gateway adds to a request: HTTP against the NATS client, and against other gateways (`--against`).

Everything is a real process on loopback. First a Manager and a simulated worker that answers at once: the same question
asked on `infer.auto` and over HTTP, whole and streamed, in turn, several rounds; and streams of words at a steady pace,
many at once. Then, if asked for, this mesh and the rivals, each before the same OpenAI-shaped server, and that server
itself as the floor. Figures are medians of the rounds of one run. `cpu`: processor time of the gateway's process, or of
all the processes of a rival (of this mesh: NATS, Manager, worker and gateway).
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
import psutil
import uvloop

from benchmarks import results, rivals
from benchmarks.cost import READY_WITHIN
from benchmarks.upstream import PACE
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings, Message
from bus.jetstream import StreamSpec, ensure_stream
from contracts import subjects as s

PROMPT = [{"role": "user", "content": "What is the capital of France?"}]
SHORT, LONG = 8, 100
"""Tokens of an answer that comes at once, and of one that comes at a steady pace."""
AT_ONCE = 64
WITHIN = 60.0
ENV = {
    "BULLPEN_SIMULATED__MAX_CONCURRENCY": "256",
    "BULLPEN_SIMULATED__OUTPUT_TOKENS": str(LONG),
    "BULLPEN_LOG_LEVEL": "error",
}
QUICK = {"BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 0}'}
PACED = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": f"{PACE:g}"}
COLUMNS = {
    "whole_ms": "whole",
    "first_byte_ms": "first byte",
    "first_token_ms": "first token",
    "requests_per_s": "req/s",
    "pieces_per_s": "pieces/s",
    "cpu_us_per_request": "cpu µs/req",
    "cpu_us_per_piece": "cpu µs/piece",
}


@dataclass(slots=True)
class Seen:
    """One stream, as its reader saw it. Seconds from the question."""

    first_byte: float = 0.0
    first_token: float = 0.0
    pieces: int = 0


class Way(Protocol):
    """One way to ask a model."""

    name: str

    async def whole(self) -> None:
        """Asks one question, and reads the answer."""
        ...

    async def stream(self, tokens: int) -> Seen: ...


class Nats:
    name = "NATS client"

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def whole(self) -> None:
        reply = await self._bus.request(s.INFER_AUTO, _body(max_tokens=SHORT), timeout=WITHIN)
        assert b'"output"' in reply.data, reply.data

    async def stream(self, tokens: int) -> Seen:
        seen, ended, began = Seen(), asyncio.Event(), time.perf_counter()

        def heard(message: Message) -> None:
            now = time.perf_counter() - began
            seen.first_byte = seen.first_byte or now
            if b'"delta"' in message.data:
                seen.first_token = seen.first_token or now
                seen.pieces += 1
            if not message.data:
                ended.set()

        with self._bus.listen(heard) as inbox:
            await self._bus.publish(s.INFER_AUTO, _body(max_tokens=tokens, stream=True), reply=inbox.subject)
            async with asyncio.timeout(WITHIN):
                await ended.wait()
        return seen


class Http:
    def __init__(self, name: str, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self.name = name
        self._session = session
        self._url = f"{url}/v1/chat/completions"
        self._model = model

    async def whole(self) -> None:
        body = _body(model=self._model, max_tokens=SHORT)
        async with self._session.post(self._url, data=body, headers=JSON) as answer:
            told = await answer.read()
            assert answer.status == 200 and b'"content"' in told, told

    async def stream(self, tokens: int) -> Seen:
        seen, began = Seen(), time.perf_counter()
        body = _body(model=self._model, max_tokens=tokens, stream=True)
        async with self._session.post(self._url, data=body, headers=JSON) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                now = time.perf_counter() - began
                seen.first_byte = seen.first_byte or now
                told = line.replace(b'": ', b'":')
                if b'"content":"' in told and b'"content":""' not in told:
                    seen.first_token = seen.first_token or now
                    seen.pieces += 1
        return seen


JSON = {"Content-Type": "application/json"}


def _body(**fields: object) -> bytes:
    return json.dumps({"messages": PROMPT, "temperature": 0.2, **fields}).encode()


@dataclass(slots=True)
class Figures:
    """Of one way, a value per round."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **figures: float) -> None:
        for name, value in figures.items():
            self.rounds.setdefault(name, []).append(value)

    def row(self) -> dict[str, float]:
        """Medians."""
        return {name: round(statistics.median(values), 2) for name, values in self.rounds.items()}


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    requests: int
    """One after the other, per way and round; as many times four 64 at a time."""


Measured = dict[str, Figures]
Ways = Sequence[tuple[Way, Sequence[int]]]
"""Each with the processes whose processor time is counted."""


async def _measure(ways: Ways, plan: Plan, *parts: "Part") -> Measured:
    """In turn, so that all have the same weather."""
    figures = {way.name: Figures() for way, _ in ways}
    for way, _ in ways:
        await _many(way.whole, plan.requests, AT_ONCE)
    for _ in range(plan.rounds):
        for way, pids in ways:
            for part in parts:
                await part(way, [psutil.Process(pid) for pid in pids], plan, figures[way.name])
    return figures


async def _questions(way: Way, processes: Sequence[psutil.Process], plan: Plan, figures: Figures) -> None:
    """Answers that come at once."""
    taken = [await _took(way.whole) for _ in range(plan.requests)]
    seen = [await way.stream(SHORT) for _ in range(plan.requests // 2)]
    figures.add(
        whole_ms=statistics.median(taken) * 1000,
        first_byte_ms=statistics.median(one.first_byte for one in seen) * 1000,
        first_token_ms=statistics.median(one.first_token for one in seen) * 1000,
    )
    spent, began, count = _cpu(processes), time.perf_counter(), plan.requests * 4
    await _many(way.whole, count, AT_ONCE)
    figures.add(requests_per_s=count / (time.perf_counter() - began))
    if processes:
        figures.add(cpu_us_per_request=(_cpu(processes) - spent) / count * 1e6)


async def _pieces(way: Way, processes: Sequence[psutil.Process], plan: Plan, figures: Figures) -> None:
    """Streams at a steady pace: as many pieces a second as are offered, unless somebody cannot follow."""
    pieces, spent, began = 0, _cpu(processes), time.perf_counter()

    async def read() -> None:
        nonlocal pieces
        seen = await way.stream(LONG)
        pieces += seen.pieces

    await _many(read, AT_ONCE, AT_ONCE)
    figures.add(pieces_per_s=pieces / (time.perf_counter() - began))
    if processes:
        figures.add(cpu_us_per_piece=(_cpu(processes) - spent) / pieces * 1e6)


Part = Callable[[Way, Sequence[psutil.Process], Plan, Figures], Awaitable[None]]


async def _took(one: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await one()
    return time.perf_counter() - began


async def _many(one: Callable[[], Awaitable[None]], count: int, at_once: int) -> None:
    left = iter(range(count))

    async def some() -> None:
        for _ in left:
            await one()

    await asyncio.gather(*(some() for _ in range(at_once)))


def _cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of user and system time of these processes, and of those that they have started."""
    total = 0.0
    for process in processes:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += float(times.user + times.system)
    return total


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


async def _alone(folder: Path, env: dict[str, str], plan: Plan, part: Part) -> Measured:
    """HTTP against NATS."""
    async with (
        Mesh(folder, workers=[("simulated", 1)], postgres=False, http=True, env={**ENV, **env}) as mesh,
        session() as http,
    ):
        bus = await Bus.connect("benchmark", BusSettings(servers=(mesh.endpoints.nats_url,)))
        await ensure_stream(bus, StreamSpec(s.TELEMETRY_STREAM, (s.TELEMETRY_ANY,)))
        nats, door = Nats(bus), Http("gateway", http, mesh.endpoints.http_url or "", "auto")
        await _ready(nats)
        await _ready(door)
        measured = await _measure([(nats, ()), (door, [mesh.pid("gateway-1")])], plan, part)
        await bus.close()
    return measured


async def _ready(way: Way) -> None:
    end = time.monotonic() + READY_WITHIN
    while True:
        try:
            return await way.whole()
        except (AssertionError, BusError, aiohttp.ClientError) as error:
            if time.monotonic() > end:
                sys.exit(f"{way.name} does not answer: {error}")
            await asyncio.sleep(0.2)


async def _against(folder: Path, names: Sequence[str], plan: Plan) -> Measured:
    """This mesh and the rivals, before the same server."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(rivals.upstream())
        http = await stack.enter_async_context(session())
        mesh = Mesh(folder, workers=[("openai", 1)], postgres=False, http=True, env={**ENV, **rivals.worker(upstream)})
        await stack.enter_async_context(mesh)
        ours = [mesh.pid(name) for name in ("nats", "manager-1", "worker-openai-1", "gateway-1")]
        ways: list[tuple[Way, Sequence[int]]] = [
            (Http("the server itself", http, upstream, rivals.MODEL), ()),
            (Http("bullpen", http, mesh.endpoints.http_url or "", rivals.MODEL), ours),
        ]
        for name in names:
            url, pid = await stack.enter_async_context(rivals.started(name, upstream, folder))
            ways.append((Http(name, http, url, rivals.MODEL), [pid]))
        for way, _ in ways:
            await _ready(way)
        return await _measure(ways, plan, _questions, _pieces)


async def against_rivals(names: Sequence[str], plan: Plan) -> dict[str, dict[str, float]]:
    """Medians by way: the server itself, this mesh and the rivals, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        measured = await _against(Path(folder), names, plan)
    return {name: figures.row() for name, figures in measured.items()}


def main(rounds: int, requests: int, against: str) -> None:
    """Measures, prints tables, writes `benchmarks/results/gateway.json`."""
    plan, names = Plan(rounds, requests), rivals.asked_for(against)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        quick = uvloop.run(_alone(Path(one), QUICK, plan, _questions))
        paced = uvloop.run(_alone(Path(other), PACED, plan, _pieces))
    rows = {name: {**quick[name].row(), **paced[name].row()} for name in quick}
    added = {name: round(rows["gateway"][name] - rows["NATS client"][name], 2) for name in TIMES}
    told: dict[str, object] = {"ways": rows, "added": added}
    print(f"medians of {rounds} rounds of {requests} requests; {AT_ONCE} at a time")
    _show({**rows, "added": added})
    if names:
        told["against"] = compared = uvloop.run(against_rivals(names, plan))
        told["versions"] = {name: rivals.version(name) for name in names}
        print(f"\nbefore the same server that answers at once; versions: {told['versions']}")
        _show(compared)
    limits = [
        "all processes share the processors of this one machine: rates are comparable within this run only",
        "an answer that takes no time, one short prompt, loopback, no TLS, no keys",
        "rivals as they come, one process each, without books, budgets or failover: they do less per request",
    ]
    print(f"written to {results.write('gateway', told, does_not_prove=limits)}")


TIMES = ("whole_ms", "first_byte_ms", "first_token_ms")


def _show(rows: dict[str, dict[str, float]]) -> None:
    print(f"{'':<20}" + "".join(f"{title:>14}" for title in COLUMNS.values()))
    for name, row in rows.items():
        cells = [
            f"{row[column]:.2f}" if column in TIMES else f"{row[column]:.0f}" if column in row else "–"
            for column in COLUMNS
        ]
        print(f"{name:<20}" + "".join(f"{cell:>14}" for cell in cells))
