"""`bullpen explain` and `bullpen models`: why a question went where it went, and how well everybody does."""

import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_core import from_json, to_json

from contracts import Candidate, RouteDecision, Terms, Wishes, new_id
from contracts import subjects as s
from telemetry.reading.explaining import Explained, explain
from telemetry.recording import decisions
from tests.books import Books, attempt, response, signal_all
from tests.cli import Result, bullpen
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer, PostgresServer
from tests.support import eventually

FREE: Json = {"models": [{"name": "m-free", "price": {"input_per_mtok": 0, "output_per_mtok": 0}}]}
DEAR: Json = {"models": [{"name": "m-dear", "price": {"input_per_mtok": 100, "output_per_mtok": 400}}]}
EVEN = Terms(cost=0.5, confidence=0.5, load=0.5, resources=0.5)


@pytest.fixture
async def books(nats: NatsServer, database_url: str) -> AsyncIterator[Books]:
    async with Books(nats.url, database_url) as fresh:
        fresh.start()
        await fresh.ready()
        yield fresh


async def run(books: Books, *arguments: str) -> Result:
    return await bullpen(
        *arguments, env={"NATS_URL": books.settings.servers[0], "DATABASE_URL": books.database_url, "COLUMNS": "160"}
    )


async def known(books: Books, name: str, *, attempts: int = 1) -> Explained:
    """What the books say of a request that was answered."""

    async def look() -> Explained | None:
        found = await explain(books.store, name)
        whole = found and found.response and len(found.decisions) == len(found.attempts) == attempts
        return found if whole else None

    found: Explained = await eventually(look)
    return found


def decision(**changes: Any) -> RouteDecision:
    values: dict[str, Any] = {
        "manager_id": "m-1",
        "request_id": new_id(),
        "task_id": "t",
        "attempt": 1,
        "policy": "balanced",
        "weights": EVEN,
        "winner": "w",
        "model_id": "m",
        "candidates": (Candidate(worker_id="w", backend="b", model_id="m", terms=EVEN, score=1.0),),
        "created_at": datetime.now(UTC),
        "why": "first",
        "wishes": Wishes(policy="auto", priority="batch", prompt_tokens=7),
    }
    return RouteDecision(**{**values, **changes})


