"""Keeps events on disk while JetStream does not take them.

Each role has a folder with files of events, one event a line. Whole files are published again and then removed; an
event that is published twice is booked once. Written events survive the death of this process. After a power failure,
events that the operating system had not written yet are lost, except those written with `secure`. A torn line is
skipped.

A role that starts takes over the files of dead roles in the same place. A full or read-only disk stops no role: the
event stays in memory, and `failed` says why.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import structlog

log = structlog.get_logger(__name__)

FILE_BYTES = 4 << 20
"""Bytes after which a file is closed and the next one begun."""
SUFFIX = ".events"
LOCK = "lock"
MOST_TWINS = 100
"""Processes with the same name that may share one folder of spools."""


@dataclass(frozen=True, slots=True)
class Event:
    subject: str
    body: bytes
    """JSON in one line."""
    message_id: str


class Spool:
    """Make it with `Spool.open`. Files are private to this user: they hold prompts."""

    def __init__(self, folder: Path, max_bytes: int, lock: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = lock
        self._file: int | None = None
        """The file that is being written, as a file descriptor."""
        self._path = folder
        self._written = 0
        self._number = 0
        self._closed: list[Path] = []
        self.bytes = 0
        """Bytes in all files."""
        self.failed = ""
        """Why the last event could not be written; empty when it could."""

    @classmethod
    def open(cls, root: Path, name: str, max_bytes: int) -> "Spool | None":
        """Opens the spool of the role `name` under `root`, with the events left there. None: nothing can be written
        there.
        """
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder, lock = _own_folder(root, name)
            spool = cls(folder, max_bytes, lock)
            spool._adopt(root)
        except OSError as error:
            log.warning("no_spool", folder=str(root), reason=error.strerror, effect="events wait in memory only")
            return None
        return spool

    @property
    def empty(self) -> bool:
        return not self._closed and self._file is None

    def append(self, event: Event) -> bool:
        """Writes an event. False: that failed (see `failed`). Never raises."""
        line = _line(event)
        if self.bytes + len(line) > self._max_bytes:
            self.failed = f"there are {self.bytes} bytes already"
            return False
        try:
            _write(self._begin() if self._file is None else self._file, line)
        except OSError as error:
            self.failed = error.strerror or repr(error)
            self._end()
            return False
        self.failed = ""
        self.bytes += len(line)
        self._written += len(line)
        if self._written >= FILE_BYTES:
            self._end()
        return True

    async def secure(self, events: Sequence[Event]) -> bool:
        """Writes events through to the disk, in a file of their own. False: that failed (see `failed`). Never
        raises.
        """
        lines = b"".join(map(_line, events))
        path = self._next_path()
        if self.bytes + len(lines) > self._max_bytes:
            self.failed = f"there are {self.bytes} bytes already"
            return False
        try:
            await asyncio.to_thread(_write_through, path, lines)
        except OSError as error:
            self.failed = error.strerror or repr(error)
            return False
        self._closed.append(path)
        self.bytes += len(lines)
        return True

    def oldest(self) -> Path | None:
        """The file to publish next, which is closed for writing. None: there is none."""
        if not self._closed and self._file is not None:
            self._end()
        return self._closed[0] if self._closed else None

    def read(self, path: Path) -> list[Event]:
        """The whole events of a file. Never raises."""
        try:
            with path.open("rb") as file:
                return list(_events(file, path.name))
        except OSError as error:
            log.error("spool_unreadable", file=str(path), reason=error.strerror)
            return []

    def remove(self, path: Path) -> None:
        """Removes a file whose events are all acknowledged."""
        try:
            self.bytes -= path.stat().st_size
            path.unlink()
        except OSError as error:
            log.warning("spool_not_removed", file=str(path), reason=error.strerror)
        if path in self._closed:
            self._closed.remove(path)

    def close(self) -> None:
        """Closes the spool and leaves its files to the next process."""
        self._end()
        if not self._closed:
            self._tidy_up()
        os.close(self._lock)

    def _tidy_up(self) -> None:
        try:
            (self._folder / LOCK).unlink()
            self._folder.rmdir()
        except OSError:
            pass  # the next process was quick

    def _begin(self) -> int:
        self._path, self._written = self._next_path(), 0
        self._file = _new_file(self._path)
        return self._file

    def _next_path(self) -> Path:
        self._number += 1
        return self._folder / f"{self._number:08d}{SUFFIX}"

    def _end(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        self._closed.append(self._path)
        os.close(file)

    def _adopt(self, root: Path) -> None:
        """Takes over the files that this role left when it died, and those of other dead roles."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            self._take(path)
        for folder in [f for f in sorted(root.iterdir()) if f.is_dir() and f != self._folder]:
            lock = _locked(folder)
            if lock is None:
                continue
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                self._take(path.rename(self._next_path()))
            (folder / LOCK).unlink(missing_ok=True)
            os.close(lock)
            _remove_empty(folder)
        if self._closed:
            log.info("spool_found", files=len(self._closed), bytes=self.bytes)

    def _take(self, path: Path) -> None:
        self._closed.append(path)
        self.bytes += path.stat().st_size
        if path.stem.isdigit():
            self._number = max(self._number, int(path.stem))


def _own_folder(root: Path, name: str) -> tuple[Path, int]:
    """A folder that no living process uses, and its lock."""
    for number in range(MOST_TWINS):
        folder = root / (name if number == 0 else f"{name}.{number}")
        folder.mkdir(exist_ok=True, mode=0o700)
        if (lock := _locked(folder)) is not None:
            return folder, lock
    raise OSError(0, f"{MOST_TWINS} processes are called {name}")


def _locked(folder: Path) -> int | None:
    """Takes the folder's lock, held until it is closed or this process dies. None: another process has it."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    if os.fstat(lock).st_nlink == 0:  # its owner left, and took the folder with it
        os.close(lock)
        return None
    return lock


def _new_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _write(file: int, line: bytes) -> None:
    while line:
        line = line[os.write(file, line) :]


def _write_through(path: Path, lines: bytes) -> None:
    file = _new_file(path)
    try:
        _write(file, lines)
        os.fsync(file)
    finally:
        os.close(file)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        log.debug("spool_folder_kept", folder=str(folder))


def _line(event: Event) -> bytes:
    content = b"%s %s %s" % (event.subject.encode(), event.message_id.encode(), event.body)
    return b"%08x %s\n" % (crc32(content), content)


def _events(file: BinaryIO, name: str) -> Iterator[Event]:
    torn = 0
    for line in file:
        content = line[9:-1]
        if not line.endswith(b"\n") or line[:9] != b"%08x " % crc32(content):
            torn += 1
            continue
        subject, message_id, body = content.split(b" ", 2)
        yield Event(subject.decode(), body, message_id.decode())
    if torn:
        log.warning("spool_torn", file=name, lines=torn)
