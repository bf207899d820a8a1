"""A worker's config and model change while it serves: nothing is lost, and what is wrong changes nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import from_json

from bus import Message
from contracts import ControlReply, WorkerEventRecord
from contracts import subjects as s
from tests.books_stream import rows_in
from tests.gate import Gate
from tests.mesh import SERVER_BACK_WITHIN, SmallMesh
from tests.support import eventually
from workers.base.engines import engine_set

pytestmark = pytest.mark.timeout(120)

PICKY = '''
"""Serves only models that exist, and takes its time to load them."""

import asyncio

from contracts import BullpenError, ErrorCode
from workers.base import Report
from workers.simulated.backend import SimulatedBackend, SimulatedConfig


class PickyConfig(SimulatedConfig):
    load_s: float = 0.0


class Picky(SimulatedBackend):
    name = "picky"
    config_class = PickyConfig
    closed: list[str] = []

    async def start(self, report: Report) -> None:
        report(f"loading {self.config.models[0].name}" if self.config.models else "loading")
        await asyncio.sleep(self.config.load_s)
        if any(model.name == "nobody" for model in self.config.models):
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, "there is no model nobody", field="models.0.name")

    async def memory_needed(self) -> int | None:
        return 1 << 60 if any(model.name == "huge" for model in self.config.models) else None

    async def close(self) -> None:
        self.closed.append(self.config.models[0].name if self.config.models else "")
'''
FIRST = """\
heartbeat_interval: 0.2
drain_timeout: 20
latency_ms: 20
models:
  - name: one
