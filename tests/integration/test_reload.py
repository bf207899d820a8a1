"""A Manager's and an accountant's config count as soon as they are saved; what is wrong changes nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic_core import from_json

from bus import Message
from config.watched_file import ConfigFile
from contracts import ManagerReply, RouteDecision
from contracts import subjects as s
from manager.budgets import ledger
from manager.config import ManagerConfig
from telemetry.config import TelemetryConfig
from telemetry.reload import follow
from tests.cli import bullpen
from tests.fake_worker import Asked, FakeWorker, acting
from tests.mesh import PATIENT, SmallMesh
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)  # servers of their own, on a busy machine
PAID: dict[str, Any] = {
    "local": False,
    "price": {"input_per_mtok": 0.0, "output_per_mtok": 1000.0},
    "output_tokens": 10,
    "latency_ms": 20,
}
"""An answer costs a cent."""

PATIENT_LINES = "".join(f"{name}: {value}\n" for name, value in PATIENT.items())
"""Of the Manager: the last lines of its file."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(PATIENT_LINES)
    return path


async def order(mesh: SmallMesh, op: str = "status") -> ManagerReply:
    reply = await mesh.bus.request(s.manager_control("m-1"), json.dumps({"op": op}).encode(), timeout=15)
    return ManagerReply.model_validate_json(reply.data)


def save(file: Path, text: str) -> None:
    file.write_text(text)


async def change(mesh: SmallMesh, file: Path, text: str) -> None:
    """Saves it, and `PATIENT_LINES`, and waits until it counts."""
    digest = (await order(mesh)).config_digest
    save(file, text + PATIENT_LINES)

    async def changed() -> bool:
        return (await order(mesh)).config_digest != digest

    await eventually(changed)


async def test_new_weights_decide_the_next_request(mesh: SmallMesh, file: Path) -> None:
    decisions: list[RouteDecision] = []

    def heard(message: Message) -> None:
        decisions.append(RouteDecision.model_validate_json(message.data))

    await mesh.bus.subscribe_inline(s.METRICS_ROUTE, heard)
    await mesh.worker("w-1")
    await mesh.manager(file=file)
    await mesh.ask()
    await change(mesh, file, "policies:\n  balanced: {cost: 0.25, confidence: 2, load: 3, resources: 4}\n")
    await mesh.ask()
    await eventually(lambda: len(decisions) == 2)
    assert [decision.weights.cost for decision in decisions] == [1.0, 0.25]


async def test_a_request_under_way_keeps_its_patience(mesh: SmallMesh, file: Path) -> None:
    """The new patience would have sent it elsewhere long before it is answered."""
    changed = asyncio.Event()

    async def slow(asked: Asked) -> None:
        """Answers one question only, and says nothing about how long its silence is normal."""
        await asked.claim()
        await asked.progress()
        if len(fake.asked) == 1:
            await changed.wait()
            await asyncio.sleep(0.5)  # fifty times the new patience
            await asked.answer("at last")

    async with FakeWorker(mesh.bus, "f-1", acting(slow)) as fake:
        await mesh.manager(file=file)
        asking = asyncio.create_task(mesh.ask(timeout=20))
        await eventually(lambda: fake.asked)
        await change(mesh, file, "first_token_timeout: 0.01\nnext_token_timeout: 0.01\n")
        changed.set()
        assert [attempt["outcome"] for attempt in (await asking)["attempts"]] == ["ok"]
        assert "error" in await mesh.ask(timeout=20)


async def test_new_budgets_and_limits_count_at_once(
    mesh: SmallMesh, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "WITHIN", 15.0)
    await mesh.worker("w-1", **PAID)
    save(file, "budgets: [{limit_usd: 0.02}]\n" + PATIENT_LINES)
    await mesh.manager(file=file)
    told = [await mesh.ask(max_tokens=10) for _ in range(3)]
    assert [answer.get("error", {}).get("code") for answer in told] == [None, None, "budget_exceeded"]
    await change(mesh, file, "budgets: [{limit_usd: 0.04}]\n")
    assert "output" in await mesh.ask(max_tokens=10)
    await change(mesh, file, "budgets: [{limit_usd: 0.03}]\n")
    assert (await mesh.ask(max_tokens=10))["error"]["code"] == "budget_exceeded"
    await change(mesh, file, "")
    assert "output" in await mesh.ask(max_tokens=10)


async def test_a_manager_takes_jobs_when_it_is_told_to(mesh: SmallMesh, file: Path) -> None:
    save(file, "jobs: {at_once: 0}\n" + PATIENT_LINES)
    await mesh.worker("w-1")
    await mesh.manager(file=file)
    await change(mesh, file, "jobs: {at_once: 2}\n")
    done: list[Message] = []
    await mesh.bus.subscribe_inline(s.result("mine"), done.append)

    async def submitted() -> bool:
        """As soon as the Manager has made the stream."""
        reply = await mesh.bus.request(s.JOBS_SUBMIT, b'{"prompt": "hello", "task_id": "mine"}', timeout=20)
        return "seq" in from_json(reply.data)

    await eventually(lambda: _quietly(submitted()))
    await eventually(lambda: done, timeout=30)


