"""`python -m bullpen.reference docs/reference` writes the pages; a test says when that is needed."""

import sys
from pathlib import Path

from bullpen.reference.pages import pages

if len(sys.argv) != 2:
    sys.exit("usage: python -m bullpen.reference FOLDER")
for name, text in pages().items():
    (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
