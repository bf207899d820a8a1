"""Budgets in the mesh: several Managers, one purse."""

import asyncio
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bus import Bus, BusSettings, Message, RequestTimeout
from bus.kv import Bucket
from client import Bullpen
from contracts import BudgetState, BullpenError, Price
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
NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC
EACH = Decimal("0.01")
"""What an answer of `PAID` costs, in US dollars."""


@pytest.fixture(autouse=True)
def patience_at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetStream may take its time: what a Manager does without it is no matter here. Nor does a day end meanwhile."""
    for name in ("WITHIN", "BACKGROUND_WITHIN"):
        monkeypatch.setattr(f"manager.budgets.ledger.{name}", 20.0)
    began = time.monotonic()
    monkeypatch.setattr(BudgetLedger.__init__, "__defaults__", (lambda: NOON + time.monotonic() - began,))


def spent(answers: list[Json]) -> Decimal:
    return sum((Decimal(str(a["cost_usd"])) for a in answers if "output" in a), Decimal(0))


async def spend_all(mesh: SmallMesh, answers: list[Json], limit: Decimal, request: Json, tenant: str) -> None:
    """Asks until no other answer can be paid out of the tenant's budget. What nobody needs on lease comes back.

    By what the ledger says: an attempt may have been paid that brought no answer.
    """
    told: list[Decimal] = []

    async def all_is_spent() -> bool:
        answers.append(await mesh.ask(**request))
        mine = [one for one in await states(mesh) if (one.tenant, one.limit_usd) == (tenant, limit)]
        told.extend(one.spent_usd or Decimal(0) for one in mine)
        return bool(told) and limit - EACH < told[-1] >= spent(answers)

    await eventually(all_is_spent, timeout=40)
    assert max(told) <= limit


async def states(mesh: SmallMesh) -> list[BudgetState]:
    """Empty when no Manager has answered in time."""
    with suppress(BullpenError):
        return await Bullpen(mesh.bus).budgets()
    return []


@pytest.mark.timeout(120)  # two hundred requests, then what lies on lease comes back
async def test_three_managers_do_not_overshoot_a_tenant_s_budget(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    budgets = [{"tenant": "acme", "limit_usd": 0.5}, {"tenant": "other", "limit_usd": 100}]
    for number in range(3):
        await mesh.manager(f"m-{number}", budgets=budgets)
    asked: Json = {"metadata": {"tenant": "acme"}, "max_tokens": 10}
    answers: list[Json] = []
    for _ in range(4):
        answers += await asyncio.gather(*(mesh.ask(**asked) for _ in range(50)))
    assert {a["error"]["code"] for a in answers if "error" in a} == {"budget_exceeded"}
    assert spent(answers) <= Decimal("0.5")
    await spend_all(mesh, answers, Decimal("0.5"), asked, "acme")
    assert "output" in await mesh.ask(metadata={"tenant": "other"})
    assert "output" in await mesh.ask()


async def test_who_is_refused_is_told_which_budget_and_until_when(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **PAID)
    await mesh.manager(budgets=[{"tenant": "acme", "limit_usd": 0.005}])
    error = (await mesh.ask(metadata={"tenant": "acme"}, max_tokens=10))["error"]
    assert error["code"] == "budget_exceeded"
    assert "the budget of tenant 'acme', 0.005 USD per day has not enough left" in error["message"]
    assert 0 < error["retry_after_ms"] <= 43_200_000


async def test_who_pays_out_of_several_budgets_does_not_overshoot_the_smallest(mesh: SmallMesh) -> None:
    """All at once, while a Manager that knows nothing yet asks the ledgers.

    What was set aside in one budget, for a request that another one refused, is free again.
    """
    await mesh.worker("w-1", **PAID)
    small = {"tenant": "*", "limit_usd": 0.04}
    await mesh.manager(budgets=[{"tenant": "acme", "limit_usd": 0.05, "per": "month"}, small, ALL])
    asked: Json = {"metadata": {"tenant": "acme"}, "max_tokens": 10}
    answers = await asyncio.gather(*(mesh.ask(**asked) for _ in range(50)))
    assert spent(answers) <= Decimal("0.04")
    assert {a["error"]["code"] for a in answers if "error" in a} == {"budget_exceeded"}
    await spend_all(mesh, answers, Decimal("0.04"), asked, "acme")


async def test_what_the_ledger_heard_without_our_knowing_is_not_spent_twice(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JetStream has written what was spent, and its acknowledgement is lost or too late."""
    bus = await Bus.connect("manager:m-1", BusSettings(servers=(nats.url,)))
    warnings: list[Message] = []
    await bus.subscribe_inline(s.METRICS_BUDGET, warnings.append)
    ledger = BudgetLedger(bus, (Budget(limit_usd=2 * EACH, warn_at=0.5, per="total"),), "m-1", Metrics(bus, "m-1"))
    reserved = await ledger.reserve("", "m", EACH)
    assert reserved is not None
    reserved.settle(EACH)
    put = Bucket.put

    async def put_unheard(bucket: Bucket, *about: Any, **more: Any) -> None:
        await put(bucket, *about, **more)
        raise RequestTimeout("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", put_unheard)
        await ledger._renew_all()
    assert not warnings
    assert await ledger.reserve("", "m", EACH) is not None, "there is as much left"
    assert [state.spent_usd for state in await ledger.states()] == [EACH]
    await eventually(lambda: warnings)
    await bus.close()


