"""From what a provider counts to what the books say: to the last token, and to the last digit.

Recorded answers go through the official SDKs, the worker, the Manager, JetStream and the accountant into Postgres.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic_core import from_json, to_json

from contracts import BullpenError, ErrorCode, Outcome, PartialUsage, Price
from telemetry.reading import queries
from telemetry.upkeep.migrate import migrate
from tests.backends.providers import GeminiProvider, Json, OllamaProvider, OpenAIProvider, Provider
from tests.books import Books, attempt, response
from tests.fake_worker import Asked, FakeWorker, acting
from tests.mesh import SmallMesh
from tests.servers import NatsServer
from tests.support import eventually

RECORDED = Path(__file__).with_name("recorded")
COUNTED = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")
PRICE: Json = {"input_per_mtok": 2.5, "cached_input_per_mtok": 1.25, "output_per_mtok": 10}
NANO: Json = {"input_per_mtok": 0.05, "output_per_mtok": 0.4}
EXACT = Price.model_validate(PRICE)
DEARER: Json = {"input_per_mtok": 250, "output_per_mtok": 1000}
WRITES: Json = {"input_per_mtok": 4, "cached_input_per_mtok": 0.4, "cache_write_per_mtok": 5, "output_per_mtok": 20}


@dataclass(frozen=True)
class Case:
    """What a recorded answer has to become. The cost is worked out by hand beside it."""

    prompt: int | None
    cached: int | None
    completion: int | None
    reasoning: int | None
    cost: str | None
    price: Json | None = None
    outcome: Outcome = Outcome.OK
    written: int | None = None


CUT = Outcome.TRUNCATED
OPENAI = {
    # 86 × 2.5 + 1920 × 1.25 + 300 × 10
    "openai-cached-and-reasoning": Case(2006, 1920, 300, 256, "0.005615"),
    "openai-cache-written": Case(
        2600, 2000, 12, 0, "0.00384", WRITES, written=400
    ),  # 200 × 4 + 2000 × 0.4 + 400 × 5 + …
    "openai-smallest": Case(3, 0, 1, 0, "0.00000055", NANO),  # 3 × 0.05 + 1 × 0.4
    "openai-cut-before-the-usage": Case(None, None, 5, None, None),
    "openai-cut-before-the-end": Case(None, None, 3, None, None, outcome=CUT),
    "vllm-cut-with-usage-on-the-way": Case(25, None, 3, None, "0.0000925", outcome=CUT),  # 25 × 2.5 + 3 × 10
    "xai-reasoning-beside-the-completion": Case(32, 6, 235, 226, "0.0024225"),  # 26 × 2.5 + 6 × 1.25 + (9 + 226) × 10
    "deepseek-cache-hits": Case(1090, 1024, 3, None, "0.001475"),  # 66 × 2.5 + 1024 × 1.25 + 3 × 10
}
GEMINI = {
    "gemini-thoughts-and-cache": Case(4135, 4093, 327, 320, "0.00849125"),  # 42 × 2.5 + 4093 × 1.25 + (7 + 320) × 10
    "gemini-tool-use": Case(101, None, 11, 8, "0.0003625"),  # (21 + 80) × 2.5 + (3 + 8) × 10
    "gemini-cut-in-the-middle": Case(12, None, 43, 40, "0.00046", outcome=CUT),  # 12 × 2.5 + (3 + 40) × 10
}
OLLAMA = {
    "ollama": Case(26, None, 282, None, "0.0001141", NANO),  # 26 × 0.05 + 282 × 0.4
    "ollama-prompt-not-counted": Case(None, None, 4, None, None, NANO),
}


def recorded(name: str) -> list[str]:
    [file] = RECORDED.glob(f"{name}.*")
    return [file.read_text(encoding="utf-8")]


class OpenAIRecorded(OpenAIProvider):
    def pieces(self, body: Json) -> list[str]:
        return recorded(body["model"])


class OllamaRecorded(OllamaProvider):
    def pieces(self, body: Json) -> list[str]:
        return recorded(body["model"])

    async def tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [{"model": name, "size": 1} for name in OLLAMA]})


class GeminiRecorded(GeminiProvider):
    def route(self, router: web.UrlDispatcher) -> None:
        for name in GEMINI:
            router.add_post(f"/v1beta/models/{name}:streamGenerateContent", self.answer)
            router.add_get(f"/v1beta/models/{name}", self.model)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = "".join(recorded(request.path.rpartition("/")[2].partition(":")[0]))
        return web.Response(text=text, content_type="text/event-stream")


@pytest.fixture
async def books(mesh: SmallMesh, nats: NatsServer, database_url: str) -> AsyncIterator[Books]:
    async with Books(nats.url, database_url) as books:
        books.start()
        yield books


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-test")


async def by_task(books: Books, table: str, count: int) -> dict[str, dict[str, Any]]:
    """So many rows, by the name of their task."""
    await eventually(books.booked(count, table))
    return {row["task_id"]: row for row in await books.rows(table)}


async def cancelled_in_the_middle(mesh: SmallMesh, task_id: str, **request: Any) -> None:
    """Streams, and calls it off when some tokens have come."""
    heard: list[Json] = []
    with mesh.bus.listen(lambda message: heard.append(from_json(message.data or b"{}"))) as inbox:
        body = {"prompt": "one two", "stream": True, "task_id": task_id, **request}
        await mesh.bus.publish("infer.auto", to_json(body), reply=inbox.subject)
        await eventually(lambda: any(told.get("tokens", 0) > 5 for told in heard))
        await mesh.bus.publish("infer.cancel", to_json({"task_id": task_id}))
        await eventually(lambda: any("error" in told for told in heard))


async def ask_until(mesh: SmallMesh, worker: str, **request: Any) -> int:
    """Streams, until this worker was given one of them: of equals one is picked by lot. Returns how many it took."""
    for number in range(1, 40):
        names = (f"{worker}-{number}-{part}" for part in range(4))
        heard = await asyncio.gather(*(mesh.stream(task_id=name, **request) for name in names))
        ended = [next(message for message in reversed(messages) if message) for messages in heard]
        if any(attempt["worker_id"] == worker for one in ended for attempt in one["attempts"]):
            return 4 * number
    raise AssertionError(f"{worker} was never asked")


async def agree(books: Books) -> bool:
    """Every request costs what its attempts cost together, or an unknown amount when one of theirs is."""
    attempts = sorted(await books.rows("attempts"), key=lambda row: (row["request_id"], row["attempt"]))
    by_request = {
        request_id: [row["cost_usd"] for row in rows]
        for request_id, rows in itertools.groupby(attempts, lambda row: row["request_id"])
    }
    for row in await books.rows("responses"):
        costs = by_request.get(row["request_id"], [])
        assert row["attempts"] == len(costs)
        assert row["cost_usd"] == (None if None in costs else sum(costs, Decimal(0))), costs
    return True


# What a provider counts


@pytest.mark.parametrize(
    ("provider", "cases"), [(OpenAIRecorded, OPENAI), (GeminiRecorded, GEMINI), (OllamaRecorded, OLLAMA)]
)
@pytest.mark.parametrize("direct", [False, True], ids=["asked through a Manager", "asked directly"])
async def test_the_books_say_what_the_provider_counted(
    mesh: SmallMesh, books: Books, provider: type[Provider], cases: dict[str, Case], direct: bool
) -> None:
    models = [{"name": name, "price": case.price or PRICE} for name, case in cases.items()]
    await mesh.manager()
    async with provider() as server:
        await mesh.worker("w-1", server.backend, **{**server.config(), "models": models})
        to = f"infer.{server.backend}" if direct else "infer.auto"
        answers = {name: await mesh.ask(to, model=name, task_id=name) for name in cases}
    responses = await by_task(books, "responses", len(cases))
    attempts = await by_task(books, "attempts", len(cases))
    for name, case in cases.items():
        cost, row, tried = case.cost and Decimal(case.cost), responses[name], attempts[name]
        assert (tried["outcome"], tried["cost_usd"], row["cost_usd"]) == (case.outcome, cost, cost), name
        assert Price.model_validate_json(tried["price"]) == Price.model_validate(case.price or PRICE), name
        told = (case.prompt, case.cached, case.written, case.completion, case.reasoning)
        assert tuple(tried[column] for column in COUNTED) == told, name
        if case.outcome is Outcome.OK:
            assert tuple(row[column] for column in COUNTED) == told, name
            assert tuple(answers[name][column] for column in COUNTED) == told, name
            assert answers[name]["cost_usd"] == (case.cost and float(case.cost)), name
    await eventually(lambda: agree(books))


# However it ends


async def test_whatever_becomes_of_a_request_it_costs_what_its_attempts_cost(mesh: SmallMesh, books: Books) -> None:
    """Answered, cancelled in the middle, cut off, failed over, refused, replayed."""
    wordy: Json = {"price": PRICE, "tokens_per_second": 100.0, "output_tokens": 3000, "seed": 1}
    await mesh.worker("w-1", **wordy)
    await mesh.manager()
    await mesh.stream(task_id="answered", prompt="one two three", max_tokens=40)
    await cancelled_in_the_middle(mesh, "cancelled", prompt="one two")
    await mesh.ask(task_id="refused", model="nobody-serves-this")
    for _ in range(2):
        await mesh.stream(task_id="first", idempotency_key="k", max_tokens=40)
    await mesh.worker("w-2", **wordy, hang_after_tokens=20, next_token_timeout=3)
    count = 5 + await ask_until(mesh, "w-2", max_tokens=40)
    await mesh.worker("w-3", price=PRICE, error_rate=1.0)
    count += await ask_until(mesh, "w-3", max_tokens=40)
    responses = await by_task(books, "responses", count)
    tries = sum(row["attempts"] for row in await books.rows("responses") if not row["replayed"])
    await eventually(books.booked(tries, "attempts"))
    assert responses["answered"]["cost_usd"] == EXACT.cost(3, 40)
    [cancelled] = [row for row in await books.rows("attempts") if row["task_id"] == "cancelled"]
    assert cancelled["outcome"] == "cancelled"
    assert 5 < cancelled["completion_tokens"] < 3000
    assert cancelled["cost_usd"] == EXACT.cost(2, cancelled["completion_tokens"]) == responses["cancelled"]["cost_usd"]
    assert responses["refused"]["cost_usd"] == 0
    replays = [row["cost_usd"] for row in await books.rows("responses") if row["replayed"]]
    assert replays == [0]
    outcomes = {row["outcome"] for row in await books.rows("attempts")}
    assert outcomes >= {"ok", "cancelled", "failed"}
    await eventually(lambda: agree(books))
    row = next(row for row in await books.rows("attempts") if (row["worker_id"], row["outcome"]) == ("w-2", "failed"))
    assert row["cost_usd"] == EXACT.cost(2, 20)  # it gave up by itself, and said what it had used


async def test_what_was_too_large_to_be_sent_has_cost_nothing(mesh: SmallMesh, books: Books) -> None:
    """The caller's message fits, and does not any more with what the Manager says to the worker beside it."""
    await mesh.worker("w-1", price=PRICE)
    await mesh.manager()
    most = mesh.bus.max_payload
    body = to_json({"prompt": "hi", "metadata": {"a": "b" * (most - 100)}})
    answer = await mesh.ask_raw(body + b" " * (most - len(body)))
    assert answer["error"]["code"] == "payload_too_large"
    [row] = (await by_task(books, "responses", 1)).values()
    assert row["cost_usd"] == 0
    [tried] = (await by_task(books, "attempts", 1)).values()
    assert (tried["outcome"], tried["error_code"], tried["cost_usd"]) == ("refused", "payload_too_large", 0)