async def _quietly(trying: Any) -> bool:
    try:
        return bool(await trying)
    except Exception:
        return False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policies: [\n", ":2: not valid YAML"),
        ("claim_timeout: 1\nclaim_timeot: 1\n", ":2: claim_timeot: unknown key"),
        ("max_waiting: many\n", ":1: max_waiting: Input should be a valid integer"),
        (
            "policies:\n  balanced: {cost: -1, confidence: 1, load: 1, resources: 1}\n",
            ":2: policies.balanced.cost: ",
        ),
        (
            "policies:\n  balanced: {cost: 1, confidence: 1, load: 1, resources: 1, speed: 1}\n",
            ":2: policies.balanced.speed: ",
        ),
        (
            "policies:\n  balanced: {cost: cheap, confidence: 1, load: 1, resources: 1}\n",
            ":2: policies.balanced.cost: ",
        ),
        ("budgets:\n  - limit_usd: 1\n  - limit_usd: -1\n", ":3: budgets.1.limit_usd: "),
        ("- 1\n", ":1: should be a mapping"),
    ],
)
async def test_a_broken_file_is_refused_with_file_line_and_field(
    mesh: SmallMesh, file: Path, text: str, told: str
) -> None:
    await mesh.manager(file=file)
    before = await order(mesh)
    with structlog.testing.capture_logs() as logs:
        save(file, text)
        await eventually(lambda: [entry for entry in logs if entry["event"] == "config_refused"])
    [refused] = [entry for entry in logs if entry["event"] == "config_refused"]
    assert refused["reason"].startswith(f"{file}{told}")
    after = await order(mesh)
    assert after.ok
    assert (after.config_digest, after.config_refused) == (before.config_digest, refused["reason"])
    asked = await order(mesh, "reload")
    assert (asked.ok, asked.message) == (False, refused["reason"])
    save(file, PATIENT_LINES)
    assert (await order(mesh, "reload")).config_refused == ""


async def test_what_counts_from_the_next_start_is_said(mesh: SmallMesh, file: Path) -> None:
    await mesh.manager(file=file)
    with structlog.testing.capture_logs() as logs:
        await change(mesh, file, "jobs: {silent_after: 5}\n")
    assert [entry["fields"] for entry in logs if entry["event"] == "config_needs_restart"] == [["jobs.silent_after"]]


async def test_a_manager_without_a_file_says_so(mesh: SmallMesh) -> None:
    await mesh.manager()
    reply = await order(mesh, "reload")
    assert (reply.ok, reply.message) == (False, "this Manager was started without a config file")


async def test_doctor_warns_of_a_file_that_is_not_in_force(mesh: SmallMesh, file: Path, nats_server: str) -> None:
    workers = file.with_name("worker.yaml")
    save(workers, "latency_ms: 20\n")
    await mesh.worker("w-1", file=workers)
    await mesh.manager(file=file)
    save(file, "claim_timeot: 1\n")
    save(workers, "latency_ms: slow\n")

    async def both() -> dict[str, Any] | None:
        told = (await bullpen("doctor", "--json", env={"NATS_URL": nats_server})).json()
        found = {one["part"]: one for one in told if "is not in force" in one["detail"]}
        return found if len(found) == 2 else None

    warned = await eventually(both, timeout=30)
    assert "config.yaml:1: claim_timeot: unknown key" in warned["Manager m-1"]["detail"]
    assert "worker.yaml:1: latency_ms" in warned["worker w-1"]["detail"]
    assert "bullpen reload w-1" in warned["worker w-1"]["cure"]


async def test_the_accountant_takes_over_what_he_can_and_says_what_not(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.yaml"
    path.write_text("batch_size: 10\n")
    file = ConfigFile(TelemetryConfig, "telemetry", path)
    taken: list[TelemetryConfig] = []
    with structlog.testing.capture_logs() as logs:
        following = asyncio.create_task(follow(file, file.load(), taken.append))
        path.write_text("batch_size: 20\nstream_max_age: 7\n")
        await eventually(lambda: taken)
        path.write_text("batch_size: many\n")
        await eventually(lambda: [entry for entry in logs if entry["event"] == "config_refused"])
        path.write_text("batch_size: 30\ncontent: hash\nstream_max_age: 7\n")
        await eventually(lambda: len(taken) == 2)
        following.cancel()
    assert [(config.batch_size, config.stream_max_age) for config in taken] == [(20, 604_800), (30, 604_800)]
    said = [(entry["fields"], "every worker" in entry["cure"]) for entry in logs if entry["event"].endswith("restart")]
    assert said == [(["stream_max_age"], False), (["content"], True)]


def test_the_config_of_the_house_can_be_read() -> None:
    path = Path(__file__).parents[2] / "manager" / "config.yaml"
    assert ConfigFile(ManagerConfig, "manager", path).load() == ManagerConfig()
