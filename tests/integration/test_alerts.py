"""The dashboard, the alerts and the autoscaler: they ask for what is really there, and each alert fires when it should.

Prometheus's own `promtool` says which alerts fire, on pages of real meshes before and in a fault; it is told that each
page stays for ten minutes. Without promtool only the names are checked.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus.role_status import RoleStatus
from contracts import subjects as s
from tests.books import Books, response
from tests.gateway import door_of
from tests.mesh import SmallMesh
from tests.promql import PROMTOOL, ROOT, RULES, Page, firing, labels_of, page_of, read, wrong_names
from tests.servers import NatsServer, PostgresServer
from tests.support import eventually

PANELS = json.loads((ROOT / "deploy" / "grafana" / "live.json").read_text())["panels"]
SCALED = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "autoscaling" / "scaledobject.yaml").read_text())
ALERTS = {rule["alert"]: rule["expr"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
QUERIES = {
    **{f"scale {number}": told["metadata"]["query"] for number, told in enumerate(SCALED["spec"]["triggers"])},
    **ALERTS,
}
PRICE = {"input_per_mtok": 1, "output_per_mtok": 4}
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool: see `make help`")


def pages(**roles: RoleStatus) -> Page:
    """What Prometheus reads when it looks at these, by names that begin with the role."""
    page: Page = {}
    for name, status in roles.items():
        page |= read(page_of(name.partition("_")[0], status), instance=name)
    return page


@pytest.fixture
async def mesh(nats: NatsServer) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats.url) as mesh:
        yield mesh


async def looked_at(mesh: SmallMesh) -> Page:
    roles = {f"{'manager' if name.startswith('m') else 'worker'}_{name}": told for name, told in mesh.statuses.items()}
    return pages(**roles)


async def test_nothing_asks_for_a_figure_or_label_that_is_not_there(mesh: SmallMesh, database_url: str) -> None:
    budget = {"tenant": "acme", "limit_usd": 5}
    async with AsyncExitStack() as stack:
        await mesh.worker("w-1", price=PRICE, latency_ms=0)
        await mesh.manager(budgets=[budget], tenants_in_metrics=3)
        books = await stack.enter_async_context(Books(mesh.settings.servers[0], database_url))
        books.start("t-1", report_interval=0.1)
        door = await stack.enter_async_context(door_of(mesh))
        await mesh.ask(metadata={"tenant": "acme"})
        await mesh.ask(model="none")
        accountant, manager, worker = books.statuses["t-1"], mesh.statuses["m-1"], mesh.statuses["w-1"]
        known: dict[str, set[str]] = {}

        def complete() -> bool:
            page = pages(manager=manager, worker=worker, telemetry=accountant, gateway=door.status)
            known.update(labels_of([page]))
            wrong = {title: names for title, query in QUERIES.items() if (names := wrong_names(query, known))}
            assert wrong == {}
            return True

        await eventually(complete)
    for panel in PANELS:
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert shown <= grouped, f"{panel['title']}: {shown - grouped} is not what the query groups by"


def test_a_query_that_names_what_is_not_there_is_found() -> None:
    known = {"bullpen_up": {"role", "instance", "job"}}
    assert wrong_names('sum by (role) (bullpen_up{role="manager"}) > 0', known) == []
    asked = 'sum by (colour) (rate(bullpen_down{role="x"}[1m])) / sum(bullpen_up{worker="w"})'
    assert wrong_names(asked, known) == ["bullpen_down", "bullpen_down{role}", "bullpen_up{worker}", "by (colour)"]


@needs_promtool
async def test_a_worker_that_dies_is_told_and_so_are_the_errors_that_follow(mesh: SmallMesh, tmp_path: Path) -> None:
    await mesh.worker("w-1", latency_ms=0)
    await mesh.manager()
    await mesh.ask()
    well = await looked_at(mesh)
    dying = mesh.running("w-1")
    dying.cancel()
    await asyncio.wait({dying})
    worker = mesh.statuses.pop("w-1")
    assert worker
    failed = await mesh.ask(deadline_ms=300)
    assert failed["error"]["status"] >= 500
    dead = await looked_at(mesh)
    assert firing(tmp_path, [well, dead]) == [set(), {"WorkerSilent", "NoWorker", "ErrorBudgetBurns"}]


@needs_promtool
async def test_a_full_mesh_is_told(mesh: SmallMesh, tmp_path: Path) -> None:
    await mesh.worker("w-1", latency_ms=60_000, max_concurrency=1, max_queue=0)
    await mesh.manager()
    well = await looked_at(mesh)
    asking = [asyncio.create_task(mesh.ask(task_id=f"t-{number}")) for number in range(3)]
    manager = mesh.statuses["m-1"]
    full = await eventually(lambda: _waits_and_full(manager))
    for number in range(3):
        await mesh.bus.publish(s.INFER_CANCEL, json.dumps({"task_id": f"t-{number}"}).encode())
    await asyncio.gather(*asking)
    assert firing(tmp_path, [well, full]) == [set(), {"NoCapacity"}]


def _waits_and_full(manager: RoleStatus) -> Page | None:
    page = pages(manager=manager)
    told = {name: value for (name, _), value in page.items()}
    return page if told["bullpen_requests_waiting"] and not told["bullpen_model_free"] else None


@needs_promtool
async def test_jetstream_that_is_away_is_told(mesh: SmallMesh, nats: NatsServer, tmp_path: Path) -> None:
    await mesh.worker("w-1", latency_ms=0)
    await mesh.manager()
    await mesh.ask()
    well = await looked_at(mesh)
    nats.stop()
    nats.config = re.sub(r"(?s)jetstream \{.*?\n\}", "", nats.config)
    await nats.start()
    manager = mesh.statuses["m-1"]

    async def refused() -> Page | None:
        await mesh.ask()
        page = await looked_at(mesh)
        told = {name: value for (name, labels), value in page.items() if ("instance", "manager_m-1") in labels}
        return page if told["bullpen_outbox_refused_seconds"] > 0 else None

    await eventually(lambda: not manager.why_not() and _ready(manager))
    away = await eventually(refused)
    assert firing(tmp_path, [well, away], growing="bullpen_outbox_refused_seconds") == [set(), {"BooksRefused"}]


def _ready(manager: RoleStatus) -> bool:
    return any(figure.name == "workers_ready" and figure.value for figure in manager.figures())


@needs_promtool
async def test_books_that_fall_behind_are_told(nats: NatsServer, postgres: PostgresServer, tmp_path: Path) -> None:
    await postgres.start()
    async with Books(nats.url, postgres.url) as books:
        books.start("t-1", report_interval=0.1)
        status = books.statuses["t-1"]

        def waiting(least: int, away: int) -> Page | None:
            page = pages(telemetry=status)
            told = {name: value for (name, _), value in page.items()}
            is_so = told.get("bullpen_database_away") == away and told.get("bullpen_events_waiting", -1) >= least
            return page if is_so else None

        behind = {"BacklogGrows", "DatabaseAway"}
        looks = [await eventually(lambda: waiting(0, 0))]
        postgres.kill()
        for number in (150, 300):
            await books.publish(s.TELEMETRY_RESPONSE, *(response().to_bytes() for _ in range(150)))
            looks.append(await eventually(partial(waiting, number, 1)))
        assert firing(tmp_path, looks) == [set(), behind, behind]
        await postgres.start()


@needs_promtool
async def test_a_budget_that_is_nearly_spent_is_told(mesh: SmallMesh, tmp_path: Path) -> None:
    await mesh.worker("w-1", price=PRICE, latency_ms=0)
    await mesh.manager(budgets=[{"tenant": "acme", "limit_usd": 0.01, "per": "month"}])
    told: dict[str, Any] = await mesh.ask(metadata={"tenant": "acme"})
    well = await looked_at(mesh)
    while "error" not in told:
        told = await mesh.ask(metadata={"tenant": "acme"})
    assert told["error"]["code"] == "budget_exceeded"
    spent = await looked_at(mesh)
    assert firing(tmp_path, [well, spent]) == [set(), {"BudgetNearlySpent"}]


def test_every_alert_is_seen_to_fire_by_one_of_these() -> None:
    text = Path(__file__).read_text()
    assert [alert for alert in ALERTS if f'"{alert}"' not in text] == []