async def test_what_the_slower_of_two_has_cost_is_booked(mesh: SmallMesh, books: Books) -> None:
    slow = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.progress(tokens=3)
        if not slow.is_set():
            await asked.answer("quick", cost_usd=EXACT.cost(10, 2))
            return
        await eventually(lambda: fake.told)
        used = PartialUsage(prompt_tokens=10, completion_tokens=3, cost_usd=EXACT.cost(10, 3))
        await asked.fail(BullpenError(ErrorCode.CANCELLED, "stopped"), used)

    await mesh.worker("w-1", price=PRICE, latency_ms=300, output_tokens=5)
    async with FakeWorker(mesh.bus, "f-1", acting(script), price=EXACT) as fake:
        await mesh.manager(hedging={"share": 1.0, "at_least": 3})
        await mesh.knows("f-1")
        asked: list[str] = []
        while asked[-3:] != ["f-1"] * 3:
            answer = await mesh.ask(policy="fastest", task_id=f"quick-{len(asked)}", hedge=False)
            asked.append(answer["worker_id"])
        slow.set()
        assert (await mesh.ask(policy="fastest", task_id="hedged"))["worker_id"] == "w-1"
        row = (await by_task(books, "responses", len(asked) + 1))["hedged"]
        await eventually(books.booked(len(asked) + 2, "attempts"))
    tried = [a for a in await books.rows("attempts") if a["task_id"] == "hedged"]
    assert {a["outcome"]: a["cost_usd"] for a in tried} == {"hedged_loser": EXACT.cost(10, 3), "ok": EXACT.cost(2, 5)}
    assert row["cost_usd"] == EXACT.cost(12, 8)
    await eventually(lambda: agree(books))


