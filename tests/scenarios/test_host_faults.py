"""What befalls the machines beneath a mesh: config files half written, clocks that are wrong or jump, a full disk, no
file descriptors left, and next to no processor.

Over real processes, but for the config files.
"""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic_core import from_json

from bus import Bus, BusSettings, Message
from config.loader import ConfigError, ConfigModel, load_config
from contracts import headers as h
from manager.config import ManagerConfig
from telemetry.config import TelemetryConfig
from tests.cli import ROOT, finish, start
from tests.roles import PROMPT, Question, Roles, unwell
from tests.servers import NatsServer
from tests.support import eventually
from workers.base.interface.discovery import discover

UNUSED = "nats://127.0.0.1:1"
pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

FAKETIME = next(Path("/usr").glob("lib*/**/faketime/libfaketime.so.1"), None)
needs_faketime = pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed (Debian: apt install faketime)")
SIMULATED = discover()["simulated"].load().config_class
SECOND = {"BULLPEN_SIMULATED__LATENCY_MS": "1000"}
WORDS = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "50", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "500"}
"""Ten seconds, or a tenth of one for five words."""


# Config files


def shipped() -> list[tuple[type[ConfigModel], str, Path]]:
    """Every config file of the house, and what reads it."""
    own: list[tuple[type[ConfigModel], str]] = [(ManagerConfig, "manager"), (TelemetryConfig, "telemetry")]
    files: list[tuple[type[ConfigModel], str, Path]] = [(cls, name, ROOT / name / "config.yaml") for cls, name in own]
    found = discover().values()
    return [*files, *((folder.load().config_class, folder.name, folder.path / "config.yaml") for folder in found)]


