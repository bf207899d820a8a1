"""What commands show of the mesh, and how they drain and resume who is in it."""

import asyncio
import json
from pathlib import Path

import pytest

from bullpen.cli.show import UNKNOWN
from tests.cli import Result, Terminal, bullpen, findings
from tests.fake_manager import FakeManager, FakeWorkers, heartbeat
from tests.mesh import SmallMesh
from tests.support import eventually

pytestmark = [pytest.mark.usefixtures("patience"), pytest.mark.timeout(300)]  # `bullpen doctor` imports every SDK


async def test_workers_and_models_are_listed(workers: FakeWorkers, nats_server: str) -> None:
    env = {"NATS_URL": nats_server}

    async def both_were_heard() -> Result | None:
        told = await bullpen("workers", env=env)
        return told if len(told.out.splitlines()) == 3 else None

    async def as_json() -> bool:
        told = (await bullpen("workers", "--json", env=env)).json()
        return [(w["worker_id"], w["state"]) for w in told] == [("local-1", "ready"), ("local-2", "degraded")]

    async def models() -> bool:
        told = (await bullpen("models", "--json", env=env)).json()
        return [(m["model_id"], m["workers"], m["ready"]) for m in told] == [("m", ["local-1", "local-2"], 1)]

    plain = await eventually(both_were_heard)
    header, first, second = plain.out.splitlines()
    assert header.split() == ["WORKER", "BACKEND", "MODELS", "STATE", "BUSY", "WAIT", "TOK/S", "MEMORY"]
    assert first.split() == ["local-1", "b", "m", "ready", "2/4", "0", "42", "0", "B"]
    assert "degraded: no key: set SOME_KEY[2J" in second
    assert "\x1b" not in plain.out
    await eventually(as_json)
    await eventually(models)


async def test_a_narrow_terminal_breaks_cells_and_loses_nothing(workers: FakeWorkers, nats_server: str) -> None:
    name = "a-worker-with-a-rather-long-name"
    workers.beats = [heartbeat(name, state="starting", reason="loading: 41 % of a large file")]

    async def is_shown() -> bool:
        async with Terminal.run("workers", columns=60, NATS_URL=nats_server) as terminal:
            assert await terminal.end() == 0
            assert all(len(line) <= 60 for line in terminal.screen.splitlines())
            header, *rows = terminal.screen.splitlines()
            return "".join(row[: header.index("BACKEND")].strip() for row in rows).startswith(name)

    await eventually(is_shown)


async def test_an_empty_mesh_is_an_empty_list(nats_server: str) -> None:
    told = await bullpen("models", "--json", env={"NATS_URL": nats_server})
    assert (told.code, told.json(), told.err) == (0, [], "")


async def test_watching_follows_every_change_until_ctrl_c(workers: FakeWorkers, nats_server: str) -> None:
    async with Terminal.run("workers", "--watch", NATS_URL=nats_server) as terminal:
        await eventually(lambda: "local-1" in terminal.screen)
        workers.beats = [heartbeat("newcomer", seq=2), heartbeat("local-1", seq=2, state="draining")]
        await eventually(lambda: "newcomer" in terminal.screen and "draining" in terminal.screen)
        await eventually(lambda: "silent for" in terminal.screen)  # local-2 says nothing any more
        terminal.interrupt()
        assert await terminal.end() == 130
        assert "Traceback" not in terminal.screen


