"""100,000 requests, heartbeats and answers that are wrong in some way: each is read, or refused with a typed error.

The tests of `tests/unit/test_fuzz.py`, with 35,000 new cases for each kind of message. Takes half an hour.
"""

import subprocess
import sys

TESTS = "tests/unit/test_fuzz.py"
NO_TIME_OUT = ("--timeout", "0", "-o", "faulthandler_timeout=0")


def main() -> None:
    """Ends as pytest does."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", TESTS, "--hypothesis-profile", "fuzz", *NO_TIME_OUT]
    sys.exit(subprocess.run(command, check=False).returncode)
