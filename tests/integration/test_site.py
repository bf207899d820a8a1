"""The documentation as a site: it builds without a warning, and nothing on it comes from another host."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.task_pages import ROOT

BUILDER = ROOT / ".docs" / "bin" / "python"
NETLESS = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
"""Whoever asks a network is refused."""
SOURCE, STYLE, IN_CSS = (
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)\"",
    *(r"<link\b[^>]*\bhref=\"([^\"]+)\"", r"url\(([^)]+)\)"),
)
LOADED = re.compile(f"{SOURCE}|{STYLE}|{IN_CSS}")
EVERYTHING = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "mkdocs.yml")
FOLDERS = ("docs", "workers", "examples", "manager", ".ci")


@pytest.mark.skipif(not BUILDER.exists(), reason="what builds the site is not installed: make docs")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    for name in EVERYTHING:
        shutil.copy(ROOT / name, tmp_path)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [BUILDER, tmp_path / ".ci" / "docs.py", "here"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": str(BUILDER.parent), **NETLESS},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tmp_path / "build" / "site"
    pages = [*site.rglob("*.html")]
    assert len(pages) > 60
    foreign = {
        f"{page.relative_to(site)}: {address}"
        for page in (*pages, *site.rglob("*.css"))
        for found in LOADED.findall(page.read_text(encoding="utf-8"))
        for address in found
        if re.match(r"[\"']?(https?:)?//", address)
    }
    assert foreign == set()
