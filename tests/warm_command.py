"""The command `bullpen` for whoever types many: forked from a process that has imported Bullpen, so that each takes a
tenth of the processor time.

It has a process, a folder, an environment, three descriptors and an exit code of its own, and heeds SIGTERM. What it
starts itself is started as ever. `client` is the program that is called instead; this file is also that of the process
that forks.
"""

import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TypedDict

from tests.support import eventually
from tests.warm_process import become_bullpen

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = 1 << 20
"""Bytes: more than an environment has."""
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect({address!r})
more = {up!r} if sys.argv[1:2] == ["up"] else []
told = {{"arguments": sys.argv[1:] + more, "env": dict(os.environ), "cwd": os.getcwd()}}
socket.send_fds(link, [json.dumps(told).encode()], [0, 1, 2])
pid = int(link.recv(64))
signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGTERM))
sys.exit(int(link.recv(64) or 1))
"""


class Told(TypedDict):
    """What a command is told."""

    arguments: list[str]
    env: dict[str, str]
    cwd: str


@asynccontextmanager
async def warm_command(folder: Path, up: tuple[str, ...] = ()) -> AsyncIterator[None]:
    """Makes `folder/bullpen`. `up`: what `bullpen up` is told besides."""
    address = folder / "warm"
    program = folder / "bullpen"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address), up=[*up]))
    program.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.warm_command", str(address)), cwd=ROOT, stdin=subprocess.PIPE
    )
    try:
        await eventually(lambda: address.exists() or process.returncode is not None, timeout=60)
        assert process.returncode is None
        yield
    finally:
        await process.communicate(b"")  # no more to read: it ends


def main(address: Path) -> None:
    """Forks for each connection, until its own standard input ends."""
    from bullpen.cli import COMMANDS

    for module in {f"bullpen.cli.{module}" for module, *_ in COMMANDS.values()}:
        import_module(module)
    for module in ("client", "manager.manager", "workers.base.runtime.worker", "workers.simulated.backend"):
        import_module(module)
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    new = address.with_suffix(".new")
    listening.bind(str(new))
    listening.listen()
    new.rename(address)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        link = listening.accept()[0]
        message, descriptors, *_ = socket.recv_fds(link, MESSAGE, 3)
        if os.fork() == 0:
            listening.close()
            _serve(link, json.loads(message), descriptors)
        link.close()
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _serve(link: socket.socket, told: Told, descriptors: list[int]) -> None:
    """Tells the process id and the exit code of what it forks."""
    if (pid := os.fork()) == 0:
        link.close()
        _become(told, descriptors)
    link.send(str(pid).encode())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # whoever called it has been killed
        link.send(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _become(told: Told, descriptors: list[int]) -> None:
    """The command's whole life."""

    def prepare() -> None:
        for own, descriptor in enumerate(descriptors):
            os.dup2(descriptor, own)
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(own, mode, closefd=False) for own, mode in enumerate("rww"))
        os.chdir(told["cwd"])

    become_bullpen(told["arguments"], told["env"], prepare)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
