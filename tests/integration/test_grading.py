"""From the books to a grade, from a grade to who is asked: demotion, the canary, the way back, decisions by hand."""

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from pydantic_core import from_json

from bus import BusError
from contracts import GradeRecord, Outcome, WorkRecord
from contracts import subjects as s
from manager.grade_sync import GradeKeeper
from manager.routing.estimates import Estimates
from manager.routing.grades import Grades
from telemetry.reading.queries import grades_now, set_grade
from telemetry.store import DatabaseAway
from tests.books import Books, attempt
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

FAILED = {"outcome": Outcome.FAILED, "confidence": None}


def tries(count: int, worker: str, **changes: Any) -> list[Any]:
    return [attempt(worker_id=worker, created_at=datetime.now(UTC), **changes) for _ in range(count)]


async def grade_of(books: Books, worker: str) -> str:
    """Empty before it has one, and before there are tables."""
    with suppress(DatabaseAway):
        return next((one.grade for one in await grades_now(books.store) if one.worker_id == worker), "")
    return ""


async def has_grade(books: Books, worker: str, grade: str) -> bool:
    return await grade_of(books, worker) == grade


async def test_who_fails_is_benched_and_comes_back_when_it_is_well(books: Books) -> None:
    heard: list[GradeRecord] = []
    await books.bus.subscribe_inline(
        s.METRICS_GRADE, lambda message: heard.append(GradeRecord.model_validate_json(message.data))
    )
    await books.bus.flush(30)

    def grades(worker: str) -> list[str]:
        return [told.grade for told in heard if told.worker_id == worker]

    books.start(grades_interval=0.2)
    books.tell(*tries(20, "good"), *tries(20, "bad"))
    await eventually(lambda: grades("good") == grades("bad") == ["probation", "regular"])
    assert await grade_of(books, "bad") == "regular"
    books.tell(*tries(14, "bad"), *tries(6, "bad", **FAILED))
    await eventually(lambda: grades("bad") == ["probation", "regular", "benched"])
    told = heard[-1]
    assert (told.worker_id, told.grade, told.previous) == ("bad", "benched", "regular")
    [reason] = told.reasons  # it may be judged before all of them are booked
    assert re.fullmatch(r"[3-6] of its last 20 tries failed", reason)
    rows = [row for row in await books.rows("grades") if row["worker_id"] == "bad"]
    assert [row["grade"] for row in rows] == ["probation", "regular", "benched"]
    assert from_json(rows[-1]["reasons"]) == [reason]
    assert await grade_of(books, "good") == "regular"


async def test_wrong_requests_bench_no_worker(books: Books) -> None:
    books.start(grades_interval=0.1)
    books.tell(*tries(20, "w-1"))
    wrong = {"outcome": "failed", "confidence": None, "cost_usd": None}
    books.tell(*tries(30, "w-1", error_code="invalid_request", **wrong))
    books.tell(*tries(30, "w-2", error_code="upstream_error", **wrong))
    await eventually(lambda: has_grade(books, "w-2", "benched"))  # what w-1 did is booked as well, then
    await eventually(lambda: has_grade(books, "w-1", "regular"))
    books.tell(*tries(1, "w-3"))
    await eventually(lambda: has_grade(books, "w-3", "probation"))  # all were judged once more
    assert await grade_of(books, "w-1") == "regular"


async def test_managers_ask_a_benched_worker_next_to_nothing(nats: NatsServer, database_url: str) -> None:
    async with SmallMesh(nats.url) as mesh, Books(nats.url, database_url) as books:
        await mesh.worker("w-1", latency_ms=1)
        await mesh.worker("w-2", latency_ms=1)
        await mesh.manager()
        books.start(grades_interval=0.1)
        books.tell(*tries(20, "w-1", model_id="simulated"), *tries(20, "w-2", model_id="simulated"))

        for name in ("w-1", "w-2"):
            await eventually(partial(has_grade, books, name, "regular"))
        await set_grade(books.store, "simulated", "w-1", "benched")

        async def only_the_other_answers() -> bool:
            answers = [await mesh.ask() for _ in range(20)]
            return [a["worker_id"] for a in answers].count("w-1") <= 2

        await eventually(only_the_other_answers)
        await mesh.stop("w-2")
        answers = await asyncio.gather(*(mesh.ask() for _ in range(5)))
        assert {a["worker_id"] for a in answers} == {"w-1"}  # better a benched one than none
        changed = await set_grade(books.store, "simulated", "w-1", None)
        assert [(one.worker_id, one.by_hand) for one in changed] == [("w-1", False)]


async def test_a_manager_that_starts_later_knows_the_grades(nats: NatsServer, database_url: str) -> None:
    async with SmallMesh(nats.url) as mesh, Books(nats.url, database_url) as books:
        await mesh.worker("w-1", latency_ms=1)
        await mesh.worker("w-2", latency_ms=1)
        books.start(grades_interval=0.1)
        books.tell(*tries(20, "w-1", model_id="simulated"), *tries(20, "w-2", model_id="simulated", **FAILED))

        await eventually(lambda: has_grade(books, "w-2", "benched"))
        await mesh.manager()

        async def knows() -> bool:
            answers = [await mesh.ask() for _ in range(20)]
            return [a["worker_id"] for a in answers].count("w-2") <= 2

        await eventually(knows)


