"""Workers that say nothing are noticed by `up` and shown by every command that lists workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bullpen.cli.look import silent_json, workers_table
from bullpen.cli.welcome import lines
from bullpen.doctor import findings_of
from bullpen.start_plan import StartPlan
from bullpen.supervision.endpoints import Endpoints, write
from bullpen.supervision.lock import Lock
from bullpen.supervision.silence import SilenceWatch, SilentWorker, silent_workers
from tests.fake_manager import heartbeat
from tests.support import eventually

STOPPED = SilentWorker("local-1", 22361, 15.2, is_stopped=True)


def test_a_silent_worker_is_told_once_and_again_when_it_is_back() -> None:
    watch = SilenceWatch()
    watch.hear(heartbeat("quick"), 0.0)
    watch.hear(heartbeat("slow", interval_ms=60_000), 0.0)
    watch.hear(heartbeat("loading").model_copy(update={"pause_ms": 30_000}), 0.0)
    told = [(now, change) for now in range(8) for change in watch.look(float(now))]
    assert told == [(4, ("quick", True))]
    assert (watch.silent, watch.since("quick")) == (frozenset({"quick"}), 0.0)
    watch.hear(heartbeat("quick"), 8.0)
    assert list(watch.look(8.5)) == [("quick", False)]


def test_who_could_not_listen_calls_no_worker_silent() -> None:
    watch = SilenceWatch()
    watch.hear(heartbeat("a"), 0.0)
    assert [*watch.look(0.5), *watch.look(6.0), *watch.look(7.0)] == [], "it stood still for five seconds itself"
    assert [*watch.look(8.0, connected=False), *watch.look(9.0, connected=False)] == []
    assert list(watch.look(10.0)) == []
    assert [change for now in (11.0, 12.0, 13.0) for change in watch.look(now)] == [("a", True)]


def test_a_worker_that_left_or_was_started_anew_is_not_silent() -> None:
    watch = SilenceWatch()
    for name in ("left", "killed"):
        watch.hear(heartbeat(name), 0.0)
    watch.hear(heartbeat("left", state="stopped"), 1.0)
    watch.forget("killed")
    assert [change for now in range(9) for change in watch.look(float(now))] == []


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[int]:
    """A mesh on `tmp_path` whose worker `local-1` stands still; its process id."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    lock = Lock(tmp_path)
    lock.sign()
    pids = {"manager-1": os.getpid(), "worker-local-1": process.pid, "worker-local-2": process.pid}
    silent = {"local-1": time.time() - 15}
    write(Endpoints(nats_url="nats://here:1", pids=pids, silent_since=silent), tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    yield process.pid
    lock.release()
    process.kill()
    process.wait()


async def test_commands_name_the_process_that_stands_still(
    tmp_path: Path, frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    await eventually(lambda: all(one.is_stopped for one in silent_workers(set(), tmp_path)))
    first, second = silent_workers(set(), tmp_path)
    assert first.reason == f"silent for 15 s (process {frozen} is stopped)"
    assert second.reason == f"no heartbeat now (process {frozen} is stopped)"
    assert [one.worker_id for one in silent_workers({"local-1"}, tmp_path)] == ["local-2"]
    monkeypatch.setenv("NATS_URL", "nats://elsewhere:1")
    assert silent_workers(set(), tmp_path) == [], "another mesh is asked"


def test_workers_and_doctor_show_it() -> None:
    shown = [str(cell) for cell in workers_table([(heartbeat("a"), None)], [STOPPED]).columns[3].cells]
    assert shown == ["ready", "silent for 15 s (process 22361 is stopped)"]
    assert silent_json(STOPPED)["state"] == "silent"
    [_, found] = findings_of([heartbeat("a")], [STOPPED])
    assert (found.part, found.state, found.detail) == ("worker local-1", "warn", STOPPED.reason)
    assert "kill -CONT 22361" in found.cure


def test_up_shows_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://bullpen:s3cret,x@127.0.0.1:5432/bullpen?password=s3cret"
    nats = "nats://me:s3cret@one:4222,nats://s3cret@two:4222"
    monkeypatch.setenv("NATS_URL", nats)
    shown = "\n".join(lines(Endpoints(nats_url=nats, database_url=url), StartPlan(()), tmp_path))
    assert "s3cret" not in shown
    assert "nats://one:4222,nats://two:4222" in shown
    assert '-s "$NATS_URL"' in shown
