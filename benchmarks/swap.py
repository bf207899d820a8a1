"""How long a swap of a real model takes, and whether anything is lost: a local worker, two GGUF files, 100 in flight.

One worker and one Manager, as processes. A hundred questions are under way when the worker's config is saved with the
other model. `load`: what the worker says it took to load and probe the new model. `first`: from the save until the
first answer of the new model, to questions that come all the time. Lost is what was not answered.
"""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import results
from bus import Message
from contracts import WorkerEventRecord
from contracts import subjects as s
from outbox.batch import unpacked
from tests.local_models import LocalModels
from tests.roles import AS_SHIPPED, Question, Roles
from tests.servers import PlainNats
from tests.support import eventually

IN_FLIGHT = 100
ASK_EVERY = 0.1
NEAR = 60.0

Json = dict[str, Any]


def main(rounds: int) -> None:
    """Measures, prints, writes `benchmarks/results/swap.json`."""
    with tempfile.TemporaryDirectory() as directory:
        measured = asyncio.run(_run(Path(directory), rounds))
    for one in measured:
        print(
            f"load {one['load_s']:.2f} s, first answer of the new model {one['first_s']:.2f} s after the save, "
            f"{one['after_load_s']:.2f} s after it was loaded; {one['asked']} asked, {one['lost']} lost"
        )
    median = statistics.median(one["after_load_s"] for one in measured)
    print(f"median {median:.2f} s after the load; {sum(one['lost'] for one in measured)} lost in all")
    results.write(
        "swap",
        {"rounds": measured, "median_after_load_s": median},
        does_not_prove=["large models, which take longer to load and may not fit beside the old one"],
    )


async def _run(folder: Path, rounds: int) -> list[Json]:
    server = PlainNats(folder, "")
    await server.start()
    models = LocalModels(folder)
    try:
        async with Roles(folder, server.url) as roles:
            roles.manager(**AS_SHIPPED)
            roles.worker("w-1", "local", "--config", str(models.config))
            await roles.ready(within=NEAR)
            return [await _swap(roles, models, ("two", "one")[number % 2]) for number in range(rounds)]
    finally:
        server.kill()


async def _swap(roles: Roles, models: LocalModels, wanted: str) -> Json:
    loaded: list[int] = []

    def hear(message: Message) -> None:
        told = [WorkerEventRecord.model_validate_json(event).detail for event in unpacked(message.data)]
        loaded.extend(int(detail["took_ms"]) for detail in told if detail.get("event") == "swapped")

    listening = await roles.bus.subscribe_inline(s.TELEMETRY_WORKER, hear)
    asked = await roles.ask_many(IN_FLIGHT, max_tokens=8, deadline_ms=120_000)
    await eventually(lambda: roles.beats["w-1"].inflight == 4)
    models.save(wanted)
    began = time.monotonic()
    while not (first := _first(asked, wanted)):
        asked.append(await roles.ask(max_tokens=8, deadline_ms=120_000))
        await asyncio.sleep(ASK_EVERY)
    await roles.answered(asked, within=120)
    await eventually(lambda: loaded)
    await listening.stop()
    load_s, first_s = loaded[0] / 1000, first - began
    served = Counter(question.finals[0].get("model_id", "") for question in asked)
    return {
        "load_s": load_s,
        "first_s": first_s,
        "after_load_s": first_s - load_s,
        "asked": len(asked),
        "lost": sum("output" not in question.finals[0] for question in asked),
        "served": dict(served),
    }


def _first(asked: list[Question], model: str) -> float:
    """When the first answer of that model came; 0: none has."""
    times = (q.asked + q.took for q in asked if q.finals and q.finals[0].get("model_id") == model)
    return min(times, default=0.0)
