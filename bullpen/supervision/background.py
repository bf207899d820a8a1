"""A mesh without a terminal: starts one in the background, and stops the one on a data directory."""

import errno
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import psutil

from bullpen.supervision.lock import NAME, holder, maker

READY = b"r"
LOOK_EVERY = 0.1
STOPS_WITHIN = 10.0


def launch(command: Sequence[str], log: Path, tell: Callable[[str], None]) -> int:
    """Starts the command in the background. Returns 0 when the mesh is ready, else the command's exit code.

    The command gets `--ready-fd N`, where it writes `READY`. Its output goes to `log`, and to `tell` until it is ready.
    """
    ready, ready_write = os.pipe()
    with log.open("ab") as output, log.open(encoding="utf-8", errors="replace") as said, os.fdopen(ready, "rb") as wait:
        said.seek(0, os.SEEK_END)
        process = subprocess.Popen(  # noqa: S603 — our own command line
            [*command, "--ready-fd", str(ready_write)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[ready_write],
            start_new_session=True,
        )
        os.close(ready_write)
        try:
            is_ready = _relay(said, wait, tell)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    return 0 if is_ready else process.wait()


def stop(data_dir: Path, drain_within: float = 0.0) -> bool:
    """Stops the mesh that runs on this data directory; False: none runs.

    `drain_within`: seconds that the mesh gives to answers under way.

    Raises `OSError` when that is not allowed, or when the lock names a process that did not make it.
    """
    if holder(data_dir) is None:
        return False
    made = maker(data_dir)
    if made is None:
        raise ProcessLookupError(errno.ESRCH, f"{data_dir / NAME} is held, and does not say by which process")
    pid = made.pid
    try:
        process = psutil.Process(pid)
        if not made.is_process(process):
            told = f"process {pid} is not the one that made {data_dir / NAME}; end the mesh yourself"
            raise ProcessLookupError(errno.ESRCH, told)
        process.terminate()
        if not _ends(process, STOPS_WITHIN + drain_within):
            process.kill()  # what it started dies with it
            _ends(process, STOPS_WITHIN)
    except psutil.NoSuchProcess:
        pass  # it has just left by itself
    except psutil.AccessDenied:
        raise PermissionError(errno.EPERM, f"process {pid} belongs to another user") from None
    return True


def _ends(process: psutil.Process, within: float) -> bool:
    end = time.monotonic() + within
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() >= end:
            return False
        time.sleep(LOOK_EVERY / 2)
    return True


def _relay(said: IO[str], wait: IO[bytes], tell: Callable[[str], None]) -> bool:
    """Passes on the output until the mesh is ready (True) or has died (False)."""
    while True:
        over = select.select([wait], [], [], LOOK_EVERY)[0]
        if text := said.read():
            tell(text.removesuffix("\n"))
        if over:
            return wait.read(1) == READY
