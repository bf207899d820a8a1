"""Starts a program that ends when its starter ends, however that happens (even by kill -9).

It is a script that needs only the standard library, because the kernel forgets the request when the user changes, and a
fork with Python code in it is not safe beside threads. The script becomes the program, so the process id stays. Only
Linux has such a request: elsewhere the program ends only when its starter stops it.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
KEEP_USER = -1


def leashed(
    program: Sequence[str], *, uid: int = KEEP_USER, gid: int = KEEP_USER, at_death: signal.Signals = signal.SIGKILL
) -> list[str]:
    """The command that runs `program` as that user, and sends it `at_death` when this process dies.

    Start it from the main thread: the kernel watches the thread that starts it.
    """
    numbers = (os.getpid(), int(at_death), uid, gid)
    return [sys.executable, "-I", "-S", __file__, *map(str, numbers), *program]


def main(starter: int, at_death: int, uid: int, gid: int, *program: str) -> None:
    if uid != KEEP_USER:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, at_death)
        if os.getppid() != starter:
            sys.exit("the starter died before its program began")
    os.execv(program[0], program)  # noqa: S606 — no shell is the point


if __name__ == "__main__":
    STARTER, AT_DEATH, UID, GID = map(int, sys.argv[1:5])
    main(STARTER, AT_DEATH, UID, GID, *sys.argv[5:])
