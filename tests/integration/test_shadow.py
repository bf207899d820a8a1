"""Beside the answer: a verifier that judges it, a candidate that gets the same question, and what the books show."""

from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_core import from_json

from contracts import CancelRequest, new_id
from contracts import subjects as s
from manager.shadow import score_of
from telemetry.reading.queries import calibration, compare
from tests.backends.providers import Failure, OpenAIProvider
from tests.backends.providers import Json as Body
from tests.books import Books, feedback, response
from tests.cli import bullpen
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

LIVE: Json = {"models": [{"name": "m-live", "price": {"input_per_mtok": 1, "output_per_mtok": 1}}]}
CANDIDATE: Json = {"models": [{"name": "m-next", "price": {"input_per_mtok": 2, "output_per_mtok": 2}}]}
MIRROR = {"model": "m-live", "to": "m-next", "share": 1.0}
VERIFIER = {"model": "judge", "share": 1.0}


class Judge(OpenAIProvider):
    """Says the same of every answer."""

    verdict = "8"

    def words(self, body: Body) -> list[str]:
        return [self.verdict]

    def config(self) -> Body:
        price = {"input_per_mtok": 3, "output_per_mtok": 3}
        return {"base_url": f"{self.url}/v1", "models": [{"name": "judge", "price": price}]}


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    async with Judge() as judge:
        yield judge


@pytest.fixture
async def books(nats: NatsServer, database_url: str) -> AsyncIterator[Books]:
    async with Books(nats.url, database_url) as fresh:
        fresh.start()
        await fresh.ready()
        yield fresh


async def rows(books: Books, kind: str) -> list[dict[str, Any]]:
    return [row for row in await books.rows("responses") if row["task_id"].startswith(kind)]


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("8", 0.8),
        ("10", 1.0),
        ("0", 0.0),
        ("Score: 7/10", 0.7),
        (" 9.", 0.9),
        ("eleven", None),
        ("11", None),
        ("", None),
        ("100 %", None),
    ],
)
def test_a_judge_s_words_are_read(said: str, score: float | None) -> None:
    assert score_of(said) == score


async def test_a_verifier_judges_answers_and_its_cost_is_booked(books: Books, mesh: SmallMesh, judge: Judge) -> None:
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-judge", "openai", **judge.config())
    await mesh.manager(verifier=VERIFIER)
    answer = await mesh.ask(task_id="t-1", model="m-live", prompt="What is one and one?")
    await eventually(books.booked(1, "feedback"))
    [judged] = await books.rows("feedback")
    assert (judged["task_id"], judged["score"], judged["source"]) == ("t-1", 0.8, "verifier:judge")
    asked = str(judge.received[-1]["messages"])
    assert "What is one and one?" in asked
    assert answer["output"] in asked
    await eventually(lambda: rows(books, "verify:"))
    [row] = await rows(books, "verify:")
    assert row["task_id"] == f"verify:{answer['request_id']}"
    assert (row["model_id"], row["prompt"], row["output"], row["priority"]) == ("judge", None, None, "batch")
    assert from_json(row["metadata"])["tenant"] == "bullpen"
    assert row["cost_usd"] > 0
    assert len(await books.rows("feedback")) == 1, "nobody judges a judge"


async def test_a_judge_that_says_no_number_says_nothing(books: Books, mesh: SmallMesh, judge: Judge) -> None:
    judge.verdict = "quite good"
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-judge", "openai", **judge.config())
    await mesh.manager(verifier=VERIFIER)
    assert "output" in await mesh.ask(model="m-live")
    await eventually(lambda: rows(books, "verify:"))
    assert await books.rows("feedback") == []


async def test_what_must_stay_in_the_house_is_not_judged_outside(books: Books, mesh: SmallMesh, judge: Judge) -> None:
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-judge", "openai", **judge.config())
    await mesh.manager(verifier=VERIFIER)
    assert "output" in await mesh.ask(model="m-live", policy="local_only")
    await eventually(lambda: rows(books, "verify:"))
    assert {row["status"] for row in await rows(books, "verify:")} == {"error"}
    assert judge.received == []


