"""Answers that are not sure enough: a better model is asked, and the surest answer counts."""

import asyncio
from typing import Any

from tests.gate import Gate
from tests.mesh import Json, SmallMesh
from tests.support import eventually

CHEAP: Json = {"price": {"input_per_mtok": 0.01, "output_per_mtok": 0.01}}
DEAR: Json = {"price": {"input_per_mtok": 100, "output_per_mtok": 100}}


async def test_too_little_confidence_escalates_to_another_model(mesh: SmallMesh) -> None:
    sure: Json = {"models": [{"name": "sure"}], "confidence": {"mean": 0.99, "sd": 0}}
    unsure: Json = {"models": [{"name": "unsure"}], "confidence": {"mean": 0.2, "sd": 0}, "latency_ms": {"fixed": 1}}
    await mesh.worker("sure-1", **sure)
    await mesh.worker("unsure-1", **unsure)
    await mesh.manager()
    answers = [await mesh.ask(min_confidence=0.9, policy="fastest") for _ in range(4)]
    assert {answer["model_id"] for answer in answers} == {"sure"}
    impossible = await mesh.ask(min_confidence=1.0)
    assert impossible["model_id"] == "sure"  # the best there is, told as it is
    assert impossible["confidence"] < 1.0


def unsure(model: str, confidence: float, **more: Any) -> Json:
    return {"models": [{"name": model}], "confidence": {"mean": confidence, "sd": 0}, **more}


async def test_a_model_that_was_not_sure_enough_is_not_asked_again_elsewhere(mesh: SmallMesh) -> None:
    for number in range(4):
        await mesh.worker(f"w-{number}", **unsure("same", 0.4))
    await mesh.manager()
    answer = await mesh.ask(min_confidence=0.9)
    assert (len(answer["attempts"]), round(answer["confidence"], 2)) == (1, 0.4)


async def test_who_is_known_to_be_less_sure_is_not_paid_for_another_try(mesh: SmallMesh) -> None:
    await mesh.worker("w-good", **unsure("good", 0.8))
    await mesh.worker("w-poor", **unsure("poor", 0.1))
    await mesh.manager()
    for _ in range(10):
        await mesh.ask(model="poor")
    answer = await mesh.ask(policy="best", min_confidence=0.9)
    assert [attempt["worker_id"] for attempt in answer["attempts"]] == ["w-good"]


async def test_when_the_time_is_over_the_less_sure_answer_counts(mesh: SmallMesh) -> None:
    await mesh.worker("w-poor", **unsure("poor", 0.2, latency_ms=1, **CHEAP))
    await mesh.worker("w-good", **unsure("good", 0.99, latency_ms=60_000, **DEAR))
    await mesh.manager()
    answer = await mesh.ask(policy="cheapest", min_confidence=0.9, deadline_ms=10_000)
    assert [attempt["worker_id"] for attempt in answer["attempts"]] == ["w-poor", "w-good"]
    assert answer["model_id"] == "poor"


async def test_a_better_model_that_is_full_is_waited_for(mesh: SmallMesh, gate: Gate) -> None:
    await mesh.worker("w-poor", **unsure("poor", 0.2, latency_ms=1, **CHEAP))
    await mesh.worker("w-good", **unsure("good", 0.99, latency_ms=1, max_concurrency=1, max_queue=0, **DEAR))
    await mesh.manager()
    busy = asyncio.create_task(mesh.ask(model="good", prompt=gate.prompt))
    await eventually(lambda: gate.waiting)
    asking = asyncio.create_task(mesh.ask(policy="cheapest", min_confidence=0.9))

    async def waits() -> bool:
        return bool((await mesh.manager_says())["waiting"] == 1)

    await eventually(waits)
    gate.open()
    assert (await asking)["model_id"] == "good"
    await busy


async def test_who_reads_along_has_the_surest_answer_at_the_end(mesh: SmallMesh) -> None:
    await mesh.worker("w-first", **unsure("first", 0.5, latency_ms=1, seed=1, **CHEAP))
    await mesh.worker("w-second", **unsure("second", 0.3, latency_ms=400, seed=2, **DEAR))
    await mesh.manager()
    heard = await mesh.stream(policy="cheapest", min_confidence=0.9)
    final = heard[-2]
    assert final is not None and final["model_id"] == "first"
    assert [attempt["worker_id"] for attempt in final["attempts"]] == ["w-first", "w-second"]
    text = ""
    for piece in heard[:-2]:
        assert piece is not None
        text = text + piece["delta"] if piece["type"] == "chunk" else ""
    assert text == final["output"]
