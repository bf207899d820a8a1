"""One mesh per data directory: a file lock that the kernel lets go of when its holder dies, however it dies."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

NAME = "up.lock"
LOCK_WITHIN = 0.5
"""Seconds to try for the lock: a process that only checks whether it is held has it for an instant."""


class AlreadyRunning(Exception):
    """Another process runs a mesh on this data directory."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(f"a mesh already runs on {data_dir} (process {pid}): stop it with `bullpen down`")
        self.data_dir = data_dir
        self.pid = pid


class Lock:
    """The right to run a mesh on a data directory, held from `Lock(...)` to `release()`.

    Its holder first removes what the last mesh left, and then signs: who reads meanwhile sees no mesh yet, never the
    last one's addresses.
    """

    def __init__(self, data_dir: Path) -> None:
        """Raises `AlreadyRunning`, and `OSError` when the directory cannot be written."""
        self._file: IO[str] = (data_dir / NAME).open("a+", encoding="utf-8")
        try:
            _acquire(self._file, data_dir)
        except AlreadyRunning:
            self._file.close()
            raise
        self._file.truncate(0)

    def sign(self) -> None:
        """Tells others who holds it."""
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        with suppress(OSError):  # what could not be written on a full disk is not missed now
            self._file.close()


def holder(data_dir: Path) -> int | None:
    """The process id of the mesh that runs on this data directory; None when none does, or has not signed yet."""
    try:
        file = (data_dir / NAME).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        return None if _take(file, fcntl.LOCK_SH) else _pid(file) or None


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
    """Who signed; 0 while nobody has: one that is dead is the last holder."""
    file.seek(0)
    text = file.read()
    return int(text) if text.isdecimal() and _lives(int(text)) else 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is another user's
    return True