async def test_managers_know_which_workers_are_new_and_since_when_one_is_proven(books: Books) -> None:
    before = datetime.now(UTC)
    books.start(grades_interval=0.1)
    books.tell(*tries(20, "proven"), *tries(3, "young"))
    grades = Grades()
    keeping = asyncio.create_task(GradeKeeper(books.bus, grades, Estimates()).keep(lambda: ["m"]))
    try:
        await eventually(lambda: grades.of("m", "young", datetime.now(UTC)) == "probation")
    finally:
        keeping.cancel()
    assert grades.of("m", "young", before) == "regular", "it was here before"


async def test_who_has_answered_can_be_benched_before_it_has_a_grade(books: Books) -> None:
    books.start(grades_interval=600)
    books.tell(*tries(1, "w-1"))
    await eventually(books.booked(1, "attempts"))
    changed = await set_grade(books.store, "m", None, "benched")
    assert [(one.worker_id, one.grade, one.previous) for one in changed] == [("w-1", "benched", None)]


async def test_the_bucket_is_written_anew_when_it_was_lost(books: Books) -> None:
    books.start(grades_interval=0.1)
    books.tell(*tries(20, "w-1"))
    key = s.grades_key("m")

    async def told(grade: str) -> bool:
        with suppress(BusError):
            subject = f"$JS.API.DIRECT.GET.KV_{s.GRADES_BUCKET}.$KV.{s.GRADES_BUCKET}.{key}"
            reply = await books.bus.request(subject, b"", timeout=1)
            return f'"w-1":"{grade}"'.encode() in reply.data
        return False

    await eventually(lambda: told("regular"))
    await books.bus.nats.jetstream().delete_stream(f"KV_{s.GRADES_BUCKET}")
    await set_grade(books.store, "m", None, "senior")
    await eventually(lambda: told("senior"))


async def test_a_manager_that_starts_knows_from_the_books_how_workers_did(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetry.grading.grader.RECORDS_EVERY", 0.2)  # they may not all be booked at the first time
    books.start(grades_interval=0.2)
    quick = {"duration_ms": 200.0, "queue_ms": 50.0, "ttft_ms": 100.0, "prompt_tokens": 100, "completion_tokens": 40}
    books.tell(*tries(20, "quick", **quick), *tries(16, "poor", duration_ms=900.0), *tries(4, "poor", **FAILED))
    estimates = Estimates()
    keeping = asyncio.create_task(GradeKeeper(books.bus, Grades(), estimates).keep(lambda: ["m"]))
    known, poor = estimates.at("quick", "m"), estimates.at("poor", "m")

    def knows() -> bool:
        assert known.seconds(100, 40) == pytest.approx(0.150)
        assert poor.success.weight and known.success.mean > poor.success.mean
        assert estimates.of("m").output_tokens(100) < 128, "and how long its answers are"
        return True

    try:
        await eventually(knows)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    estimates.failed("quick", "m", 1e9)
    before = known.success.sum
    estimates.warm("m", "quick", WorkRecord(answers=40, failures=0), 1e9)
    assert known.success.sum == before, "what we have seen ourselves counts more"


@pytest.mark.timeout(120)  # a grade has to be earned, twice
async def test_a_worker_that_starts_to_fail_is_benched_and_trusted_again_when_it_is_well(
    nats: NatsServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what is asked to who is asked, and back: Manager, workers and telemetry, with hours made seconds."""
    monkeypatch.setattr("telemetry.grading.grades.BENCHED_FOR", 2.0)
    monkeypatch.setattr("manager.routing.grades.CANARY_SHARE", 0.1)
    seen: list[tuple[str, str]] = []
    async with SmallMesh(nats.url) as mesh, Books(nats.url, database_url) as books:
        await mesh.bus.subscribe_inline(s.METRICS_GRADE, lambda message: seen.append(_worker_and_grade(message.data)))
        books.start(grades_interval=0.2)
        await books.ready()
        await mesh.worker("w-1", latency_ms=1)
        await mesh.worker("w-2", latency_ms=1, error_rate=0.3)
        await mesh.manager()
        answers: list[Any] = []

        async def asked_until(grade: str) -> bool:
            """Asks some more."""
            answers.extend(await asyncio.gather(*(mesh.ask() for _ in range(10))))
            return ("w-2", grade) in seen

        await eventually(lambda: asked_until("benched"), timeout=45)
        assert ("w-1", "benched") not in seen
        await mesh.stop("w-2")
        await mesh.worker("w-2", latency_ms=1)
        back = len(answers)
        seen.clear()
        await eventually(lambda: asked_until("probation"), timeout=45)
    assert [answer for answer in answers if "output" not in answer] == [], "what one failed the other answered"
    tried = [attempt["worker_id"] for answer in answers[back:] for attempt in answer["attempts"]]
    assert 0 < tried.count("w-2") < len(tried) / 2, "a benched worker is tried now and then"


def _worker_and_grade(data: bytes) -> tuple[str, str]:
    told = GradeRecord.model_validate_json(data)
    return told.worker_id, told.grade
