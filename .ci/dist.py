"""Builds the wheel and the source archive into `dist/`, and checks what an index would refuse.

Called by `make dist` in the virtual environment that set-up made; asks no index.
"""

import io
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).resolve().parent.parent
MUST_HAVE = (
    *("bullpen/cli/__init__.py", "client/client.py", "manager/config.yaml", "gateway/config.yaml"),
    *("telemetry/config.yaml", "workers/local/config.yaml", "bullpen/embedded/nats.conf"),
)


def main() -> None:
    os.chdir(ROOT)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "dist")
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree("build", ignore_errors=True)  # what was deleted since would be in the wheel again
    with redirect_stdout(io.StringIO()):  # a line per file
        made = [out / build(str(out)) for build in (build_meta.build_wheel, build_meta.build_sdist)]
    shutil.rmtree("build", ignore_errors=True)
    missing = set(MUST_HAVE) - set(zipfile.ZipFile(made[0]).namelist())
    if missing:
        sys.exit(f"{made[0]} lacks {', '.join(sorted(missing))}")
    if find_spec("twine"):
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], check=True)  # noqa: S603 — ours only
    else:
        print("not checked by twine, which is not installed here: make dist installs it")
    for path in made:
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