async def test_an_answer_that_came_late_is_paid_as_any_other(mesh: SmallMesh) -> None:
    """Its attempt was given up on, and settled with what was known then: nothing."""

    async def slow(asked: Asked) -> None:
        await asked.claim()
        await asked.progress()
        await eventually(lambda: [order for order in fake.told if order.op == "cancel"])
        await asked.answer("after all", tokens=7, cost_usd=Decimal("0.007"))

    await mesh.worker("w-1", latency_ms=30_000, max_concurrency=1)
    await mesh.manager(budgets=[ALL], first_token_timeout=0.6)
    busy = asyncio.create_task(mesh.ask(task_id="long", timeout=40))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    price = Price(input_per_mtok=Decimal(0), output_per_mtok=Decimal(1000))
    async with FakeWorker(mesh.bus, "f-1", acting(slow), price=price) as fake:
        assert (await mesh.ask(policy="fastest"))["output"] == "after all"

    async def paid() -> bool:
        return [state.spent_usd for state in await states(mesh)] == [Decimal("0.007")]

    await eventually(paid)
    await mesh.bus.publish(s.INFER_CANCEL, b'{"task_id": "long"}')
    assert (await busy)["error"]["code"] == "cancelled"


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
    await eventually(lambda: len(told) == 1)
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

    async def untouched() -> bool:
        told = [(state.tenant, state.model_id, state.spent_usd) for state in await states(mesh)]
        return told == [(None, None, Decimal(0)), (None, "simulated", Decimal(0))]

    await eventually(untouched)
    for tenant in ("acme", "other"):
        await mesh.ask(max_tokens=10, metadata={"tenant": tenant})

    async def told() -> bool:
        """What one Manager has spent the other hears of two seconds later."""
        return [(one.tenant, one.model_id, one.spent_usd, one.ends_at is None) for one in await states(mesh)] == [
            (None, "simulated", 2 * EACH, False),
            ("acme", None, EACH, False),
            ("other", None, EACH, False),
            (None, None, 2 * EACH, True),
        ]

    await eventually(told)
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
    await bus.publish("$KV.bullpen_budgets.marker", b"before")
    await ledger._renew_all()
    await bus.publish("$KV.bullpen_budgets.marker", b"after")
    await eventually(lambda: written[-1].data == b"after")
    assert written[-2].data == b"before", "their leases are given back, and that is all"
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