@pytest.mark.parametrize(("cls", "name", "path"), shipped(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_config_file_cut_off_anywhere_is_read_or_refused_in_words(
    cls: type[ConfigModel], name: str, path: Path, tmp_path: Path
) -> None:
    """As a reader finds it that comes while it is written."""
    whole, half = path.read_bytes(), tmp_path / "config.yaml"
    refused = 0
    for end in range(0, len(whole), 11):
        half.write_bytes(whole[:end])
        try:
            load_config(cls, name, half, {})
        except ConfigError as error:
            refused += 1
            assert str(half) in str(error)
    assert refused


REFUSED = [
    b"? [a]\n: b",
    b"seed: *nobody",
    b"<<: 5",
    b"=: 5",
    b"a: &a [x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nmodels: [*b,*b,*b,*b,*b,*b]",
    b"models: [{name: \xff}]",
    b"seed: 1\x00",
    b"--- \nseed: 1\n---\nseed: 2",
    b"- seed",
]
STUMBLES = [
    b"seed: 2026-13-45",
    b"seed: !!int abc",
    b"seed: !!timestamp abc",
    b"seed: !!bool abc",
    b"seed: 1" + b"0" * 5000,
    b"seed: " + b"[" * 3000,
    b"seed: &a [*a]",
]


def refusal(text: bytes, path: Path) -> str:
    """Why such a file is not used."""
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        load_config(SIMULATED, "simulated", path, {})
    return str(caught.value)


@pytest.mark.parametrize("text", REFUSED)
def test_a_config_file_of_rubbish_is_refused_in_words(text: bytes, tmp_path: Path) -> None:
    assert "config.yaml" in refusal(text, tmp_path / "config.yaml")


@pytest.mark.parametrize("text", STUMBLES, ids=lambda text: text[:24].decode())
def test_a_config_file_that_yaml_itself_stumbles_over_is_refused_in_words(text: bytes, tmp_path: Path) -> None:
    assert "config.yaml" in refusal(text, tmp_path / "config.yaml")


async def test_a_role_says_where_its_config_file_is_broken_and_leaves(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("seed: 0\nmodels:\n  - name: [half\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("# ours\nmax_waiting: many\n")
    processes = [
        await start("worker", "simulated", "--config", str(broken), NATS_URL=UNUSED),
        await start("manager", "--config", str(wrong), NATS_URL=UNUSED),
    ]
    worker, manager = await asyncio.gather(*(finish(process) for process in processes))
    assert (worker.code, manager.code) == (1, 1)
    assert f"{broken}:4: not valid YAML" in worker.err
    assert f"{wrong}:2: max_waiting" in manager.err


# Clocks


class Clock:
    """The wall clock of a process: `set("+1h")` any time, noticed at once. The monotonic one is right."""

    def __init__(self, directory: Path, offset: str = "+0s") -> None:
        directory.mkdir(exist_ok=True)
        self._file = directory / f"clock-{len(list(directory.iterdir()))}"
        self.set(offset)

    def set(self, offset: str) -> None:
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{offset}\n")
        aside.replace(self._file)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_DISABLE_SHM": "1",  # what dead processes left behind there stops new ones
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }


def deadline(seconds: float, clock: float) -> dict[str, str]:
    """What a caller writes whose clock is so many seconds ahead of ours."""
    return {h.DEADLINE: str(round((time.time() + clock + seconds) * 1000))}


def out_of_time(asked: list[Question]) -> list[dict[str, Any]]:
    """What was given up for a deadline. A busy worker, or another that is quicker, is no fault of the clocks."""
    attempts = [attempt for question in asked for attempt in question.finals[0]["attempts"]]
    return [attempt for attempt in attempts if "deadline" in (attempt["error"] or "")]


@needs_faketime
async def test_clocks_that_are_seconds_apart_harm_no_request(roles: Roles, tmp_path: Path) -> None:
    """Every caller meets every Manager, 3.8 seconds apart, and every Manager each worker, up to 6.2.

    Callers' clocks may be off by five seconds together with the time that a message takes: on a busy machine it may
    take too long once, and all is asked again. A clock that did harm would do so each time.
    """
    clocks = tmp_path / "clocks"
    for name, offset in (("m-1", "+2.4s"), ("m-2", "-2.4s")):
        roles.manager(name, **Clock(clocks, offset).env)
    for name, offset in (("w-1", "+3.8s"), ("w-2", "-3.8s")):
        roles.worker(name, **WORDS, **Clock(clocks, offset).env)
    await roles.ready()

    async def no_harm_is_done() -> bool:
        asked: list[Question] = []
        for number in range(60):
            seconds, clock = 4 + number % 3 / 4, (-1.4, 0.0, 1.4)[number // 20]
            request: dict[str, Any] = {"deadline_ms": round(seconds * 1000), "stream": number % 5 == 0}
            asked.append(await roles.ask(headers=deadline(seconds, clock), max_tokens=5, **request))
        direct = [await roles.ask("infer.simulated", deadline(4, 0), deadline_ms=4000, max_tokens=5) for _ in range(10)]
        assert unwell(await roles.answered([*asked, *direct])) == []
        assert out_of_time(asked) == []
        return True

    await eventually(no_harm_is_done, timeout=90)
    hurried = [await roles.ask(headers=deadline(0.1, clock), deadline_ms=100) for clock in (-1.4, 0, 1.4) * 4]
    assert {question.code for question in await roles.answered(hurried)} == {"deadline_exceeded"}


@needs_faketime
async def test_a_caller_whose_clock_is_off_by_four_seconds_is_answered(roles: Roles, tmp_path: Path) -> None:
    """The command line, as processes with other clocks; a second is left for the way, and on a busy machine for more
    than one try.
    """
    roles.manager()
    roles.worker()
    await roles.ready()
    url = roles.bus.settings.servers[0]

    async def is_answered(offset: str) -> bool:
        clock = Clock(tmp_path / "clocks", offset)
        told = await finish(await start("ask", "hello", "--deadline-ms", "3000", NATS_URL=url, **clock.env))
        assert told.code == 0, told.err
        return True

    for offset in ("+4s", "-4s"):
        await eventually(partial(is_answered, offset), timeout=60)


@asynccontextmanager
async def questions(roles: Roles, **request: Any) -> AsyncIterator[list[Question]]:
    """Forty a second until the end of the block; then each has been answered."""
    asked: list[Question] = []

    async def keep_asking() -> None:
        while True:
            asked.append(await roles.ask(**request))
            await asyncio.sleep(0.025)

    asking = asyncio.create_task(keep_asking())
    try:
        yield asked
    finally:
        asking.cancel()
    assert unwell(await roles.answered(asked)) == []


@needs_faketime
async def test_wall_clocks_that_jump_by_an_hour_harm_no_request(roles: Roles, tmp_path: Path) -> None:
    """Each forth and back again: deadlines seem to have passed, or to be far away."""
    clock = {name: Clock(tmp_path / "clocks") for name in ("m-1", "w-1")}
    roles.manager("m-1", **clock["m-1"].env)
    roles.worker("w-1", **clock["w-1"].env)
    await roles.ready()
    async with questions(roles, deadline_ms=30_000) as asked:
        for name, jump in (("m-1", "-1h"), ("w-1", "+1h"), ("m-1", "+1h"), ("w-1", "-1h")):
            for offset in (jump, "+0s"):
                clock[name].set(offset)
                enough = len(asked) + 20
                await eventually(lambda: len(asked) >= enough and asked[enough - 1].finals)  # noqa: B023 — at once
    assert out_of_time(asked) == []
    assert "worker_silent" not in roles.log("m-1")


# A full disk


async def test_roles_whose_log_cannot_be_written_serve(roles: Roles) -> None:
    """From the first line on."""
    roles.all_logs = Path("/dev/full")
    roles.manager()
    roles.worker()
    await roles.ready()
    assert unwell(await roles.answered(await roles.ask_many(20))) == []


async def test_a_disk_that_fills_up_with_logs_costs_no_answer(roles: Roles) -> None:
    """Just when there is much to say: a worker dies."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name, BULLPEN_SIMULATED__LATENCY_MS="6000")
    await roles.ready()
    for name in ("m-1", "w-1"):
        resource.prlimit(roles.pid(name), resource.RLIMIT_FSIZE, (1, 1))
    asked = await roles.ask_many(30)
    await roles.have(1, "w-2")
    roles.send("w-2", signal.SIGKILL)
    assert unwell(await roles.answered(asked)) == []
    assert any(question.attempts > 1 for question in asked)
    await eventually(lambda: roles.running == {"m-1", "w-1"})


# No file descriptors left

TO_RECONNECT = 1.0
"""Seconds in which roles would be back that could be."""


def limit_files(pid: int, count: int) -> Callable[[], None]:
    """No more files than that for a process; returns what undoes it."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))
    return lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard)) and None


async def test_roles_without_file_descriptors_come_back_when_there_are_some(roles: Roles, nats: NatsServer) -> None:
    """They lose their connection just when they cannot make another one."""
    roles.manager()
    roles.worker()
    await roles.ready()
    pids = {name: roles.pid(name) for name in roles.running}
    undo = [limit_files(pid, 3) for pid in pids.values()]
    nats.kill()
    await nats.start()
    await eventually(lambda: roles.bus.reconnects and roles.bus.is_connected)
    await asyncio.sleep(TO_RECONNECT)
    assert (await roles.answer()).code == "no_responders", "the limit had no effect"
    for back in undo:
        back()
    await roles.serves_again(within=40)
    assert {name: roles.pid(name) for name in roles.running} == pids


async def test_a_server_without_file_descriptors_goes_on_with_those_it_has(roles: Roles, nats: NatsServer) -> None:
    """Whoever wants to connect meanwhile gets in when there are some."""
    roles.manager()
    roles.worker()
    await roles.ready()
    assert nats.process is not None
    pid = nats.process.pid
    undo = limit_files(pid, psutil.Process(pid).num_fds() + 10)
    crowd = []
    for _ in range(40):
        connection = asyncio.open_connection("127.0.0.1", nats.port)
        crowd.append((await connection)[1])
    assert unwell(await roles.answered(await roles.ask_many(50))) == []
    for writer in crowd:
        writer.close()
    undo()
    late = await Bus.connect("late", BusSettings(servers=(nats.url,)), patience=40)
    await late.close()


# Next to no processor


async def starve(pids: list[int], seconds: float) -> None:
    """One tenth of a processor for these, in slices of a second's hundredth."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            for number, pause in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.01)):
                for pid in pids:
                    os.kill(pid, number)
                await asyncio.sleep(pause)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("nats", [6.0], indirect=True, ids=["cut off after 6 s"])
async def test_workers_that_hardly_get_a_processor_are_not_declared_dead(roles: Roles) -> None:
    """For longer than a Manager and the server would wait for a worker of which they hear nothing."""
    roles.manager(**PROMPT)
    names = ("w-1", "w-2", "w-3")
    for name in names:
        roles.worker(name, **SECOND)
    await roles.ready()
    starving = asyncio.create_task(starve([roles.pid(name) for name in names], 7.5))
    asked: list[Question] = []
    while not starving.done():
        asked.append(await roles.ask())
        await asyncio.sleep(0.1)
    assert unwell(await roles.answered(asked)) == []
    for said in ("worker_silent", "worker_left"):
        assert said not in roles.log("m-1")


async def test_workers_that_all_fall_silent_at_once_are_not_declared_dead(roles: Roles) -> None:
    """For longer than the Manager's patience with one, and less than with all: it may be deaf itself."""
    patience = 5.0
    roles.manager(BULLPEN_MANAGER__SILENT_AFTER_BEATS=str(patience), BULLPEN_MANAGER__CLAIM_TIMEOUT="20")
    names = ("w-1", "w-2", "w-3")
    for name in names:
        roles.worker(name, BULLPEN_SIMULATED__LATENCY_MS="3000")
    await roles.ready()
    asked = await roles.ask_many(30)
    await roles.have(30, *names)
    for name in names:
        roles.send(name, signal.SIGSTOP)
    try:
        await asyncio.sleep(patience + 0.5)
    finally:
        for name in names:
            roles.send(name, signal.SIGCONT)
    assert unwell(await roles.answered(asked)) == []
    assert "worker_silent" not in roles.log("m-1")


def has_seen_leave(roles: Roles, name: str) -> bool:
    """Whether the Manager has logged that this worker left."""
    return any("worker_left" in line and name in line for line in roles.log("m-1").splitlines())


@pytest.mark.parametrize("nats", [None], indirect=True, ids=["cut off after 3 s"])
async def test_workers_that_stood_still_for_long_were_not_killed_by_their_question(roles: Roles) -> None:
    """The server cuts off one, and then the next who has the question; but nobody died of it."""
    roles.manager()
    names = {"w-1", "w-2", "w-3"}
    for name in names:
        roles.worker(name, BULLPEN_SIMULATED__LATENCY_MS="8000", BULLPEN_SIMULATED__HEARTBEAT_INTERVAL="0.3")
    await roles.ready()
    holders: dict[int, str] = {}

    def hear(message: Message) -> None:
        if b'"claim"' in message.data:
            claim = from_json(message.data)
            holders[claim["attempt"]] = next(name for name in names if roles.beats[name].epoch == claim["epoch"])

    await roles.bus.subscribe_inline("_INBOX.>", hear)
    question = await roles.ask()
    for attempt in (1, 2):
        await eventually(partial(holders.get, attempt))
        roles.send(holders[attempt], signal.SIGSTOP)
        await eventually(partial(has_seen_leave, roles, holders[attempt]))
    for attempt in (1, 2):
        roles.send(holders[attempt], signal.SIGCONT)
    assert unwell(await roles.answered([question])) == []