async def test_a_candidate_is_mirrored_and_no_caller_notices(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-2", **CANDIDATE)
    await mesh.manager(mirrors=[MIRROR])
    answers = [await mesh.ask(model="m-live", prompt=f"question {number}") for number in range(5)]
    assert Counter(answer["model_id"] for answer in answers) == {"m-live": 5}
    assert all(len(answer["attempts"]) == 1 for answer in answers)
    await eventually(lambda: _mirrored(books, 5))
    [pair] = await compare(books.store)
    assert (pair.live_model, pair.candidate, pair.questions, pair.failed) == ("m-live", "m-next", 5, 0)
    assert pair.live_cost_usd is not None
    assert pair.candidate_cost_usd == 2 * pair.live_cost_usd, "the same words at twice the price"
    told = await bullpen("compare", env={"DATABASE_URL": books.database_url, "COLUMNS": "120"})
    assert "→ m-next" in told.out
    assert {row["prompt"] for row in await rows(books, "mirror:")} == {None}


async def test_a_candidate_that_fails_harms_no_caller_and_is_counted(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-2", error_rate=1.0, **CANDIDATE)
    await mesh.manager(mirrors=[MIRROR])
    assert "output" in await mesh.ask(model="m-live")

    async def is_counted() -> bool:
        return [(pair.candidate, pair.questions, pair.failed) for pair in await compare(books.store)] == [
            ("m-next", 1, 1)
        ]

    await eventually(is_counted)


async def _mirrored(books: Books, count: int) -> bool:
    return len(await rows(books, "mirror:")) == count


async def test_no_shadow_request_is_sent_while_every_worker_is_busy(
    books: Books, mesh: SmallMesh, judge: Judge
) -> None:
    """One that is half full or more is not idle; one that is not there neither."""
    judge.failure = Failure(hang_after=0)
    await mesh.worker("w-1", **LIVE)
    await mesh.worker("w-judge", "openai", **{**judge.config(), "max_concurrency": 1, "first_token_timeout": 60})
    await mesh.manager(verifier=VERIFIER, mirrors=[MIRROR])
    first = await mesh.ask(model="m-live", task_id="first")
    await eventually(lambda: mesh.beats["w-judge"].inflight == 1)
    for _ in range(3):
        assert "output" in await mesh.ask(model="m-live")
    await eventually(books.booked(4))
    assert len(judge.received) == 1
    assert await rows(books, "mirror:") == []
    asked = CancelRequest(task_id=f"verify:{first['request_id']}")
    await mesh.bus.publish(s.INFER_CANCEL, asked.model_dump_json().encode())
    await eventually(lambda: mesh.beats["w-judge"].inflight == 0)


# In the books


async def test_calibration_is_by_tenth_and_model(books: Books) -> None:
    now = datetime.now(UTC)
    told = [("a", 0.95, 1.0), ("b", 0.97, 1.0), ("c", 0.91, 0.0), ("d", 0.45, 0.5), ("e", 1.0, 1.0)]
    for task, confidence, score in told:
        books.tell(response(task_id=task, confidence=confidence, created_at=now), feedback(task_id=task, score=score))
    for _ in range(2):  # of a name that two bear nobody knows which was meant
        books.tell(response(task_id="twice", confidence=0.95, created_at=now, request_id=new_id()))
    books.tell(feedback(task_id="twice", score=0.0), response(task_id="unjudged", confidence=0.95, created_at=now))
    await eventually(books.booked(8))
    await eventually(books.booked(6, "feedback"))
    low, high = await calibration(books.store)
    assert (low.tenth, low.answers, low.confidence, low.judged) == (4, 1, 0.45, 0.5)
    assert (high.tenth, high.answers, high.judged) == (9, 4, 0.75)
    assert high.confidence == pytest.approx((0.95 + 0.97 + 0.91 + 1.0) / 4)
    assert await calibration(books.store, model="other") == []
    shown = await bullpen("calibration", env={"DATABASE_URL": books.database_url, "COLUMNS": "120"})
    assert "0.9 to 1.0" in shown.out
    assert "too sure" in shown.out