async def test_a_late_answer_makes_the_request_as_dear_as_it_was(mesh: SmallMesh, books: Books) -> None:
    late = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await late.wait()
        await asked.answer("late", tokens=7, cost_usd=EXACT.cost(10, 7))

    async with FakeWorker(mesh.bus, "f-1", acting(script), price=EXACT):
        await mesh.worker("w-1", price=DEARER, latency_ms=0, output_tokens=5)
        await mesh.manager(first_token_timeout=0.3)
        await mesh.knows("f-1")
        answer = await mesh.ask(task_id="t", policy="cheapest")
        assert (answer["worker_id"], answer["cost_usd"]) == ("w-1", None)  # the other one may have worked for nothing
        row = (await by_task(books, "responses", 1))["t"]
        assert row["cost_usd"] is None
        await eventually(books.booked(2, "attempts"))
        await eventually(lambda: agree(books))
        late.set()

        async def corrected() -> Any:
            [row] = await books.rows("responses")
            return row["cost_usd"]

        assert await eventually(corrected) == EXACT.cost(10, 7) + Price.model_validate(DEARER).cost(2, 5)

        async def outcomes() -> bool:
            return {row["outcome"] for row in await books.rows("attempts")} == {"late_discarded", "ok"}

        await eventually(outcomes)
        await eventually(lambda: agree(books))