"""
SECOND = FIRST.replace("one", "two")


@pytest.fixture
def picky(tmp_path: Path) -> Path:
    """The folder of a backend, with its config."""
    folder = tmp_path / "picky"
    folder.mkdir()
    (folder / "backend.py").write_text(PICKY)
    (folder / "config.yaml").write_text(FIRST)
    return folder


@pytest.fixture
async def events(mesh: SmallMesh) -> list[WorkerEventRecord]:
    """What is booked of workers from now on."""
    heard: list[WorkerEventRecord] = []

    def on_event(message: Message) -> None:
        heard.extend(WorkerEventRecord(**row) for row in rows_in(message))

    await mesh.bus.subscribe_inline(s.TELEMETRY_WORKER, on_event)
    await mesh.bus.flush(SERVER_BACK_WITHIN)
    return heard


async def order(mesh: SmallMesh, worker_id: str = "w-1", **told: Any) -> ControlReply:
    """As any NATS client would say it."""
    reply = await mesh.bus.request(s.worker_control(worker_id), json.dumps(told).encode(), timeout=20)
    return ControlReply.model_validate_json(reply.data)


def served(mesh: SmallMesh, worker_id: str = "w-1") -> list[str]:
    return [card.model_id for card in mesh.beats[worker_id].models]


async def serves(mesh: SmallMesh, model: str) -> None:
    await eventually(lambda: served(mesh) == [model])


async def test_a_hundred_requests_under_way_are_answered_when_the_model_is_swapped(
    mesh: SmallMesh, picky: Path, events: list[WorkerEventRecord], gate: Gate
) -> None:
    """Those that run are answered by the old model, those that come by the new one, which waits for nobody."""
    config = FIRST.replace("drain_timeout: 20", "drain_timeout: 60\nload_s: 0.3")
    (picky / "config.yaml").write_text(config)
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    await mesh.manager()
    asking = [asyncio.create_task(mesh.ask(prompt=gate.prompt, timeout=50)) for _ in range(100)]
    await eventually(lambda: gate.waiting == mesh.beats["w-1"].inflight == 64)
    digest = mesh.beats["w-1"].config_digest
    (picky / "config.yaml").write_text(config.replace("one", "two"))
    await serves(mesh, "two")
    assert mesh.beats["w-1"].inflight >= 64
    assert mesh.beats["w-1"].config_digest != digest
    assert (await mesh.ask())["model_id"] == "two"
    assert not any(task.done() for task in asking)
    gate.open()
    answers = [await task for task in asking]
    assert {answer.get("model_id") for answer in answers} == {"one", "two"}
    assert sum(answer["model_id"] == "one" for answer in answers) >= 64
    await eventually(lambda: [event.detail.get("event") for event in events if event.detail] == ["swapped"])
    [event] = [event for event in events if event.detail]
    assert (event.detail["models"], event.detail["cause"]) == (["two"], "file")
    assert event.detail["config_digest"] == mesh.beats["w-1"].config_digest
    assert (event.state, event.previous) == ("ready", "ready")


async def test_who_was_sent_before_the_swap_was_known_still_gets_its_model(
    mesh: SmallMesh, picky: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_set, "GRACE", 8.0)
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    assert (await order(mesh, op="swap", model="two")).ok
    direct = s.infer_worker("picky", "w-1")
    assert [(await mesh.ask(direct, model=model))["model_id"] for model in ("one", "two")] == ["one", "two"]
    await eventually(lambda: _is_gone(mesh, direct))


async def _is_gone(mesh: SmallMesh, direct: str) -> bool:
    told = await mesh.ask(direct, model="one")
    return bool(told.get("error", {}).get("code") == "no_such_model")


async def test_the_old_model_gets_no_more_time_than_a_drain(mesh: SmallMesh, picky: Path) -> None:
    config = FIRST.replace("drain_timeout: 20", "drain_timeout: 0.1")
    (picky / "config.yaml").write_text(config.replace("latency_ms: 20", "latency_ms: 30000"))
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    asking = asyncio.create_task(mesh.ask(s.infer_backend("picky")))
    await eventually(lambda: mesh.beats["w-1"].inflight == 1)
    (picky / "config.yaml").write_text(config.replace("one", "two"))
    refused = (await asking)["error"]
    assert (refused["code"], refused["retryable"]) == ("draining", True)
    await eventually(lambda: mesh.beats["w-1"].capacity == 64)
    assert (await mesh.ask(s.infer_backend("picky")))["model_id"] == "two"


BROKEN = {
    "bad YAML": ("models: [\n", "config.yaml:2: not valid YAML"),
    "unknown field": (SECOND + "max_concurency: 3\n", "config.yaml:6: max_concurency: unknown key"),
    "wrong type": (
        SECOND + "max_concurrency: many\n",
        "config.yaml:6: max_concurrency: Input should be a valid integer",
    ),
    "no such model": (SECOND.replace("two", "nobody"), "config.yaml:5: models.0.name: there is no model nobody"),
    "no models": (FIRST.partition("models")[0] + "models: []\n", "config.yaml:4: models: there is no model to serve"),
    "does not answer": (SECOND + "error_rate: 1.0\n", "config.yaml:4: models: simulated failure"),
    "does not fit": (SECOND.replace("two", "huge"), "config.yaml:4: models: the new model needs about"),
}


@pytest.mark.parametrize("wrong", BROKEN)
async def test_a_broken_file_is_refused_with_file_line_and_field(
    mesh: SmallMesh, picky: Path, events: list[WorkerEventRecord], wrong: str
) -> None:
    text, told = BROKEN[wrong]
    file = picky / "config.yaml"
    await mesh.worker("w-1", str(picky), file=file)
    digest = mesh.beats["w-1"].config_digest
    file.write_text(text)
    await eventually(lambda: [event for event in events if event.detail])
    await eventually(lambda: _refused(mesh, told))
    asked = await order(mesh, op="reload")
    assert not asked.ok
    assert asked.message.startswith(str(file))
    assert told in asked.message
    assert (await mesh.ask(s.infer_backend("picky")))["model_id"] == "one"
    assert mesh.beats["w-1"].config_digest == digest
    refusals = [event for event in events if event.detail]
    assert {(event.detail["event"], told in event.reason) for event in refusals} == {("swap_refused", True)}
    file.write_text(SECOND)
    await serves(mesh, "two")
    await eventually(lambda: _refused(mesh, ""))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"model": "nobody"}, "swap: models.0.name: there is no model nobody"),
        ({"models": []}, "swap: models: there is no model to serve"),
        ({"models": [{"nam": "x"}]}, "swap: models.0.nam: unknown key"),
        ({"models": [{"name": "x", "context_window": "wide"}]}, "swap: models.0.context_window: Input should be"),
        ({"modle": "x"}, "swap: say which"),
    ],
)
async def test_a_wrong_order_is_refused_with_its_field(
    mesh: SmallMesh, picky: Path, told: dict[str, Any], why: str
) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    reply = await order(mesh, op="swap", **told)
    assert not reply.ok
    assert why in reply.message
    assert (await mesh.ask(s.infer_backend("picky")))["model_id"] == "one"
    assert reply.config_refused == ""


async def test_what_is_swapped_lasts_until_the_file_is_read_again(mesh: SmallMesh, picky: Path) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    models = [{"name": "three", "aliases": ["tres"], "options": {"a": 1}}, {"name": "four"}]
    assert (await order(mesh, op="swap", models=models)).ok
    assert (await mesh.ask(s.infer_backend("picky"), model="tres"))["model_id"] == "three"
    assert "nothing has changed" not in (await order(mesh, op="swap", options={"b": 2})).message
    assert "nothing has changed" in (await order(mesh, op="swap", options={"b": 2})).message
    reply = await order(mesh, op="swap", model="tres")
    assert reply.ok
    assert reply.heartbeat is not None
    assert [card.aliases for card in reply.heartbeat.models] == [("tres",)]
    assert (await order(mesh, op="reload")).ok
    await serves(mesh, "one")


async def test_a_broken_file_does_not_stop_a_later_swap(mesh: SmallMesh, picky: Path) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    (picky / "config.yaml").write_text("models: [\n")
    await eventually(lambda: _refused(mesh, "not valid YAML"))
    reply = await order(mesh, op="swap", model="two")
    assert reply.ok
    assert "not valid YAML" in reply.config_refused
    await serves(mesh, "two")


async def _refused(mesh: SmallMesh, why: str) -> bool:
    """Whether that is the reason for which the file is not in force; empty: it is."""
    told = (await order(mesh, op="status")).config_refused
    return why in told if why else not told


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (b'{"op":"jump"}', "op: Input should be 'status', "),
        (b"{}", "op: Field required"),
        (b'{"op":"swap","models":"x"}', "models: Input should be a valid array"),
        (b"reload", "Invalid JSON: "),
    ],
)
async def test_an_order_that_cannot_be_read_is_refused_in_one_line(
    mesh: SmallMesh, picky: Path, told: bytes, why: str
) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    reply = ControlReply.model_validate_json((await mesh.bus.request(s.worker_control("w-1"), told, timeout=20)).data)
    assert not reply.ok
    assert reply.message.startswith(why)
    assert "\n" not in reply.message


async def test_swaps_wait_for_each_other(mesh: SmallMesh, picky: Path, events: list[WorkerEventRecord]) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    names = [f"m-{number}" for number in range(5)]
    replies = await asyncio.gather(*(order(mesh, op="swap", model=name) for name in names))
    assert all(reply.ok for reply in replies)
    await eventually(lambda: len([event for event in events if event.detail]) == 5)
    last = [event for event in events if event.detail][-1]
    await eventually(lambda: served(mesh) == last.detail["models"])


async def test_a_worker_that_drains_refuses_to_swap(mesh: SmallMesh, picky: Path) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    await order(mesh, op="drain")
    reply = await order(mesh, op="swap", model="two")
    assert not reply.ok
    assert "draining" in reply.message
    await order(mesh, op="resume")
    assert (await order(mesh, op="swap", model="two")).ok


async def test_a_worker_leaves_also_while_it_loads(mesh: SmallMesh, picky: Path) -> None:
    (picky / "config.yaml").write_text(FIRST)
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    (picky / "config.yaml").write_text(SECOND + "load_s: 500\n")
    await eventually(lambda: mesh.beats["w-1"].reason == "loading two")
    assert mesh.beats["w-1"].pause_ms == 10_000
    async with asyncio.timeout(30):
        await mesh.stop("w-1")


async def test_a_worker_that_could_not_start_does_so_when_its_config_is_right(mesh: SmallMesh, picky: Path) -> None:
    file = picky / "config.yaml"
    file.write_text(FIRST.replace("one", "nobody"))
    starting = asyncio.create_task(mesh.worker("w-1", str(picky), file=file))
    await mesh.state("w-1", "degraded")
    file.write_text(SECOND)
    await starting
    assert (await mesh.ask(s.infer_backend("picky")))["model_id"] == "two"


async def test_the_reply_can_be_read_by_anybody(mesh: SmallMesh, picky: Path) -> None:
    await mesh.worker("w-1", str(picky), file=picky / "config.yaml")
    reply = await mesh.bus.request(s.worker_control("w-1"), b'{"op":"swap","model":"two"}', timeout=20)
    told = from_json(reply.data)
    assert told["ok"]
    assert told["message"].startswith("now serves two ")
    assert [card["model_id"] for card in told["heartbeat"]["models"]] == ["two"]
