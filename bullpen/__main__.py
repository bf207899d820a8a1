"""`python -m bullpen`: the same as the command `bullpen`."""

import sys
from contextlib import suppress
from pathlib import Path

if sys.argv[1:2] == ["health"]:
    # It runs beside the role, within the same memory limit: if that is too little for both, the role should live.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")

from bullpen.cli import main

main()
