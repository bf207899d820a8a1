"""One mesh per data directory: a file lock that the kernel releases when its holder dies, however that happens."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
from pydantic import ValidationError

from contracts import OpenModel

NAME = "up.lock"
LOCK_WITHIN = 0.5
"""Seconds to try for the lock: a process that only checks it holds it for an instant."""


SAME_START = 5.0
"""Seconds by which the start time of one process may differ: the clock may have been set since."""


class Holder(OpenModel):
    """The process that made the lock. Its process id alone could belong to another process by now."""

    pid: int
    started: float
    """Unix seconds."""
    command: tuple[str, ...]

    @classmethod
    def of(cls, process: psutil.Process) -> "Holder":
        return cls(pid=process.pid, started=process.create_time(), command=tuple(process.cmdline()))

    def is_process(self, process: psutil.Process) -> bool:
        """Whether this is the same process, and not another one with its id. Raises `psutil.Error`."""
        now = Holder.of(process)
        same_start = abs(now.started - self.started) < SAME_START
        return now.pid == self.pid and same_start and now.command == self.command


class AlreadyRunning(Exception):
    """Another process runs a mesh on this data directory."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(f"a mesh already runs on {data_dir} (process {pid}): stop it with `bullpen down`")
        self.data_dir = data_dir
        self.pid = pid


class Lock:
    """The right to run a mesh on a data directory, held from `Lock(...)` to `release()`.

    Its holder first removes the last mesh's addresses, and then signs. In between readers see no mesh, never the old
    addresses.
    """

    def __init__(self, data_dir: Path) -> None:
        """Raises `AlreadyRunning`, and `OSError` when the directory cannot be written."""
        self._file: IO[str] = os.fdopen(os.open(data_dir / NAME, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")
        os.fchmod(self._file.fileno(), 0o600)  # whoever may open it may also hold it
        try:
            _acquire(self._file, data_dir)
        except AlreadyRunning:
            self._file.close()
            raise
        self._file.truncate(0)

    def sign(self) -> None:
        """Writes the holder's process id into the lock."""
        self._file.seek(0)
        self._file.write(Holder.of(psutil.Process()).model_dump_json())
        self._file.flush()

    def release(self) -> None:
        with suppress(OSError):  # what could not be written on a full disk is not missed now
            self._file.close()


def holder(data_dir: Path) -> int | None:
    """The process id of the mesh that runs on this data directory; 0: it has not signed yet; None: none runs."""
    try:
        file = (data_dir / NAME).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        return None if _take(file, fcntl.LOCK_SH) else _pid(file)


def maker(data_dir: Path) -> Holder | None:
    """The process that made the lock; None: the lock is unreadable."""
    try:
        return Holder.model_validate_json((data_dir / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def _acquire(file: IO[str], data_dir: Path) -> None:
    end = time.monotonic() + LOCK_WITHIN
    while not _take(file, fcntl.LOCK_EX):
        if time.monotonic() >= end:
            raise AlreadyRunning(data_dir, _pid(file))
        time.sleep(0.02)


def _take(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(file: IO[str]) -> int:
    """The process id in the lock; 0: none yet, since a dead one is the last holder's."""
    file.seek(0)
    try:
        signed = Holder.model_validate_json(file.read())
    except ValidationError:
        return 0
    return signed.pid if psutil.pid_exists(signed.pid) else 0
