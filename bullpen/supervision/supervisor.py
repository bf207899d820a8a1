"""Keeps processes running: starts them, restarts them when they die, stops them in order.

One `_Keeper` per program handles its whole life. A process that dies is restarted after 0.2 s; one that keeps dying
after longer and longer pauses, up to 10 s. One that ended in order (exit code 0, as after a SIGTERM) is restarted at
once: that is no death. Each process leads its own process group, so that Ctrl-C in a terminal reaches only us; it ends
when we die (see `leash`).
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog

from bullpen.supervision.leash import KEEP_USER, leashed
from bus import Tasks
from bus.backoff import Backoff

log = structlog.get_logger(__name__)

RESTART = Backoff(0.2, 10.0)
HEALTHY_AFTER = 10.0
"""Seconds of life after which a death counts as the first one again."""
SHORTEST_LIFE = 1.0
"""Seconds of life after which an orderly end is followed by a restart at once. A shorter one would repeat without
end.
"""
LARGEST_LOG = 10 << 20
"""Bytes; a larger log is renamed to `<name>.log.1` at the next start."""
TAIL_BYTES, TAIL_LINES = 8192, 8


@dataclass(frozen=True, slots=True)
class Program:
    """A program to keep running."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    uid: int = KEEP_USER
    gid: int = KEEP_USER
    stop_signal: signal.Signals = signal.SIGTERM
    """The signal that stops it in order."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """The signal that it gets when the supervisor dies."""


@dataclass(frozen=True, slots=True)
class Death:
    """A process ended without being asked to."""

    name: str
    pid: int
    code: int
    """The exit code, or minus the number of the signal that killed it."""
    again_in: float
    """Seconds until the restart."""

    @property
    def how(self) -> str:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exited with {self.code}"
        return f"was killed by signal {-self.code}"


@dataclass(slots=True)
class RestartDelay:
    """How long to wait after a process's death: doubled each time until a process has lived for a while.

    Without jitter: the processes of one machine die for reasons of their own.
    """

    deaths: int = 0

    def after(self, lived: float) -> float:
        """Seconds to wait after a process lived for so many seconds."""
        self.deaths = 1 if lived >= HEALTHY_AFTER else self.deaths + 1
        return RESTART.ceiling(self.deaths)


class Supervisor:
    """`started` is called with the name of each new process, `died` with each death."""

    def __init__(self, started: Callable[[str], None], died: Callable[[Death], None]) -> None:
        self._started = started
        self._died = died
        self._keepers: dict[str, _Keeper] = {}
        self._tasks = Tasks("supervisor")

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name; a process that just died keeps its old id until it is restarted."""
        return {name: keeper.pid for name, keeper in self._keepers.items() if keeper.pid}

    def deaths(self, name: str) -> int:
        """How often the process died without being asked to end."""
        return self._keepers[name].deaths

    def last_words(self, name: str) -> str:
        """The end of the process's log since its last start."""
        return self._keepers[name].last_words()

    def dying_words(self, name: str) -> str:
        """The end of the process's log before its last death, also when its successor runs already."""
        return self._keepers[name].dying_words or self.last_words(name)

    async def start(self, program: Program) -> None:
        """Starts a program and keeps it running. Returns when the process exists."""
        keeper = self._keepers[program.name] = _Keeper(program, self._started, self._died)
        keeper.task = self._tasks.start(keeper.keep(), program.name)
        await keeper.alive.wait()

    async def restart(self, name: str, within: float = 10.0) -> None:
        """Ends the process in order (kills it after `within` seconds) and starts it again at once."""
        await self._keepers[name].restart(within)

    async def stop(self, names: Iterable[str], within: float) -> None:
        """Ends these processes, all at the same time, in order; kills those that take longer than `within` seconds."""
        leaving = [self._keepers.pop(name) for name in list(names) if name in self._keepers]
        await asyncio.gather(*(keeper.leave(within) for keeper in leaving))

    def kill(self) -> None:
        """Kills everything, at once."""
        for keeper in self._keepers.values():
            keeper.kill()


