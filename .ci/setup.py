"""Makes `.venv`: exactly what requirements.lock says, hash by hash, and this checkout in it.

Called by the Makefile with any Python that is new enough; needs nothing but the standard library. It does nothing
when `.venv` is what it should be, waits for another one at work in the same clone, and starts over after one
that was interrupted.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "complete"

NO_VENV = """
This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv
"""
NO_INSTALL = """
The packages could not be installed (see above). Once the cause is mended, call make again.
"""


def main() -> None:
    with LOCK.open() as lock:
        wait_for_others(lock.fileno())
        wanted = fingerprint()
        if is_complete(wanted):
            return
        began = time.monotonic()
        print(f"Setting up .venv with Python {sys.version.split()[0]}: downloads about 200 MB, once …", flush=True)
        make_venv()
        install()
        STAMP.write_text(wanted)
        print(f"Set up in {time.monotonic() - began:.0f} s.", flush=True)


def wait_for_others(file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up is at work in this clone: waiting for it …", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


def fingerprint() -> str:
    """Changes when the set-up has to be done again: other packages, another place, another way."""
    content = b"".join(path.read_bytes() for path in (LOCK, ROOT / "pyproject.toml", Path(__file__)))
    return f"{ROOT} {hashlib.sha256(content).hexdigest()}"


def is_complete(wanted: str) -> bool:
    try:
        return STAMP.read_text() == wanted and succeeds(PYTHON, "-c", "")
    except OSError:
        return False


def make_venv() -> None:
    STAMP.unlink(missing_ok=True)
    if not succeeds(sys.executable, "-m", "venv", "--clear", VENV):
        sys.exit(NO_VENV)


def install() -> None:
    pip("--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", LOCK)
    pip("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--editable", ROOT)


def pip(*arguments: str | Path) -> None:
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    if not succeeds(PYTHON, "-m", "pip", "install", *quiet, *arguments):
        sys.exit(NO_INSTALL)


def succeeds(*command: str | Path) -> bool:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 — ours only
    return done.returncode == 0


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("The set-up was interrupted; the next one starts over.")
