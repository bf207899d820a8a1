"""Clients that hold streams and never go: what a thousand idle ones cost the gateway, and whether others are served.

Everything is a real process on loopback. First streams whose worker says a few words and then nothing: the gateway's
memory with and without them, and how long short questions of others take meanwhile. Then clients that never read, while
their worker writes as fast as it can: how much the gateway holds for them, and how soon they are cut off.
"""

import asyncio
import json
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import uvloop

from benchmarks import results, rivals, upstream
from bullpen.supervision.mesh import Mesh

ASKED = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}]}
IDLE = {
    "BULLPEN_SIMULATED__LATENCY_MS": '{"fixed": 0}',
    "BULLPEN_SIMULATED__HANG_AFTER_TOKENS": "5",
    "BULLPEN_SIMULATED__NEXT_TOKEN_TIMEOUT": "600",
}
FLOOD = {"BULLPEN_GATEWAY__SLOW_READER_TIMEOUT": "5"}
OTHERS = 100
"""Short questions, one after the other."""
WITHIN = 120.0
SMALLEST_BUFFER = 4096
MB = 1 << 20

Json = dict[str, float]


def main(streams: int, never_reading: int) -> None:
    """Measures, prints, writes `benchmarks/results/held-streams.json`."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        idle = uvloop.run(_idle(Path(one), streams))
        unread = uvloop.run(_unread(Path(other), never_reading))
    for title, row in ((f"{streams} idle streams", idle), (f"{never_reading} that never read", unread)):
        print(f"{title}: " + ", ".join(f"{name} {value:g}" for name, value in row.items()))
    told = {"streams": streams, "idle": idle, "never_reading": never_reading, "unread": unread}
    limits = ["clients and gateway share this one machine's processors, and loopback's large buffers"]
    print(f"written to {results.write('held-streams', told, does_not_prove=limits)}")


@asynccontextmanager
async def _mesh(folder: Path, streams: int, env: dict[str, str]) -> AsyncIterator[tuple[str, psutil.Process]]:
    """Where its gateway listens, and the gateway's process."""
    most = {"BULLPEN_SIMULATED__MAX_CONCURRENCY": str(streams + 100), "BULLPEN_LOG_LEVEL": "error"}
    backend = "openai" if "OPENAI_API_KEY" in env else "simulated"
    async with Mesh(folder, workers=[(backend, 1)], postgres=False, http=True, env={**env, **most}) as mesh:
        yield mesh.endpoints.http_url or "", psutil.Process(mesh.pid("gateway-1"))


async def _idle(folder: Path, streams: int) -> Json:
    async with _mesh(folder, streams, IDLE) as (url, gateway):
        before = await _others(url)
        empty = gateway.memory_info().rss
        readers = await asyncio.gather(*(_open(url) for _ in range(streams)))
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*(_first_word(reader) for reader, _ in readers))
        held, spent, began = gateway.memory_info().rss, _cpu(gateway), time.monotonic()
        meanwhile = await _others(url)
        cpu = (_cpu(gateway) - spent) / (time.monotonic() - began)
        for _, writer in readers:
            writer.close()
        await asyncio.sleep(2)
        return {
            "empty_mb": round(empty / MB, 1),
            "held_mb": round(held / MB, 1),
            "kb_per_stream": round((held - empty) / streams / 1024, 1),
            "left_mb": round(gateway.memory_info().rss / MB, 1),
            "others_before_ms": before,
            "others_meanwhile_ms": meanwhile,
            "cpu_share_meanwhile": round(cpu, 3),
        }


async def _unread(folder: Path, clients: int) -> Json:
    async with (
        rivals.upstream() as server,
        _mesh(folder, clients, FLOOD | rivals.worker(server)) as (url, gateway),
    ):
        await _others(url)
        empty, began, most = gateway.memory_info().rss, time.monotonic(), 0
        held = [await asyncio.to_thread(_never_reading, url) for _ in range(clients)]
        asking, cut = asyncio.create_task(_others(url)), 0.0
        while cut < clients and time.monotonic() - began < WITHIN:
            most = max(most, gateway.memory_info().rss)
            cut = await _figure(url, "http_slow_readers_total")
            await asyncio.sleep(0.2)
        took = time.monotonic() - began
        meanwhile = await asking
        for one in held:
            one.close()
        return {
            "empty_mb": round(empty / MB, 1),
            "most_mb": round(most / MB, 1),
            "cut": cut,
            "all_cut_after_s": round(took, 1),
            "others_meanwhile_ms": meanwhile,
        }


async def _open(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(_request())
    return reader, writer


async def _first_word(reader: asyncio.StreamReader) -> None:
    while b'"content":"' not in (line := await reader.readline()) or b'"content":""' in line:
        assert line, "the stream ended"


def _never_reading(url: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALLEST_BUFFER)
    host, port = url.removeprefix("http://").split(":")
    client.connect((host, int(port)))
    client.sendall(_request(max_tokens=upstream.FLOOD))
    return client


def _request(**more: int) -> bytes:
    body = json.dumps({**ASKED, "stream": True, **more}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def _others(url: str) -> float:
    """Milliseconds for a short question, the median. One that is refused is named: it is none that was served."""
    taken: list[float] = []
    refused: Counter[str] = Counter()
    async with aiohttp.ClientSession() as session:
        for _ in range(OTHERS):
            began = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json={**ASKED, "max_tokens": 3}) as answer:
                told = await answer.text()
            if answer.status == 200:
                taken.append((time.perf_counter() - began) * 1000)
            else:
                refused[told] += 1
    for told, count in refused.items():
        print(f"{count} of {OTHERS} short questions were refused: {told}")
    return round(statistics.median(taken), 2) if taken else float("nan")


async def _figure(url: str, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if name in line and not line.startswith("#"))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
