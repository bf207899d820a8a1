"""What docs/clients tells people to write, for this gateway: the tests run it as it stands there."""

import re

from tests.clients.installed import ROOT
from tests.clients.served import Served

PAGES = ROOT / "docs" / "clients"
ADDRESS, KEY = "http://127.0.0.1:4000", "bp-your-key"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The code of that language on a page, as it stands there."""
    text = (PAGES / f"{page}.md").read_text()
    return [code for written, code in BLOCK.findall(text) if written == language]


def block(page: str, language: str) -> str:
    """The only code of that language on a page."""
    (code,) = blocks(page, language)
    return code


def told(code: str, served: Served) -> str:
    """The same for whoever has this address and this key."""
    assert ADDRESS in code
    return code.replace(ADDRESS, served.url).replace(KEY, served.key)
