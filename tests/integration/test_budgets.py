"""Budgets in the mesh: several Managers, one purse."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bus import Bus, BusSettings, Message
from client import Bullpen
from contracts import Price
from contracts import subjects as s
from manager.budgets.accounts import Account, Ledger, LocalBudget
from manager.budgets.ledger import MOST_AT_REST, BudgetLedger
from manager.config import Budget
from manager.metrics import Metrics
from tests.fake_worker import Asked, FakeWorker, acting
from tests.mesh import Json, SmallMesh
from tests.servers import NatsServer, PlainNats
from tests.support import eventually

PRICE = {"input_per_mtok": 0.0, "output_per_mtok": 1000.0}
PAID: dict[str, Any] = {"local": False, "price": PRICE, "output_tokens": 10, "latency_ms": 20}
ALL: dict[str, Any] = {"limit_usd": 100, "per": "total"}
EACH = Decimal("0.01")
"""What an answer of `PAID` costs, in US dollars."""


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as small:
        yield small


def spent(answers: list[Json]) -> Decimal:
    return sum((Decimal(str(a["cost_usd"])) for a in answers if "output" in a), Decimal(0))


async def test_three_managers_do_not_overshoot_a_tenant_s_budget(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    budgets = [{"tenant": "acme", "limit_usd": 0.5}, {"tenant": "other", "limit_usd": 100}]
    for number in range(3):
        await mesh.manager(f"m-{number}", budgets=budgets)
    asked: Json = {"metadata": {"tenant": "acme"}, "max_tokens": 10}
    answers: list[Json] = []
    for _ in range(4):
        answers += await asyncio.gather(*(mesh.ask(**asked) for _ in range(50)))
    refused = [a for a in answers if "error" in a]
    assert {a["error"]["code"] for a in refused} == {"budget_exceeded"}
    assert "the budget of tenant 'acme', 0.5 USD per day has not enough left" in refused[0]["error"]["message"]
    assert 0 < refused[0]["error"]["retry_after_ms"] <= 86_400_000
    assert spent(answers) <= Decimal("0.5")

    async def all_is_spent() -> bool:
        """What one Manager held on lease comes back when it needs it no more."""
        answers.append(await mesh.ask(**asked))
        return spent(answers) == Decimal("0.5")

    await eventually(all_is_spent, timeout=15)
    assert "output" in await mesh.ask(metadata={"tenant": "other"})
    assert "output" in await mesh.ask()


async def test_who_pays_out_of_several_budgets_does_not_overshoot_the_smallest(mesh: SmallMesh) -> None:
    """All at once, while a Manager that knows nothing yet asks the ledgers."""
    await mesh.worker("w-1", **PAID)
    await mesh.manager(budgets=[{"tenant": "acme", "limit_usd": 0.05}, {"tenant": "*", "limit_usd": 0.04}, ALL])
    asked: Json = {"metadata": {"tenant": "acme"}, "max_tokens": 10}
    answers = await asyncio.gather(*(mesh.ask(**asked) for _ in range(50)))
    assert spent(answers) <= Decimal("0.04")
    assert {a["error"]["code"] for a in answers if "error" in a} == {"budget_exceeded"}

    async def all_is_spent() -> bool:
        """What was set aside in one budget, for a request that another one refused, is free again."""
        answers.append(await mesh.ask(**asked))
        return spent(answers) == Decimal("0.04")

    await eventually(all_is_spent, timeout=15)


async def test_an_answer_that_came_late_is_paid_as_any_other(mesh: SmallMesh) -> None:
    """Its attempt was given up on, and settled with what was known then: nothing."""

    async def slow(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await asyncio.sleep(1.0)
        await asked.answer("after all", tokens=7, cost_usd=Decimal("0.007"))

    price = Price(input_per_mtok=Decimal(0), output_per_mtok=Decimal(1000))
    async with FakeWorker(mesh.bus, "f-1", acting(slow), price=price) as fake:
        await mesh.manager(budgets=[ALL], first_token_timeout=0.6)
        asking = asyncio.create_task(mesh.ask())
        await eventually(lambda: fake.asked)
        await mesh.worker("w-1", latency_ms=15_000, max_concurrency=1)
        assert (await asking)["output"] == "after all"
    bullpen = Bullpen(mesh.bus)

    async def paid() -> bool:
        return [state.spent_usd for state in await bullpen.budgets()] == [Decimal("0.007")]

    await eventually(paid, timeout=10)


async def test_when_a_model_has_no_money_left_another_one_answers(mesh: SmallMesh) -> None:
    dear = {**PAID, "models": [{"name": "dear", "context_window": 8192, "capabilities": ["chat", "stream"]}]}
    await mesh.worker("dear-1", **dear)
    await mesh.manager(budgets=[{"model": "dear", "limit_usd": 0.03, "per": "month"}])
    asked = [await mesh.ask(model="dear", max_tokens=10) for _ in range(4)]
    assert [a.get("model_id", a.get("error", {}).get("code")) for a in asked] == ["dear"] * 3 + ["budget_exceeded"]
    await mesh.worker("free-1")
    answers = [await mesh.ask(max_tokens=10) for _ in range(6)]
    assert {a["model_id"] for a in answers} == {"simulated"}


async def test_it_is_said_when_a_budget_is_nearly_spent(mesh: SmallMesh) -> None:
    told: list[Message] = []
    await mesh.bus.subscribe_inline(s.METRICS_BUDGET, told.append)
    await mesh.worker("w-1", **PAID)
    await mesh.manager(budgets=[{"limit_usd": 0.1, "warn_at": 0.5}])
    for _ in range(8):
        await mesh.ask(max_tokens=10)
    await eventually(lambda: len(told) == 1, timeout=10)
    assert b'"limit_usd":"0.1"' in told[0].data


async def test_what_was_spent_is_known_after_all_managers_restarted(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    config = {"budgets": [{"limit_usd": 0.05}]}
    await mesh.manager("m-1", **config)
    answers = [await mesh.ask(max_tokens=10) for _ in range(4)]
    await mesh.stop("m-1")
    await mesh.manager("m-2", **config)
    answers += [await mesh.ask(max_tokens=10) for _ in range(4)]
    assert spent(answers) == Decimal("0.05")


async def test_every_caller_can_see_how_much_is_spent(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    budgets = [{"tenant": "*", "limit_usd": 1}, {"model": "simulated", "limit_usd": 0.02, "per": "month"}, ALL]
    for number in range(2):
        await mesh.manager(f"m-{number}", budgets=budgets)
    bullpen = Bullpen(mesh.bus)
    untouched = [(state.tenant, state.model_id, state.spent_usd) for state in await bullpen.budgets()]
    assert untouched == [(None, None, Decimal(0)), (None, "simulated", Decimal(0))]
    for tenant in ("acme", "other"):
        await mesh.ask(max_tokens=10, metadata={"tenant": tenant})

    async def told() -> bool:
        """What one Manager has spent the other hears of two seconds later."""
        return [(state.tenant, state.model_id, state.spent_usd) for state in await bullpen.budgets()] == [
            (None, "simulated", 2 * EACH),
            ("acme", None, EACH),
            ("other", None, EACH),
            (None, None, 2 * EACH),
        ]

    await eventually(told, timeout=15)
    assert [state.ends_at is None for state in await bullpen.budgets()] == [False, False, False, True]
    assert (await mesh.ask(max_tokens=10))["error"]["code"] == "budget_exceeded"


async def test_an_unreadable_budget_is_unknown(tmp_path: Path) -> None:
    server = PlainNats(tmp_path)
    await server.start()
    try:
        bus = await Bus.connect("test", BusSettings(servers=(server.url,)))
        treasury = BudgetLedger(bus, (Budget(**ALL),), "m-1", Metrics(bus, "m-1"))
        assert [state.spent_usd for state in await treasury.states()] == [None]
        await bus.close()
    finally:
        server.kill()


async def test_no_request_waits_for_a_missing_budget(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    await mesh.manager(budgets=[{"tenant": "acme", "limit_usd": 1}])
    assert "output" in await mesh.ask()
    streams = await mesh.bus.nats.jetstream().streams_info()
    assert "KV_bullpen_budgets" not in {info.config.name for info in streams}


async def test_tenants_that_spend_nothing_any_more_make_no_work(nats: NatsServer) -> None:
    bus = await Bus.connect("manager:m-1", BusSettings(servers=(nats.url,)))
    each = Budget.model_validate({"tenant": "*", "limit_usd": 1})
    ledger = BudgetLedger(bus, (each,), "m-1", Metrics(bus, "m-1"))
    written: list[Message] = []
    await bus.subscribe_inline("$KV.bullpen_budgets.>", written.append)
    for number in range(40):
        reserved = await ledger.reserve(f"tenant-{number}", "m", EACH)
        assert reserved is not None
        reserved.settle(EACH)
    for _ in range(2):
        await ledger._renew_all()
    await bus.flush()
    before = len(written)
    await ledger._renew_all()
    await bus.flush()
    assert len(written) == before, "their leases are given back, and that is all"
    assert len(await ledger.states()) == 40
    assert {state.spent_usd for state in await ledger.states()} == {EACH}
    await bus.close()


async def test_so_many_tenants_at_rest_are_remembered_and_no_more(nats: NatsServer) -> None:
    bus = await Bus.connect("manager:m-1", BusSettings(servers=(nats.url,)))
    ledger = BudgetLedger(bus, (Budget.model_validate({"tenant": "*", "limit_usd": 1}),), "m-1", Metrics(bus, "m-1"))
    reserved = await ledger.reserve("busy", "m", EACH)
    for number in range(MOST_AT_REST + 50):
        local = LocalBudget(Account(ledger._budgets[0], f"t-{number}", "w", None), known=Ledger())
        ledger._local_budgets[local.account.key] = local
    await ledger._renew_all()
    assert len(ledger._local_budgets) == MOST_AT_REST + 1
    assert len(ledger._renewing) == 1
    assert reserved is not None
    await bus.close()
