"""Processes are kept running, and stopped in order, by any means if need be."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from bullpen.supervision import supervisor as supervisor_module
from bullpen.supervision.leash import leashed
from bullpen.supervision.supervisor import Death, Program, Supervisor
from bus.backoff import Backoff
from tests.support import eventually, gone

STAYS = "import time; print('here', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STAYS}"
LEAVES = f"import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0)); {STAYS}"
DIES = "print('my last words', flush=True); raise SystemExit(3)"
LEAVES_A_CHILD = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"


@dataclass
class Watched:
    """A supervisor, and what it told."""

    directory: Path
    started: list[str] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(self.started.append, self.deaths.append)

    def log(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text()

    def has_lived(self, name: str, lives: int) -> bool:
        """So many of its processes said so, and the supervisor knows the last one."""
        return self.said(name).count("here") == self.started.count(name) == lives

    async def start(self, name: str, code: str) -> int:
        await self.supervisor.start(Program(name, (sys.executable, "-c", code), self.log(name)))
        return self.supervisor.pids[name]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    await watched.supervisor.stop(list(watched.supervisor.pids), within=0.1)


@pytest.fixture
def never_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a machine takes to start a program that dies at once, that is no life."""
    monkeypatch.setattr(supervisor_module, "HEALTHY_AFTER", 600.0)
    monkeypatch.setattr(supervisor_module, "SHORTEST_LIFE", 600.0)


@pytest.fixture
def no_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """What died is not started again in the time of a test."""
    monkeypatch.setattr(supervisor_module, "RESTART", Backoff(600.0, 600.0))


async def test_a_killed_process_is_started_again_and_told(watched: Watched) -> None:
    before = await watched.start("a", STAYS)
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: watched.started == ["a", "a"])
    assert watched.supervisor.pids["a"] != before
    assert [(death.name, death.pid, death.code) for death in watched.deaths] == [("a", before, -signal.SIGKILL)]


@pytest.mark.usefixtures("never_healthy")
async def test_one_that_keeps_dying_is_tried_less_and_less_often(watched: Watched) -> None:
    await watched.start("a", DIES)
    await eventually(lambda: len(watched.deaths) >= 3)
    assert [death.again_in for death in watched.deaths[:3]] == [0.2, 0.4, 0.8]
    assert watched.deaths[0].code == 3
    assert watched.supervisor.deaths("a") >= 3


@pytest.mark.usefixtures("no_next_try")
async def test_one_that_leaves_in_order_is_back_at_once_and_has_not_died(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "SHORTEST_LIFE", 0.0)
    before = await watched.start("a", LEAVES)
    for lives in (1, 2):
        await eventually(partial(watched.has_lived, "a", lives))
        os.kill(watched.supervisor.pids["a"], signal.SIGTERM)
    await eventually(partial(watched.has_lived, "a", 3))
    assert watched.supervisor.pids["a"] != before
    assert watched.deaths == []


@pytest.mark.usefixtures("never_healthy")
async def test_one_that_leaves_as_soon_as_it_came_is_not_hurried(watched: Watched) -> None:
    await watched.start("a", "pass")
    await eventually(lambda: len(watched.deaths) >= 2)
    assert [death.again_in for death in watched.deaths[:2]] == [0.2, 0.4]


async def test_dying_words_are_kept_when_the_next_process_runs(watched: Watched, tmp_path: Path) -> None:
    """That one may not have said yet that its port is taken."""
    lived = tmp_path / "lived"
    stays = f"import pathlib, time; lived = pathlib.Path({str(lived)!r}); lived.exists() and time.sleep(60)"
    await watched.start("a", f"{stays}; lived.touch(); {DIES}")
    await eventually(lambda: len(watched.started) == 2)
    assert watched.supervisor.last_words("a") == ""
    assert watched.supervisor.dying_words("a") == "my last words"


@pytest.mark.usefixtures("no_next_try")
async def test_last_words_are_those_of_the_last_life(watched: Watched) -> None:
    watched.log("a").write_text("of another day\n")
    await watched.start("a", DIES)
    await eventually(lambda: watched.deaths)
    assert watched.supervisor.last_words("a") == "my last words"


async def test_stopping_ends_all_of_them_and_starts_none_again(watched: Watched) -> None:
    pids = [await watched.start(name, STAYS) for name in ("a", "b")]
    await watched.supervisor.stop(["a", "b"], within=5)
    assert all(gone(pid) for pid in pids)
    assert watched.deaths == []
    assert watched.supervisor.pids == {}


async def test_one_that_does_not_listen_is_killed(watched: Watched) -> None:
    pid = await watched.start("a", DEAF)
    await eventually(lambda: watched.said("a"))
    await watched.supervisor.stop(["a"], within=0.1)
    assert gone(pid)


async def test_a_frozen_one_is_killed(watched: Watched) -> None:
    pid = await watched.start("a", STAYS)
    os.kill(pid, signal.SIGSTOP)
    await watched.supervisor.stop(["a"], within=0.1)
    assert gone(pid)


@pytest.mark.usefixtures("no_next_try")
async def test_stopping_does_not_wait_for_the_next_try(watched: Watched) -> None:
    await watched.start("a", DIES)
    await eventually(lambda: watched.deaths)
    async with asyncio.timeout(30):
        await watched.supervisor.stop(["a"], within=0.1)


async def test_children_of_a_dead_process_do_not_stay(watched: Watched) -> None:
    pid = await watched.start("a", LEAVES_A_CHILD)
    child = int(await eventually(lambda: watched.said("a")))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: gone(child))


async def test_restart_gives_another_process_and_is_no_death(watched: Watched) -> None:
    before = await watched.start("a", STAYS)
    await watched.supervisor.restart("a")
    assert watched.supervisor.pids["a"] != before
    assert gone(before)
    assert watched.deaths == []


@pytest.mark.usefixtures("no_next_try")
async def test_restart_cuts_the_wait_short(watched: Watched) -> None:
    await watched.start("a", DIES)
    await eventually(lambda: watched.deaths)
    async with asyncio.timeout(30):
        await watched.supervisor.restart("a")
    assert watched.started == ["a", "a"]


async def test_a_large_log_is_set_aside(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LARGEST_LOG", 10)
    watched.log("a").write_text("much too large\n")
    await watched.start("a", STAYS)
    await eventually(lambda: watched.said("a") == "here\n")
    assert (watched.directory / "a.log.1").read_text() == "much too large\n"


async def test_our_ctrl_c_does_not_reach_them(watched: Watched) -> None:
    pid = await watched.start("a", STAYS)
    assert os.getpgid(pid) == pid != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its starter died")
async def test_they_die_with_us_even_by_kill_9(tmp_path: Path) -> None:
    code = f"""
import asyncio, pathlib, sys
from bullpen.supervision.supervisor import Program, Supervisor
async def main():
    supervisor = Supervisor(print, print)
    await supervisor.start(Program("a", (sys.executable, "-c", {STAYS!r}), pathlib.Path({str(tmp_path)!r}) / "log"))
    print(supervisor.pids["a"], flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(*leashed([sys.executable, "-c", code]), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"a\n"
    child = int(await parent.stdout.readline())
    await eventually((tmp_path / "log").read_text)
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(child))
