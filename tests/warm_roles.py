"""Roles as real processes that need not import Bullpen each: forked from one that has.

A role takes half a second of processor time to import everything, and the tests start some two hundred. What is
forked here has a process id, a memory and an end of its own, and is killed with real signals; only `exec` is
missing. `bullpen up` and the containers start roles with `exec`, and so do the tests of `bullpen up`.

This file is also the program of the process that forks.
"""

import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from tests.warm_process import become_bullpen

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = 1 << 20
"""Bytes: more than an environment has."""
PR_SET_PDEATHSIG = 1
ROLES = (
    *("bullpen.cli.roles", "manager.manager", "telemetry.service"),
    *("workers.base.runtime.worker", "workers.simulated.backend"),
)
"""What is imported before anything is forked."""


class WarmRole:
    """`bullpen <arguments>` in a process of its own; has what the tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], output: BinaryIO) -> None:
        self._nursery = _nursery()
        told = self._nursery.ask({"arguments": list(arguments), "env": dict(env)}, output.fileno())
        self.pid: int = told
        self._code: int | None = None
        self._ends = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit code, or minus the signal that killed it; None while it runs."""
        if self._code is None and select.select([self._ends], [], [], 0)[0]:
            self._code = self._nursery.ask({"ended": self.pid})
            os.close(self._ends)
        return self._code

    def kill(self) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._ends, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        """Waits for its end. Raises `TimeoutError`."""
        if self._code is None and not select.select([self._ends], [], [], timeout)[0]:
            raise TimeoutError(f"process {self.pid} did not end within {timeout} s")
        code = self.poll()
        assert code is not None
        return code


class _Nursery:
    """The process that forks, seen from the tests'. Ends with them."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm_roles", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self._socket.close)

    def ask(self, request: dict[str, Any], *descriptors: int) -> int:
        socket.send_fds(self._socket, [json.dumps(request).encode()], list(descriptors))
        return int(self._socket.recv(MESSAGE) or b"")


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def main(connection: socket.socket) -> None:
    """Forks what it is asked for, and tells the exit codes, until nobody asks any more."""
    for module in ROLES:
        import_module(module)
    gc.freeze()
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, MESSAGE, 1)
        if not message:
            return
        request = json.loads(message)
        if "ended" in request:
            told = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        elif (told := os.fork()) == 0:
            connection.close()
            _become(request, descriptors[0])
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(told).encode())


def _become(request: dict[str, Any], output: int) -> None:
    """The forked process's whole life."""

    def prepare() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.close(output)

    become_bullpen(request["arguments"], request["env"], prepare)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