async def test_top_shows_what_the_mesh_is_doing_until_ctrl_c(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        await mesh.manager("m-1")
        assert "output" in await mesh.ask()

        async def all_is_told() -> bool:
            told = (await bullpen("top", "--json", env={"NATS_URL": nats_server})).json()
            assert [(one["metrics"]["source"], one["metrics"]["answered"]) for one in told["managers"]] == [("m-1", 1)]
            assert [(one["model_id"], one["answered"]) for one in told["models"]] == [("simulated", 1)]
            return [beat["worker_id"] for beat in told["workers"]] == ["w-1"]

        await eventually(all_is_told)
        async with Terminal.run("top", NATS_URL=nats_server) as terminal:
            await eventually(lambda: all(word in terminal.screen for word in ("m-1", "w-1", "simulated")))
            terminal.interrupt()
            assert await terminal.end() == 130
            assert "Traceback" not in terminal.screen


async def test_drain_and_resume(workers: FakeWorkers, nats_server: str) -> None:
    drained = await bullpen("drain", "local-1", env={"NATS_URL": nats_server})
    assert (drained.code, drained.out) == (0, "local-1 is draining, 0 running\n")
    resumed = await bullpen("resume", "local-1", "--json", env={"NATS_URL": nats_server})
    assert (resumed.code, resumed.json()["heartbeat"]["state"]) == (0, "ready")
    assert workers.told == ["drain", "resume"]
    nobody, wrong = (
        await bullpen("drain", "nobody", env={"NATS_URL": nats_server}),
        await bullpen("drain", "a b", env={"NATS_URL": nats_server}),
    )
    assert (nobody.code, wrong.code) == (1, 1)
    assert "no worker and no Manager nobody is running; running are: fake, local-1" in nobody.err


async def test_budgets_are_listed(manager: FakeManager, nats_server: str) -> None:
    none = await bullpen("budgets", "--json", env={"NATS_URL": nats_server})
    assert (none.code, none.out) == (0, "[]\n")
    day = {"per": "day", "window": "2026-11-23", "ends_at": "2026-11-24T00:00:00Z"}
    ever = {"tenant": None, "model_id": "m", "per": "total", "window": "total", "ends_at": None, "limit_usd": 3}
    manager.budgets = [
        {**ever, "spent_usd": None},
        {"tenant": None, "model_id": None, **day, "limit_usd": 1, "spent_usd": 0.25},
        {"tenant": "acme", "model_id": None, **day, "limit_usd": 0.5, "spent_usd": 0.45},
    ]
    plain = await bullpen("budgets", env={"NATS_URL": nats_server})
    assert [line.split() for line in plain.out.splitlines()] == [
        ["TENANT", "MODEL", "PER", "SPENT", "LIMIT", "SHARE", "UNTIL"],
        ["acme", "any", "day", "$0.45", "$0.50", "90%", "2026-11-24", "00:00", "UTC"],
        ["all", "together", "any", "day", "$0.25", "$1.00", "25%", "2026-11-24", "00:00", "UTC"],
        ["all", "together", "m", "total", UNKNOWN, "$3.00", UNKNOWN, UNKNOWN],
    ]
    as_json = json.loads((await bullpen("budgets", "--json", env={"NATS_URL": nats_server})).out)
    assert [budget["spent_usd"] for budget in as_json] == [0.45, 0.25, None]


async def test_budgets_need_a_manager(nats_server: str) -> None:
    told = await bullpen("budgets", env={"NATS_URL": nats_server})
    assert told.code == 1
    assert "no Manager is running" in told.err


async def test_a_manager_is_drained_and_resumed_like_a_worker(manager: FakeManager, nats_server: str) -> None:
    drained = await bullpen("drain", "fake", env={"NATS_URL": nats_server})
    assert (drained.code, drained.out) == (0, "fake is draining, 0 under way\n")
    _, found = await findings(NATS_URL=nats_server)
    assert found["Managers"] == ("fail", "see each of them below")
    assert found["Manager fake"] == ("warn", "bullpen resume fake")
    resumed = await bullpen("resume", "fake", "--json", env={"NATS_URL": nats_server})
    assert (resumed.code, resumed.json()["state"]) == (0, "ready")
    _, found = await findings(NATS_URL=nats_server)
    assert found["Managers"] == ("ok", "")


async def test_drain_waits_until_nothing_is_left_or_it_has_left(manager: FakeManager, nats_server: str) -> None:
    manager.has = ["one", "two"]
    for _ in range(2):
        draining = asyncio.create_task(bullpen("drain", "fake", "--wait", env={"NATS_URL": nats_server}))
        await eventually(lambda: manager.state == "draining")
        await asyncio.sleep(0.5)
        assert not draining.done()
        if "two" in manager.has:
            manager.has.clear()
            assert (await draining).out == "fake is draining, 0 under way\n"
            manager.has, manager.state = ["three"], "ready"
    await manager.bus.close()
    assert (await draining).out == "fake has left\n"


async def test_a_restart_needs_a_mesh(tmp_path: Path) -> None:
    told = await bullpen("restart", "--data-dir", str(tmp_path))
    assert told.code == 1
    assert "no mesh runs on" in told.err
