"""How soon a provider is hung up on when its answer is no longer wanted, as the provider sees it.

A Manager and a worker of each kind that asks a provider, as processes; the provider is ours, speaks the documented
protocol and stops in the middle. A stream is asked for on `infer.auto`; then `infer.cancel` is published, and the clock
runs until the provider sees the connection closed. `answered`: until the caller is told `cancelled`. Or it is asked for
over HTTP, at a gateway that is another process, and the client closes its connection: it is told nothing. A worker of
OpenAI's API is asked so in every dialect, streamed and not.
"""

import asyncio
import json
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import results
from contracts import subjects as s
from tests.backends.providers import PROVIDERS, Failure, Provider
from tests.gateway import DOORS
from tests.roles import AS_SHIPPED, Roles, roles_on_a_server
from tests.servers import free_port
from tests.support import eventually

FAILURES = {"before the first token": Failure(mute=True), "between two tokens": Failure(hang_after=2)}
CHAT = "/v1/chat/completions"
IN_EVERY_DIALECT = "openai"
"""The backend that is asked at every door; the others are at one."""
NEAR = 40.0

Json = dict[str, Any]


def main(rounds: int) -> None:
    """Measures, prints, writes `benchmarks/results/cancel.json`."""
    with tempfile.TemporaryDirectory() as directory:
        measured = asyncio.run(_run(Path(directory), rounds))
    print(f"{'backend':<12}{'cancelled':<40}{'closed (ms, median / max)':>28}{'answered (ms, median)':>26}")
    for one in measured:
        closed = f"{one['closed_ms']:.1f} / {one['closed_max_ms']:.1f}"
        answered = f"{one['answered_ms']:.1f}" if "answered_ms" in one else "–"
        print(f"{one['backend']:<12}{one['when']:<40}{closed:>28}{answered:>26}")
    results.write(
        "cancel",
        {"rounds": rounds, "rows": measured},
        does_not_prove=["that a provider stops computing, or billing, when its connection is closed"],
    )


async def _run(folder: Path, rounds: int) -> list[Json]:
    measured: list[Json] = []
    async with roles_on_a_server(folder) as roles:
        roles.manager(**AS_SHIPPED)
        url = await started_gateway(roles)
        for number, provider_class in enumerate(PROVIDERS.values()):
            async with provider_class() as provider:
                await _join(roles, f"w-{number}", provider)
                measured += [await _measure(roles, provider, when, rounds) for when in FAILURES]
                for path in DOORS if provider.backend == IN_EVERY_DIALECT else (CHAT,):
                    for stream in (True, False):
                        measured.append(await _measure_leaving(url, provider, path, rounds, stream=stream))
                roles.kill(f"w-{number}")
    return measured


async def _join(roles: Roles, name: str, provider: Provider) -> None:
    prefix = f"BULLPEN_{provider.backend.upper()}__"
    config = {**provider.config(), "health_interval": 60}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    roles.worker(name, provider.backend, **{f"{prefix}{key.upper()}": value for key, value in told.items()})
    await roles.ready(within=NEAR)


async def started_gateway(roles: Roles, **env: str) -> str:
    """Starts one; returns where it listens, when it does."""
    url = f"http://127.0.0.1:{free_port()}"
    roles.gateway(**{"BULLPEN_GATEWAY__LISTEN": url.removeprefix("http://"), "BULLPEN_GATEWAY__KEYS": "off", **env})

    async def is_ready() -> bool:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
            return answer.status == 200

    async def listens() -> bool:
        with suppress(aiohttp.ClientError):
            return await is_ready()
        return False

    await eventually(listens, timeout=NEAR)
    return url


async def _measure_leaving(url: str, provider: Provider, path: str, rounds: int, *, stream: bool) -> Json:
    provider.failure = Failure(mute=True)
    question = {"model": "auto", "stream": stream, **DOORS[path]}
    if path == CHAT:
        question["backend"] = provider.backend
    closed = [await _leave(url + path, question, provider) for _ in range(rounds)]
    told = {"closed_ms": statistics.median(closed), "closed_max_ms": max(closed)}
    return {"backend": provider.backend, "when": f"left {path}{', streamed' if stream else ''}", **told}


async def _leave(url: str, question: Json, provider: Provider) -> float:
    """Milliseconds from the end of an HTTP client's connection until the provider saw its own closed."""
    provider.closed.clear()
    before = len(provider.received)
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(session.post(url, json=question).__aenter__())
        await eventually(lambda: len(provider.received) > before, timeout=NEAR, every=0.005)
        began = time.monotonic()
        asking.cancel()
        await asyncio.wait([asking])
    await asyncio.wait_for(provider.closed.wait(), NEAR)
    return (time.monotonic() - began) * 1000


async def _measure(roles: Roles, provider: Provider, when: str, rounds: int) -> Json:
    provider.failure = FAILURES[when]
    taken = [await _cancel(roles, provider, f"{provider.backend}-{when[0]}-{number}") for number in range(rounds)]
    closed, answered = [closed for closed, _ in taken], [answered for _, answered in taken]
    return {
        "backend": provider.backend,
        "when": when,
        "closed_ms": statistics.median(closed),
        "closed_max_ms": max(closed),
        "answered_ms": statistics.median(answered),
    }


async def _cancel(roles: Roles, provider: Provider, task_id: str) -> tuple[float, float]:
    """Milliseconds from the cancel: until the provider saw the connection closed, and until the caller was told."""
    provider.closed.clear()
    before = len(provider.received)
    question = await roles.ask(task_id=task_id, stream=True, backend=provider.backend)
    await eventually(lambda: len(provider.received) > before and (provider.failure.mute or question.heard))
    began = time.monotonic()
    await roles.bus.publish(s.INFER_CANCEL, json.dumps({"task_id": task_id}).encode())
    await asyncio.wait_for(provider.closed.wait(), NEAR)
    closed = time.monotonic() - began
    await roles.answered([question])
    assert question.code == "cancelled", question.finals
    return closed * 1000, (question.asked + question.took - began) * 1000
