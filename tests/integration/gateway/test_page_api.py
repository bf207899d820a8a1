"""The live page's API on a real mesh: what it shows to whom, what it does for whom, and that both are as documented."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from pydantic_core import from_json

from bullpen.doctor import Finding
from contracts import KeyRole, OpenModel, new_id, utc_now
from gateway.api import api as page_api
from gateway.api.pages import FOLDER
from gateway.keys.office import KeyOffice
from gateway.openapi import document
from telemetry.reading.service import BooksService
from telemetry.store import Store
from telemetry.upkeep.migrate import migrate
from tests.books import attempt, response
from tests.gateway import PATIENT, Door, door_of
from tests.mesh import SmallMesh
from tests.support import eventually

OURS = {"x-bullpen-page": "1"}
DOCUMENT: Any = from_json(document())
MINE, THEIRS = new_id(), new_id()


@dataclass(slots=True)
class Page:
    door: Door
    mesh: SmallMesh
    headers: dict[str, str]

    async def ask(self, path: str, method: str = "GET", **sent: Any) -> tuple[int, Any]:
        headers = {**self.headers, **sent.pop("headers", {})}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.door.url}/api/v1/{path}", headers=headers, **sent) as answer,
        ):
            told = await answer.json()
            _check(path.partition("?")[0], method, answer.status, told)
            return answer.status, told

    async def get(self, path: str) -> Any:
        status, told = await self.ask(path)
        assert status == 200, told
        return told

    async def of(self, role: KeyRole, tenant: str = "acme") -> "Page":
        """The same page, looked at with a key of that role."""
        _, secret = await (await KeyOffice.open(self.mesh.bus)).create(tenant, role=role)
        page = Page(self.door, self.mesh, {"Authorization": f"Bearer {secret}"})
        await eventually(lambda: _is(page, 200), timeout=PATIENT)
        return page

    @asynccontextmanager
    async def events(self) -> AsyncIterator[aiohttp.StreamReader]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.door.url}/api/v1/events", headers=self.headers) as answer,
        ):
            assert answer.content_type == "text/event-stream"
            yield answer.content


@pytest.fixture
async def page(mesh: SmallMesh, database_url: str) -> AsyncIterator[Page]:
    """A worker, a gateway, and books with one request each of `acme` and `rival`."""
    store = Store(database_url, 30)
    await migrate(store)
    now = utc_now()
    rows: list[OpenModel] = [
        response(request_id=one, task_id=one, created_at=now, metadata={"tenant": tenant}, prompt=f"of {tenant}")
        for one, tenant in ((MINE, "acme"), (THEIRS, "rival"))
    ]
    await store.save({"responses": [row.to_bytes() for row in rows]})
    tried = [attempt(request_id=one, created_at=now) for one in (MINE, THEIRS)]
    await store.save({"attempts": [row.to_bytes() for row in tried]})
    await BooksService(mesh.bus, store).serve()
    await mesh.worker("w-1", latency_ms={"fixed": 0}, output_tokens=4)
    async with door_of(mesh) as door:
        yield Page(door, mesh, OURS)
    await store.close()


async def test_everything_is_shown_on_this_machine_and_as_documented(page: Page) -> None:
    assert await page.get("session") == {"role": "operator", "tenant": None, "key_id": None, "open": True}
    await eventually(lambda: _shows(page, "managers"), timeout=PATIENT)
    assert (await page.get("mesh"))["workers"]["w-1"]["state"] == "ready"
    assert {row["tenant"] for row in (await page.get("requests?limit=10"))["requests"]} == {"acme", "rival"}
    told = await page.get(f"requests/{MINE}")
    assert (told["response"]["prompt"], len(told["attempts"])) == ("of acme", 1)
    assert (await page.get("totals"))["requests"] == 2
    assert {row["tenant"] for row in (await page.get("cost"))["cost"]} == {"acme", "rival"}
    assert [row["answers"] for row in (await page.get("models"))["models"]] == [2]
    for path in ("keys", "budgets"):
        await page.get(path)
    for path, status in (("requests?color=red", 400), ("requests?limit=0", 400), ("nothing", 404), ("health", 503)):
        assert (await page.ask(path))[0] == status
    for path, allowed in (("mesh", "GET, HEAD"), ("keys", "GET, HEAD, POST")):
        async with (
            aiohttp.ClientSession(page.door.url) as session,
            session.delete(f"/api/v1/{path}", headers=OURS) as answer,
        ):
            assert (answer.status, answer.headers["Allow"]) == (405, allowed)


async def test_orders_are_carried_out_and_seen_as_they_are(page: Page) -> None:
    async with page.events() as events:
        seen = await _until(events, lambda told: "w-1" in told.get("workers", {}))
        assert seen["workers"]["w-1"]["state"] == "ready"
        status, told = await page.ask("workers/w-1/drain", "POST")
        assert (status, told["ok"]) == (200, True)
        await _until(events, lambda told: told.get("workers", {}).get("w-1", {}).get("state") == "draining")
        await page.ask("workers/w-1/resume", "POST")
        await _until(events, lambda told: told.get("workers", {}).get("w-1", {}).get("state") == "ready")
        await page.mesh.ask()
        await _until(events, lambda told: any(route["winner"] == "w-1" for route in told.get("routes", ())))
        await page.ask("managers/m-1/drain", "POST")
        assert await page.mesh.drains()
    for path, sent, wanted in (
        ("workers/nobody/drain", {}, 503),
        ("workers/w-1/swap", {"json": {"model": "another"}}, 200),
        ("workers/w-1/swap", {"json": {}}, 400),
        ("workers/w-1/bench", {"json": {"model": "simulated"}}, 409),  # it has no grade yet
        ("workers/7)z$/bench", {"json": {"model": "simulated"}}, 400),
        ("workers/7)z$/drain", {}, 400),
        ("workers/w-1/explode", {}, 404),
    ):
        assert (await page.ask(path, "POST", **sent))[0] == wanted
    assert (await page.ask("workers/w-1/drain", "POST", headers={"x-bullpen-page": ""}))[0] == 200
    page.headers = {}
    assert (await page.ask("workers/w-1/drain", "POST"))[0] == 403


async def test_a_tenant_s_key_shows_nothing_of_another_tenant(page: Page) -> None:
    tenant = await page.of("tenant")
    assert (await tenant.get("session"))["tenant"] == "acme"
    for path in ("requests", "requests?tenant=rival", f"requests?name={THEIRS}", "requests?text=rival"):
        assert THEIRS not in str(await tenant.get(path))
    assert (await tenant.ask(f"requests/{THEIRS}"))[0] == 404
    assert (await tenant.get(f"requests/{MINE}"))["response"]["prompt"] == "of acme"
    assert (await tenant.get("totals"))["requests"] == 1
    assert {row["tenant"] for row in (await tenant.get("cost"))["cost"]} == {"acme"}
    assert set((await tenant.get("mesh"))["workers"]["w-1"]) == {"id", "backend", "state", "models", "local"}
    for path in ("keys", "health"):
        assert (await tenant.ask(path))[0] == 403
    async with tenant.events() as events:
        assert set(await _until(events, lambda told: True)) == {"workers"}


async def test_a_viewer_looks_and_an_operator_acts(page: Page) -> None:
    viewer, operator = await page.of("viewer", "ops"), await page.of("operator", "ops")
    assert len((await viewer.get("requests"))["requests"]) == 2
    for path in ("workers/w-1/drain", "managers/m-1/drain", "keys", "keys/key-1/revoke"):
        assert (await viewer.ask(path, "POST", json={"tenant": "x"}))[0] == 403
    assert (await operator.ask("workers/w-1/drain", "POST"))[0] == 200
    _, made = await operator.ask("keys", "POST", json={"tenant": "new", "role": "viewer"})
    assert made["secret"].startswith("bp-")
    assert "secret" not in str(await viewer.get("keys"))
    async with viewer.events() as events:
        await _until(events, lambda told: True)
        key_id = (await viewer.get("session"))["key_id"]
        await operator.ask(f"keys/{key_id}/revoke", "POST")
        await asyncio.wait_for(events.read(), PATIENT)  # to its end
    await eventually(lambda: _is(viewer, 401), timeout=PATIENT)


async def test_no_documented_route_tells_a_tenant_of_another_or_lets_anyone_but_operators_act(page: Page) -> None:
    tenant, viewer, other = await page.of("tenant"), await page.of("viewer", "ops"), await page.of("tenant", "rival")
    known = {"name": THEIRS, "key_id": "key-1", "worker_id": "w-1", "manager_id": "m-1"}
    told_to_the_other = 0
    for method, path in _documented(known):
        if method == "POST":
            for visitor in (tenant, viewer):
                assert (await visitor.ask(path, "POST", json={}))[0] == 403, path
            continue
        assert "rival" not in str((await tenant.ask(path))[1]), path
        told_to_the_other += "rival" in str((await other.ask(path))[1])
    assert told_to_the_other >= 3, "requests, the request and its cost: else this test looks at nothing"


async def test_signing_in_keeps_the_key_in_a_cookie_that_our_page_alone_can_use(page: Page) -> None:
    _, secret = await (await KeyOffice.open(page.mesh.bus)).create("ops", role="operator")
    await eventually(lambda: _is(page, 401), timeout=PATIENT)
    assert (await page.ask("session", "POST", json={"key": "bp-wrong"}))[0] == 401
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(page.door.url, cookie_jar=jar) as browser:
        async with browser.post("/api/v1/session", json={"key": secret}, headers=OURS) as answer:
            assert "HttpOnly; SameSite=Strict" in answer.headers["Set-Cookie"]
        for path, headers, wanted in (
            ("/api/v1/workers/w-1/drain", {}, 403),
            ("/api/v1/workers/w-1/drain", {**OURS, "Origin": "http://localhost:3000"}, 403),
            ("/api/v1/workers/w-1/drain", OURS, 200),
            ("/v1/chat/completions", {}, 401),
            ("/v1/chat/completions", OURS, 400),
        ):
            async with browser.post(path, json={}, headers=headers) as answer:
                assert (path, answer.status) == (path, wanted)
        async with browser.delete("/api/v1/session", headers=OURS):
            assert not list(jar)


async def test_without_telemetry_the_mesh_is_shown_and_the_books_say_why_not(simulated: Door) -> None:
    page = Page(simulated, SmallMesh(""), OURS)
    assert "w-1" in (await page.get("mesh"))["workers"]
    status, told = await page.ask("requests")
    assert (status, told["error"]["code"]) == (503, "no_worker")
    assert "telemetry" in told["error"]["message"]


async def test_the_doctor_s_findings_are_shown(mesh: SmallMesh) -> None:
    async def examined() -> Any:
        return [{"part": "NATS", "state": "off", "detail": "not asked for", "cure": ""}]

    async with door_of(mesh, examine=examined) as door:
        told = await Page(door, mesh, OURS).get("health")
    assert [Finding(**one).part for one in told["findings"]] == ["NATS"]


async def test_the_page_s_files_run_nothing_but_themselves(simulated: Door) -> None:
    async with aiohttp.ClientSession(simulated.url) as browser:
        async with browser.get("/", headers={"Accept": "text/html,*/*"}) as answer:
            assert answer.content_type == "text/html"
            policy = answer.headers["Content-Security-Policy"]
            tag = answer.headers["ETag"]
        async with browser.get("/") as answer:
            assert answer.content_type == "text/plain"
        async with browser.get("/", headers={"Accept": "text/html", "If-None-Match": tag}) as answer:
            assert answer.status == 304
        for file in FOLDER.rglob("*"):
            if file.suffix in (".js", ".css", ".svg"):
                async with browser.get(f"/page/{file.relative_to(FOLDER).as_posix()}") as answer:
                    assert answer.status == 200
        for path in ("/page/../config.yaml", "/page/%2e%2e/config.yaml", "/page/nothing.js"):
            async with browser.get(path) as answer:
                assert answer.status == 404
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    ours = [file.read_text() for file in FOLDER.rglob("*.js") if "vendor" not in file.parts]
    assert len(ours) > 8
    for text in ours:
        assert not any(word in text for word in ("innerHTML", "dangerouslySet", "eval(", "http://", "https://"))


async def _is(page: Page, status: int) -> bool:
    return (await page.ask("session"))[0] == status


async def _shows(page: Page, part: str) -> bool:
    return bool((await page.get("mesh"))[part])


def _documented(known: dict[str, str]) -> list[tuple[str, str]]:
    """Method and path of each operation, with every order that its path may name; not of signing in, nor of events."""
    found = []
    for path, at in DOCUMENT["paths"].items():
        _, ours, short = path.partition("/api/v1/")
        if not ours or short in ("session", "events"):
            continue
        orders = [one["schema"].get("enum") for one in at.get("parameters", ()) if one["name"] == "order"]
        for order in orders[0] if orders else [""]:
            filled = short.format(**known, order=order)
            found += [(method.upper(), filled) for method in at if method != "parameters"]
    return found


async def _until(events: aiohttp.StreamReader, wanted: Any) -> Any:
    """The first event that is as wanted."""
    async with asyncio.timeout(PATIENT):
        while line := await events.readline():
            if line.startswith(b"data: ") and wanted(told := from_json(line[6:])):
                return told
    raise AssertionError("the events ended")


def _check(path: str, method: str, status: int, told: Any) -> None:
    """That the answer is as the document says."""
    for documented, operations in DOCUMENT["paths"].items():
        if documented.startswith(page_api.PREFIX) and method.lower() in operations:
            pattern = documented.removeprefix(page_api.PREFIX).split("/")
            parts = path.split("/")
            if len(parts) == len(pattern) and all(
                known == part or known[0] == "{" for known, part in zip(pattern, parts, strict=True)
            ):
                schema = operations[method.lower()]["responses"][str(status)]["content"]["application/json"]["schema"]
                Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(told)