async def test_a_late_word_about_what_was_used_is_booked_as_well(mesh: SmallMesh, books: Books) -> None:
    late = asyncio.Event()

    async def script(asked: Asked) -> None:
        await asked.claim()
        await asked.progress(tokens=3)
        await late.wait()
        told = PartialUsage(prompt_tokens=10, completion_tokens=3, cost_usd=EXACT.cost(10, 3))
        await asked.fail(BullpenError(ErrorCode.CANCELLED, "stopped"), told)

    async with FakeWorker(mesh.bus, "f-1", acting(script), price=EXACT):
        await mesh.manager()
        assert (await mesh.ask(deadline_ms=3000))["error"]["code"] == "deadline_exceeded"
        await eventually(books.booked(1))
        assert [row["cost_usd"] for row in await books.rows("responses")] == [None]
        late.set()

        async def corrected() -> bool:
            return {row["cost_usd"] for row in await books.rows("responses")} == {EXACT.cost(10, 3)}

        await eventually(corrected)
        await eventually(books.booked(1, "attempts"))
        await eventually(lambda: agree(books))


async def test_a_new_price_changes_nothing_that_was_booked(mesh: SmallMesh, books: Books) -> None:
    def announced(price: Price) -> bool:
        return mesh.beats["w-1"].models[0].price == price

    await mesh.manager()
    for task_id, price in (("before", PRICE), ("after", NANO)):
        await mesh.worker("w-1", price=price, latency_ms=0, output_tokens=5)
        await eventually(partial(announced, Price.model_validate(price)))
        await mesh.ask(task_id=task_id)
        await mesh.stop("w-1")
    rows, tries = await by_task(books, "responses", 2), await by_task(books, "attempts", 2)
    for task_id, price in (("before", PRICE), ("after", NANO)):
        then = Price.model_validate(price)
        assert Price.model_validate_json(rows[task_id]["price"]) == then
        assert Price.model_validate_json(tries[task_id]["price"]) == then
        assert rows[task_id]["cost_usd"] == tries[task_id]["cost_usd"] == then.cost(2, 5)


# In the tables


async def test_ten_thousand_small_amounts_add_up_to_the_last_digit(books: Books) -> None:
    amounts = [Decimal(text) for text in ("0.1", "0.2", "0.00000015", "0.000000000001", "1234.5")]
    costs = [amounts[number % 5] for number in range(10_000)]
    await migrate(books.store)
    rows = [response(cost_usd=cost).to_bytes() for cost in costs]
    tries = [attempt(cost_usd=cost).to_bytes() for cost in costs]
    await books.store.save({"responses": rows, "attempts": tries})
    exact = Decimal("2469600.000300002")
    assert sum(costs) == exact
    for key in ("model", "tenant", "day"):
        assert [row.cost_usd for row in await queries.cost_by(books.store, key)] == [exact], key


async def test_a_cost_told_late_is_kept_in_whatever_order_the_events_come(books: Books) -> None:
    """Several accountants may be at it, and events may come twice."""
    await migrate(books.store)
    for order, at_once in itertools.product(itertools.permutations(range(3)), (True, False)):
        unknown, tried = response(cost_usd=None), attempt(cost_usd=None, outcome=Outcome.CANCELLED, confidence=None)
        told, used = (row.model_copy(update={"cost_usd": Decimal("0.5")}) for row in (unknown, tried))
        events = [(unknown, tried), (told, used), (unknown, tried)]
        batches = [[events[number] for number in order]] if at_once else [[events[number]] for number in order]
        for batch in batches:
            tables = {
                "responses": [row.to_bytes() for row, _ in batch],
                "attempts": [row.to_bytes() for _, row in batch],
            }
            await books.store.save(tables)
    for table in ("responses", "attempts"):
        assert [row["cost_usd"] for row in await books.rows(table)] == [Decimal("0.5")] * 12