class _Keeper:
    """The life of one program, as long as it is wanted."""

    task: asyncio.Task[None]
    """Runs `keep`."""

    def __init__(self, program: Program, started: Callable[[str], None], died: Callable[[Death], None]) -> None:
        self._program = program
        self._started = started
        self._died = died
        self._process: asyncio.subprocess.Process | None = None
        self._restart_delay = RestartDelay()
        self._leaving = False
        self._asked_to_end = False
        self._hurry = asyncio.Event()
        self._log_from = 0
        self.alive = asyncio.Event()
        self.deaths = 0
        self.dying_words = ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def keep(self) -> None:
        """Runs one process after the other, until `leave`."""
        loop = asyncio.get_running_loop()
        while not self._leaving:
            born = loop.time()
            self._asked_to_end = False
            code = await self._live()
            lived = loop.time() - born
            if code == 0 and lived >= SHORTEST_LIFE:
                self._restart_delay = RestartDelay()
            elif not self._asked_to_end:
                await self._wait_after(code, lived)

    async def restart(self, within: float) -> None:
        """Stops the process, in order if possible, and waits for the next one."""
        process = self._process if self.alive.is_set() else None
        self._ask()
        if process is not None:
            await _bounded(process.wait(), within, self.kill)
        await self.alive.wait()

    async def leave(self, within: float) -> None:
        """Stops the process, in order if possible, for good."""
        self._leaving = True
        self._ask()
        await _bounded(asyncio.shield(self.task), within, self.kill)

    def kill(self) -> None:
        """Kills the process and its children."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        try:
            with self._program.log.open("rb") as file:
                file.seek(max(self._log_from, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                said = file.read().decode("utf-8", "replace").strip()
        except OSError:
            return ""
        return "\n".join(said.splitlines()[-TAIL_LINES:])

    def _ask(self) -> None:
        """Asks the process to end; a process that waits for its restart waits no longer."""
        if self._process is not None and self.alive.is_set():
            self._asked_to_end = True
            self.alive.clear()
            with suppress(ProcessLookupError):
                self._process.send_signal(self._program.stop_signal)
        else:
            self._hurry.set()

    async def _live(self) -> int:
        """Runs one process from its start to its exit code."""
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            log.error("process_not_started", process=self._program.name, error=str(error))
            return os.EX_OSERR
        self.alive.set()
        self._started(self._program.name)
        if self._leaving:  # that was said while the process was being made
            self._ask()
        code = await process.wait()
        self.alive.clear()
        self.kill()  # what it may have left behind
        return code

    async def _spawn(self) -> asyncio.subprocess.Process:
        program = self._program
        with self._open_log() as output:
            return await asyncio.create_subprocess_exec(
                *leashed(program.command, uid=program.uid, gid=program.gid, at_death=program.orphan_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=program.environment,
                start_new_session=True,
            )

    def _open_log(self) -> BinaryIO:
        path = self._program.log
        if path.exists() and path.stat().st_size > LARGEST_LOG:
            path.replace(path.with_name(f"{path.name}.1"))
        file = path.open("ab")
        self._log_from = file.tell()
        return file

    async def _wait_after(self, code: int, lived: float) -> None:
        self.deaths += 1
        self.dying_words = self.last_words()
        delay = self._restart_delay.after(lived)
        self._hurry.clear()
        self._died(Death(self._program.name, self.pid or 0, code, delay))
        if not self._leaving:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._hurry.wait()


async def _bounded(ending: Awaitable[object], within: float, kill: Callable[[], None]) -> None:
    """Waits for the end; after `within` seconds, kills."""
    waiting = asyncio.ensure_future(ending)
    await asyncio.wait({waiting}, timeout=within)
    if not waiting.done():
        kill()
    await waiting
