"""The pages: every link leads somewhere, every command is run or says why not, every page has its place on the site."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.task_pages import DOCS, FENCE, PAGES, ROOT, Block, blocks

EVERY = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *ROOT.glob("workers/*/README.md"),
    )
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+?)\s*#*$", re.MULTILINE)
INLINE_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
NOT_ON_THE_SITE = {"LICENSE.md"}


def without_code(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub makes of a page's headings; the site makes the same (a strict build would say)."""
    made: set[str] = set()
    for heading in HEADING.findall(without_code(page)):
        plain = INLINE_LINK.sub(r"\1", heading)
        letters = [sign for sign in plain.lower() if sign in "- _" or unicodedata.category(sign)[0] in "LN"]
        anchor, times = "".join(letters).replace(" ", "-"), 0
        while (name := f"{anchor}-{times}" if times else anchor) in made:
            times += 1
        made.add(name)
    return frozenset(made)


def broken(page: Path) -> Iterator[str]:
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", without_code(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if path.startswith("/") or not file.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: {file.name} has no such heading"


@pytest.mark.parametrize("page", EVERY, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` (c)\n\n[1](#a-b-c) [2](#a-b) [3](gone.md)\n\n```sh\n[4](gone.md)\n```\n`[5](gone.md)`\n")
    assert [told.split(":")[0] for told in broken(page)] == ["#a-b", "gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {fence[1] for fence in FENCE.finditer(text)} <= {"sh", "text"}, "the tests run blocks of `sh` only"
    assert "\n    " not in FENCE.sub("", text), "an indented block is run by no test"
    assert all(block.not_run is None or len(block.not_run) > 10 for block in blocks(page))
    assert any(block.not_run is None for block in blocks(page))


def test_no_page_of_tasks_is_left_out() -> None:
    assert {*(DOCS / "tasks").glob("*.md")} - {DOCS / "tasks" / "README.md"} == {*PAGES} - {DOCS / "start.md"}


def test_the_site_has_every_page() -> None:
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=WithoutPython)
    told = {ROOT / page for page in named(site["nav"])}
    ours = {page for page in EVERY if not re.match(r"\d{4}-", page.name)}
    assert {str(page.relative_to(ROOT)) for page in ours ^ told} == {"docs/decisions/README.md"}, "made by .ci/docs.py"


class WithoutPython(yaml.SafeLoader):
    """Reads past the one thing in mkdocs.yml that is no plain YAML: the function that makes anchors."""


WithoutPython.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def named(part: object) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    for child in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from named(child)


@pytest.mark.parametrize(
    ("prints", "out", "fits"),
    [
        ("a\n…\nb …\n", "a\nx\ny\nb  1\n", True),
        ("a …\n", "b a\n", False),
        ("…200\n", "401\n", False),
        ("401\n200\n", "401\n200\n", True),
        ("401\n", "401\n200\n", False),
    ],
)
def test_what_a_block_prints_is_compared(prints: str, out: str, fits: bool) -> None:
    assert Block("", "", prints, None).printed(out) is fits
