"""The code on the pages of docs/clients does what it says, word by word."""

from pathlib import Path
from shutil import which

import pytest

from tests.clients.installed import PYTHON, Done, needs, run, with_packages
from tests.clients.pages import PAGES, block, blocks, told
from tests.clients.served import Served

IN_PYTHON = ("openai", "langchain", "agents-sdk", "pydantic-ai", "litellm")
IN_JAVASCRIPT = ("openai", "ai-sdk")


@needs("python")
@pytest.mark.parametrize("page", IN_PYTHON)
def test_code_in_python_prints_the_answer(served: Served, tmp_path: Path, page: str) -> None:
    (tmp_path / "page.py").write_text(told(block(page, "python"), served))
    assert is_answer(run([PYTHON, "page.py"], tmp_path, {}))


@needs("sdks")
@pytest.mark.parametrize("page", IN_JAVASCRIPT)
def test_code_in_javascript_prints_the_answer(served: Served, tmp_path: Path, page: str) -> None:
    with_packages(tmp_path)
    (tmp_path / "page.mjs").write_text(told(block(page, "js"), served))
    assert is_answer(run(["node", "page.mjs"], tmp_path, {}))


@pytest.mark.skipif(not which("curl"), reason="curl is not installed")
def test_curl(served: Served, tmp_path: Path) -> None:
    wanted = ('"finish_reason":"stop"', '"type":"message_stop"', '"id":"auto"')
    for code, told_back in zip(blocks("curl", "sh"), wanted, strict=True):
        done = run(["sh", "-c", told(code, served)], tmp_path, {})
        assert done.code == 0, done.err
        assert told_back in done.out


def test_no_page_is_without_a_way_to_it() -> None:
    index = (PAGES / "README.md").read_text()
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


def is_answer(done: Done) -> bool:
    """Whether it printed a simulated model's words."""
    assert done.code == 0, done.err
    return len(done.out.split()) > 10
