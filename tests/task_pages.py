"""Pages whose commands are run: the blocks of `sh`, and what each prints."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = tuple(
    DOCS / name
    for name in (
        "start.md",
        "tasks/connect-a-tool.md",
        "tasks/add-a-model.md",
        "tasks/scale-out.md",
        "tasks/add-a-key.md",
        "tasks/back-up.md",
        "tasks/upgrade.md",
        "tasks/secure.md",
    )
)
"""In the order in which they are run: in the same mesh, which the first one starts."""
NOT_RUN = re.compile(r"\*Not run by the tests of this page: (.+)\*\s*\Z", re.DOTALL)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANYTHING = "…"


class Block(NamedTuple):
    place: str
    """Page and line."""
    code: str
    prints: str | None
    """What it prints; `…` is anything, and columns may be of any width. None: the page does not say."""
    not_run: str | None
    """Why it is not run."""

    def printed(self, out: str) -> bool:
        """Whether that is what the page says."""
        if self.prints is None:
            return True
        parts = (re.escape(_narrow(part)) for part in self.prints.split(ANYTHING))
        return re.fullmatch(".*".join(rf"\s*{part}\s*" for part in parts), _narrow(out), re.DOTALL) is not None


def _narrow(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip()


def blocks(page: Path) -> Iterator[Block]:
    """The commands of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] != "sh":
            continue
        prints = after if after and after[1] == "text" and not text[fence.end() : after.start()].strip() else None
        why = NOT_RUN.search(text[: fence.start()])
        line = text.count("\n", 0, fence.start()) + 2
        yield Block(f"{page.relative_to(ROOT)}:{line}", fence[2], prints and prints[2], why and why[1])
