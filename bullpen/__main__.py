"""`python -m bullpen`: the same as the command `bullpen`."""

import os
import sys

from bullpen.health_check import check, die_first


def main() -> None:
    """Runs the command. A health check of a role with a status page is answered without importing Bullpen."""
    if sys.argv[1:2] == ["health"]:
        die_first()
        options, address = set(sys.argv[3:]), os.environ.get("BULLPEN_STATUS", "")
        if address and len(sys.argv) > 2 and options <= {"--alive"}:
            sys.exit(check(address, "/healthz" if options else "/readyz"))
    from bullpen.cli import main as command_line  # noqa: PLC0415 — see above

    command_line()


if __name__ == "__main__":
    main()
