"""How soon a provider is hung up on when its answer is no longer wanted, as the provider sees it.

A Manager and a worker of each kind that asks a provider, as processes; the provider is ours, speaks the documented
protocol and stops in the middle. A stream is asked for on `infer.auto`; then `infer.cancel` is published, and the clock
runs until the provider sees the connection closed. `answered`: until the caller is told `cancelled`.
"""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from contracts import subjects as s
from tests.backends.providers import PROVIDERS, Failure, Provider
from tests.roles import AS_SHIPPED, Roles, roles_on_a_server
from tests.support import eventually

FAILURES = {"before the first token": Failure(mute=True), "between two tokens": Failure(hang_after=2)}
NEAR = 40.0

Json = dict[str, Any]


def main(rounds: int) -> None:
    """Measures, prints, writes `benchmarks/results/cancel.json`."""
    with tempfile.TemporaryDirectory() as directory:
        measured = asyncio.run(_run(Path(directory), rounds))
    print(f"{'backend':<12}{'cancelled':<26}{'closed (ms, median / max)':>28}{'answered (ms, median)':>26}")
    for one in measured:
        closed = f"{one['closed_ms']:.1f} / {one['closed_max_ms']:.1f}"
        print(f"{one['backend']:<12}{one['when']:<26}{closed:>28}{one['answered_ms']:>26.1f}")
    results.write(
        "cancel",
        {"rounds": rounds, "rows": measured},
        does_not_prove=["that a provider stops computing, or billing, when its connection is closed"],
    )


async def _run(folder: Path, rounds: int) -> list[Json]:
    measured: list[Json] = []
    async with roles_on_a_server(folder) as roles:
        roles.manager(**AS_SHIPPED)
        for number, provider_class in enumerate(PROVIDERS.values()):
            async with provider_class() as provider:
                await _join(roles, f"w-{number}", provider)
                measured += [await _measure(roles, provider, when, rounds) for when in FAILURES]
                roles.kill(f"w-{number}")
    return measured


async def _join(roles: Roles, name: str, provider: Provider) -> None:
    prefix = f"BULLPEN_{provider.backend.upper()}__"
    config = {**provider.config(), "health_interval": 60}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    roles.worker(name, provider.backend, **{f"{prefix}{key.upper()}": value for key, value in told.items()})
    await roles.ready(within=NEAR)


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
