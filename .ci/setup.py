"""Makes `.venv`: exactly what the lock says, hash by hash, and this checkout in it.

Called by the Makefile with any Python that is new enough; needs nothing but the standard library, and uses `uv` where
that is installed. `setup.py run` installs what `make up` needs (requirements-run.lock), without an argument the tools
for `make test` and `make check` too (requirements.lock). It does nothing when `.venv` is what it should be, waits for
another one at work in the same clone, and starts over after one that was interrupted.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN, WHOLE = ROOT / "requirements-run.lock", ROOT / "requirements.lock"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = {RUN: VENV / "complete-run", WHOLE: VENV / "complete"}
MEGABYTES = {RUN: (300, 830), WHOLE: (325, 1020)}
"""To download and on the disk, about, when nothing is there yet."""

NO_VENV = """
This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv
"""
NO_INSTALL = """
The packages could not be installed (see above). Once the cause is mended, call make again.
"""


def main() -> None:
    lock = RUN if sys.argv[1:] == ["run"] else WHOLE
    with WHOLE.open() as file:
        wait_for_others(file.fileno())
        done = [one for one in STAMPS if is_complete(one)]
        if lock in done or WHOLE in done:
            return
        set_up(lock, begun=bool(done))


def set_up(lock: Path, *, begun: bool) -> None:
    """`begun`: what `make up` needs is there already."""
    began = time.monotonic()
    if begun:
        print("Setting up .venv: adding the tools for tests and checks", flush=True)
    else:
        download, disk = MEGABYTES[lock]
        print(f"Setting up .venv once: about {download} MB to download, {disk} MB on the disk", flush=True)
        step(f"environment for Python {sys.version.split()[0]}", make_venv)
    packages = sum(not line.startswith((" ", "#")) and "==" in line for line in lock.read_text().splitlines())
    step(f"{packages} packages", lambda: install(lock))
    if not begun:
        step("bullpen itself", install_checkout)
    STAMPS[lock].write_text(fingerprint(lock))
    print(f"Set up in {time.monotonic() - began:.0f} s.", flush=True)


def wait_for_others(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up is at work in this clone: waiting for it …", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def fingerprint(lock: Path) -> str:
    """Changes when the set-up has to be done again: other packages, another place, another way."""
    content = b"".join(path.read_bytes() for path in (lock, ROOT / "pyproject.toml", Path(__file__)))
    return f"{ROOT} {hashlib.sha256(content).hexdigest()}"


def is_complete(lock: Path) -> bool:
    try:
        return STAMPS[lock].read_text() == fingerprint(lock) and succeeds(PYTHON, "-c", "")
    except OSError:
        return False


def step(what: str, do) -> None:
    """One line, finished when it is done."""
    print(f"  {what} … ", end="", flush=True)
    began = time.monotonic()
    do()
    print(f"{time.monotonic() - began:.0f} s", flush=True)


def make_venv() -> None:
    for stamp in STAMPS.values():
        stamp.unlink(missing_ok=True)
    if not succeeds(sys.executable, "-m", "venv", "--clear", VENV):
        sys.exit(NO_VENV)


def install(lock: Path) -> None:
    wanted = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", lock)
    uv = shutil.which("uv")
    if uv and succeeds(uv, "pip", "install", "--quiet", "--python", PYTHON, *wanted):
        return
    pip(*wanted)  # which may know another index than uv does


def install_checkout() -> None:
    pip("--no-deps", "--no-index", "--no-build-isolation", "--editable", ROOT)


def pip(*arguments: str | Path) -> None:
    if not succeeds(PYTHON, "-m", "pip", "install", "--quiet", "--progress-bar", "off", *arguments):
        sys.exit(NO_INSTALL)


def succeeds(*command: str | Path) -> bool:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 — ours only
    return done.returncode == 0


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nThe set-up was interrupted; the next one starts over.")
