"""Builds the documentation as a site, in `build/site`, from the pages as they stand in the repository.

Called by `make docs`. The builder is installed into `.docs` once, exactly as requirements/docs.lock says; after that
nothing is asked of any network, here or by whoever reads the site. A warning is an error.

The pages are laid out in `build/pages` as they are here, so that every link between them stays right, also one to
a file outside of docs/. `docs.py prepare` does only that.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "docs.lock"
BUILDER = ROOT / ".docs"
PAGES = ROOT / "build" / "pages"
LINK = re.compile(r"\]\(([^()\s#]+)(#[^()\s]*)?\)")
QUIET = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def main() -> None:
    prepare()
    if sys.argv[1:] == ["prepare"]:
        return
    python = sys.executable if sys.argv[1:] == ["here"] else str(builder())
    if not succeeds(python, "-m", "mkdocs", "build", "--strict"):
        sys.exit("The site could not be built (see above).")
    print("Built: open build/site/index.html, or serve build/site", flush=True)


def builder() -> Path:
    """The Python of an environment that has what builds the site."""
    python, stamp = BUILDER / "bin" / "python", BUILDER / "complete"
    wanted = f"{ROOT} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("Installing what builds the site …", flush=True)
        lock = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)]
        made = succeeds(sys.executable, "-m", "venv", "--clear", str(BUILDER))
        if not made or not succeeds(str(python), "-m", "pip", "install", "--quiet", *lock):
            sys.exit("What builds the site could not be installed (see above).")
        stamp.write_text(wanted)
    return python


def succeeds(*command: str) -> bool:
    environment = {**os.environ, **QUIET}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0  # noqa: S603 — ours only


def prepare() -> None:
    """Copies the pages and whatever they link to, and lists the files of folders that are linked to."""
    shutil.rmtree(PAGES, ignore_errors=True)
    waiting = [ROOT / "README.md", *(path for path in (ROOT / "docs").rglob("*") if path.is_file())]
    seen: set[Path] = set()
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        target = PAGES / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            waiting += [path for path in source.iterdir() if path.is_file()]
            write_list(source, target)
        elif source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            waiting += linked(source, text)
            target.write_text(LINK.sub(partial(to_page, source), text), encoding="utf-8")
        else:
            shutil.copy(source, target)


def linked(page: Path, text: str) -> Iterator[Path]:
    """What a page links to inside the repository."""
    for link in LINK.finditer(text):
        if "://" not in link[1] and (path := (page.parent / link[1]).resolve()).exists():
            yield path


def to_page(page: Path, link: re.Match[str]) -> str:
    """The link, to its README.md when it leads to a folder."""
    folder = "://" not in link[1] and (page.parent / link[1]).is_dir()
    return f"]({link[1].rstrip('/')}/README.md{link[2] or ''})" if folder else link[0]


def write_list(folder: Path, target: Path) -> None:
    """A page for a folder that has none."""
    if not (folder / "README.md").exists():
        target.mkdir(exist_ok=True)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        lines = [f"- [{title(path)}]({path.name})" for path in files]
        (target / "README.md").write_text(
            f"# {folder.name.capitalize()}\n\n" + "\n".join(lines) + "\n", encoding="utf-8"
        )


def title(path: Path) -> str:
    """A page's heading, else the file's name."""
    if path.suffix == ".md" and (found := re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)):
        return found[1]
    return path.name


if __name__ == "__main__":
    main()
