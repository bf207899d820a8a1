"""Makes `.clients`: programs that others wrote and that the gateway is tried with, exactly as tests/clients says.

Called by `make clients`. Nothing of Bullpen needs them, so each is installed for itself: what cannot be had is named at
the end, and its tests are skipped. Does nothing where all is as it should be.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WANTED = ROOT / "tests" / "clients"
CLIENTS = ROOT / ".clients"
STAMP = "complete"


def main() -> None:
    missing = [name for name, made in (("python", python()), *node()) if not made]
    if missing:
        sys.exit(f"Not installed: {', '.join(missing)} (see above). Their tests are skipped.")


def python() -> bool:
    lock, folder = WANTED / "python" / "requirements.lock", CLIENTS / "python"
    if is_complete(folder, lock):
        return True
    print("Installing clients in Python …", flush=True)
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)]
    made = run([sys.executable, "-m", "venv", "--clear", str(folder)]) and run(
        [str(folder / "bin" / "python"), "-m", "pip", "install", *options]
    )
    return made and stamp(folder, lock)


def node() -> list[tuple[str, bool]]:
    return [(package.parent.name, node_packages(package)) for package in sorted(WANTED.glob("node/*/package.json"))]


def node_packages(package: Path) -> bool:
    folder = CLIENTS / package.parent.name
    if is_complete(folder, package):
        return True
    if not (npm := shutil.which("npm")):
        print("There is no npm: clients for Node need Node 20 or newer.", file=sys.stderr)
        return False
    print(f"Installing {package.parent.name} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(package, folder)
    options = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    return run([npm, "install", *options], folder) and stamp(folder, package)


def fingerprint(wanted: Path) -> str:
    return f"{ROOT} {hashlib.sha256(wanted.read_bytes()).hexdigest()}"


def is_complete(folder: Path, wanted: Path) -> bool:
    try:
        return (folder / STAMP).read_text() == fingerprint(wanted)
    except OSError:
        return False


def stamp(folder: Path, wanted: Path) -> bool:
    (folder / STAMP).write_text(fingerprint(wanted))
    return True


def run(command: list[str], folder: Path = ROOT) -> bool:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=False)  # noqa: S603 — ours only
    return done.returncode == 0


if __name__ == "__main__":
    main()
