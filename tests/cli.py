"""Runs `bullpen`: in this process (`invoke`, `bullpen`), in one of its own (`start`, `finish`), on a terminal."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog
from typer.testing import CliRunner

from bullpen.cli import app

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 90.0
PATIENT = """
from bullpen.cli import main
from client import watch
watch.REPLY_WITHIN = 60.0
main()
"""
"""`bullpen` that takes a Manager for lost only after a minute: the tests may play one, and a busy machine is slow."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NO_PLACE = "/dev/null/none"
"""A data directory that not even root can make: what one test lays aside there another one would find."""


@dataclass
class Result:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def environment(**changes: str | None) -> dict[str, str]:
    """Ours without anything that points at a mesh; None removes a variable."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("NATS_", "BULLPEN_", "DATABASE_")) and key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    }
    kept |= {"BULLPEN_DATA_DIR": NO_PLACE, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    return {key: value for key, value in (kept | changes).items() if value is not None}


def command(*arguments: str) -> list[str]:
    program = ["-c", PATIENT] if arguments[0] == "ask" else ["-m", "bullpen"]
    return [sys.executable, *program, *arguments]


async def start(*arguments: str, **env: str | None) -> asyncio.subprocess.Process:
    """Starts it; end it with `finish`."""
    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        cwd=ROOT,
        env=environment(**env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """Whoever runs the tests in the background has them ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def finish(process: asyncio.subprocess.Process, stdin: bytes = b"", sign: signal.Signals | None = None) -> Result:
    """Waits for its end, after a signal if one is given; kills it when that takes too long."""
    try:
        if sign is not None:
            process.send_signal(sign)
        out, err = await asyncio.wait_for(process.communicate(stdin), WITHIN)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


def invoke(*arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
    """Runs it to its end, in this process. One at a time: standard output is changed for it.

    What it adds to the environment, such as where a kept key is, goes with it.
    """
    before = set(os.environ)
    unset: dict[str, str | None] = dict.fromkeys(os.environ.keys() - environment().keys())
    told = CliRunner().invoke(app, arguments, input=stdin, env={**unset, **environment(**(env or {}))})
    structlog.reset_defaults()
    for name in os.environ.keys() - before:
        del os.environ[name]
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    return Result(told.exit_code, told.stdout, told.stderr)


async def bullpen(*arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
    """`invoke`, while others go on."""
    return await asyncio.to_thread(invoke, *arguments, stdin=stdin, env=env)


class Terminal:
    """It on a terminal of 80 columns: `screen` is all that was shown, without colours."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self._process = process
        self._master = master
        self._shown = b""
        asyncio.get_running_loop().add_reader(master, self._read)

    @classmethod
    @asynccontextmanager
    async def run(cls, *arguments: str, columns: int = 80, **env: str | None) -> AsyncIterator[Self]:
        """Starts it; at the end of the block it is gone, whatever happened."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        process = await asyncio.create_subprocess_exec(
            *command(*arguments),
            cwd=ROOT,
            env=environment(**env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )
        os.close(slave)
        try:
            yield cls(process, master)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            asyncio.get_running_loop().remove_reader(master)
            os.close(master)

    @property
    def raw(self) -> str:
        return self._shown.decode(errors="replace")

    @property
    def screen(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does: every process of the terminal's group gets a SIGINT."""
        os.killpg(self._process.pid, signal.SIGINT)

    async def end(self) -> int:
        """Waits for its end; its exit code."""
        code = await asyncio.wait_for(self._process.wait(), WITHIN)
        self._read()
        return code

    def _read(self) -> None:
        os.set_blocking(self._master, False)
        with suppress(OSError):  # nothing more now, or the other side is closed
            while piece := os.read(self._master, 65536):
                self._shown += piece


async def findings(**env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code of `bullpen doctor`, and the state and the cure of each part."""
    told = await bullpen("doctor", "--json", env=env)
    return told.code, {finding["part"]: (finding["state"], finding["cure"]) for finding in told.json()}