async def test_the_cheaper_one_won_and_the_table_says_why(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-free", **FREE)
    await mesh.worker("w-dear", **DEAR)
    await mesh.manager()
    answer = await mesh.ask(task_id="why-this-one", policy="cheapest", max_tokens=50)
    found = await known(books, "why-this-one")
    assert str(found.request_id) == answer["request_id"]
    [first] = found.decisions
    assert (first.why, first.winner, first.model_id, first.policy) == ("first", "w-free", "m-free", "cheapest")
    by_worker = {one.worker_id: one for one in first.candidates}
    free, dear = by_worker["w-free"].terms, by_worker["w-dear"].terms
    assert free is not None
    assert dear is not None
    assert free.cost < dear.cost
    assert first.wishes is not None
    assert (first.wishes.policy, first.wishes.max_tokens) == ("cheapest", 50)
    told = await run(books, "explain", "why-this-one")
    assert told.code == 0, told.err
    assert "The first choice: w-free with m-free" in told.out
    [winner] = [line for line in told.out.splitlines() if line.lstrip().startswith("→")]
    assert winner.split()[:3] == ["→", "w-free", "m-free"]
    assert f"{dear.cost:.2f}" in next(line for line in told.out.splitlines() if "w-dear" in line)
    assert "m-free at w-free answered after" in told.out


async def test_a_failover_reads_as_two_choices_and_what_came_between(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-bad", error_rate=1.0, **FREE)
    await mesh.worker("w-good", **DEAR)
    await mesh.manager()
    await mesh.ask(task_id="twice", policy="cheapest")
    found = await known(books, "twice", attempts=2)
    assert [(one.why, one.winner) for one in found.decisions] == [("first", "w-bad"), ("failover", "w-good")]
    told = (await run(books, "explain", "twice")).out
    order = [told.index(part) for part in ("The first choice", "w-bad: failed", "so the next choice", "w-good: ok")]
    assert order == sorted(order)
    assert "w-bad with m-free: tried already" in told


async def test_a_stand_in_that_steps_back_is_told_with_the_reason(books: Books, mesh: SmallMesh) -> None:
    toy: Json = {"models": [{**FREE["models"][0], "name": "toy", "stand_in": True}]}
    await mesh.worker("w-toy", **toy)
    await mesh.manager()
    assert (await mesh.ask(task_id="alone", policy="cheapest"))["model_id"] == "toy"
    await mesh.worker("w-dear", latency_ms=300, **DEAR)
    answers = [await mesh.ask(task_id=f"beside-{policy}", policy=policy) for policy in ("cheapest", "fastest", "best")]
    assert {answer["model_id"] for answer in answers} == {"m-dear"}
    assert (await mesh.ask(model="toy"))["model_id"] == "toy"
    await known(books, "beside-best")
    told = (await run(books, "explain", "beside-best")).out
    assert "w-toy with toy: stands in only until another model is ready" in told
    await mesh.stop("w-dear")
    assert (await mesh.ask(task_id="again"))["model_id"] == "toy"


async def test_an_older_decision_is_shown_without_the_terms_that_it_lacks(books: Books) -> None:
    """Its load may be more than 1: lateness was in it."""
    late = Terms(cost=0.0, confidence=0.2, load=13.4, resources=0.0)
    full = Candidate(worker_id="w", backend="b", model_id="m", terms=late, score=13.6, passed_over="full (4 of 4)")
    even = Terms(cost=1, confidence=1, load=1, resources=0.3)
    one = decision(task_id="old", candidates=(full,), winner=None, model_id=None, weights=even)
    older = from_json(one.to_bytes())
    for terms in (older["weights"], older["candidates"][0]["terms"]):
        del terms["lateness"]
    await books.bus.publish(s.METRICS_ROUTE, to_json(older))
    told = await eventually(lambda: run_ok(books, "old"))
    [heading] = [line for line in told.splitlines() if "WORKER" in line]
    assert heading.split() == ["WORKER", "MODEL", "CONFIDENCE", "×1", "LOAD", "×1", "SCORE"]
    assert "w with m: full (4 of 4)" in told


async def test_a_direct_request_has_no_route_decision(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-1")
    await mesh.ask("infer.simulated", task_id="direct")
    await eventually(books.booked(1))
    told = await run(books, "explain", "direct")
    assert told.code == 0
    assert "There was no choice: the worker was asked directly." in told.out


async def test_a_request_without_a_worker_is_explained_too(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **FREE)
    await mesh.manager()
    refused = await mesh.ask(task_id="impossible", min_confidence=0.999, deadline_ms=3000)
    assert "error" in refused or refused["confidence"] < 0.999
    told = await eventually(lambda: run_ok(books, "impossible"))
    assert "confidence of 0.999 or more" in told


async def run_ok(books: Books, name: str) -> str:
    told = await run(books, "explain", name)
    return told.out if told.code == 0 and "It asked for" in told.out else ""


async def test_json_has_all_of_it(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **FREE)
    await mesh.manager()
    answer = await mesh.ask(task_id="as-json")
    await known(books, "as-json")
    told = (await run(books, "explain", answer["request_id"], "--json")).json()
    short = answer["request_id"][-8:]
    assert short in (await run(books, "responses")).out, "as `responses` shows it"
    assert (await run(books, "explain", short, "--json")).json() == told
    assert (await run(books, "explain", "--last", "--json")).json() == told
    assert told["task_id"] == "as-json"
    [first] = told["decisions"]
    assert first["candidates"][0]["terms"].keys() == Terms.model_fields.keys()
    assert told["attempts"][0]["worker_id"] == told["response"]["worker_id"] == "w-1"


async def test_an_unknown_task_is_said_so(books: Books) -> None:
    told = await run(books, "explain", "never-asked")
    assert (told.code, told.out) == (1, "")
    assert "the books know no task never-asked" in told.err


async def test_the_newest_of_a_name_is_explained_and_the_others_counted(books: Books) -> None:
    old, new = (decision(created_at=datetime.now(UTC) - timedelta(seconds=ago)) for ago in (5, 0))
    for one in (new, old):
        await books.bus.publish(s.METRICS_ROUTE, one.to_bytes())

    async def both() -> Explained | None:
        found = await explain(books.store, "t")
        return found if found and found.others == 1 else None

    found = await eventually(both)
    assert str(found.request_id) == new.request_id
    by_id = await explain(books.store, old.request_id)
    assert by_id is not None
    assert str(by_id.request_id) == old.request_id


async def test_a_decision_told_twice_or_unreadable_is_kept_once_or_not(books: Books) -> None:
    one = decision()
    beyond = decision(task_id="beyond", request_id="ffffffff-ffff-7fff-bfff-ffffffffffff")
    for body in (b"rubbish", one.to_bytes(), one.to_bytes(), beyond.to_bytes(), decision(task_id="a\0b").to_bytes()):
        await books.bus.publish(s.METRICS_ROUTE, body)
    await eventually(lambda: has_rows(books, 2))
    assert {row["task_id"] for row in await books.rows("decisions")} == {"t", "a�b"}


async def has_rows(books: Books, count: int) -> bool:
    return len(await books.rows("decisions")) >= count


async def test_many_candidates_are_kept_the_best_first(books: Books) -> None:
    def candidate(number: int) -> Candidate:
        return Candidate(worker_id=f"w-{number}", backend="b", model_id="m", terms=EVEN, score=float(number))

    everybody = tuple(candidate(number) for number in reversed(range(50)))
    one = decision(candidates=everybody, winner="w-7")
    await books.bus.publish(s.METRICS_ROUTE, one.to_bytes())
    await eventually(lambda: has_rows(books, 1))
    found = await explain(books.store, one.request_id)
    assert found is not None
    [kept] = found.decisions
    assert [c.worker_id for c in kept.candidates[:4]] == ["w-7", "w-0", "w-1", "w-2"]
    assert (len(kept.candidates), kept.considered) == (decisions.BEST, 50)


async def test_decisions_wait_while_the_database_is_frozen(nats: NatsServer, postgres: PostgresServer) -> None:
    await postgres.start()
    async with Books(nats.url, postgres.url) as books:
        books.start(command_timeout=0.5)
        books.tell(response())
        await eventually(books.booked(1))
        try:
            signal_all(postgres, signal.SIGSTOP)
            books.tell(response())
            for number in range(20):
                await books.bus.publish(s.METRICS_ROUTE, decision(task_id=f"t-{number}").to_bytes())
            await eventually(lambda: "0.5 s" in books.latest.database_away)
        finally:
            signal_all(postgres, signal.SIGCONT)
        await eventually(lambda: has_rows(books, 20))


# The scorecard


async def test_models_shows_how_well_each_does(books: Books, mesh: SmallMesh) -> None:
    await mesh.worker("w-free", **FREE)
    now = datetime.now(UTC)
    good = [attempt(model_id="m-free", worker_id="w-free", created_at=now, confidence=0.9) for _ in range(9)]
    bad = attempt(model_id="m-free", worker_id="w-free", created_at=now, outcome="failed", confidence=None)
    books.tell(*good, bad, response(model_id="m-free", worker_id="w-free", created_at=now))
    await eventually(books.booked(10, "attempts"))

    async def shown() -> bool:
        told = await run(books, "models")
        assert told.code == 0
        record = told.out.splitlines()[-1].split()
        assert record[:3] == ["m-free", "9", "10.0%"]
        return "0.90" in record

    async def told_as_json() -> bool:
        served = (await run(books, "models", "--json")).json()
        return [(one["scorecard"] and one["scorecard"]["answers"], one["workers"]) for one in served] == [
            (9, ["w-free"])
        ]

    await eventually(shown)
    await eventually(told_as_json)


async def test_models_answers_without_books(nats: NatsServer, mesh: SmallMesh) -> None:
    await mesh.worker("w-free", **FREE)

    async def heard() -> Any:
        return (await bullpen("models", "--json", env={"NATS_URL": nats.url})).json()

    [served] = await eventually(heard)
    assert (served["model_id"], served["scorecard"], served["grades"]) == ("m-free", None, [])
    assert to_json(served["price"]) != b"null"
