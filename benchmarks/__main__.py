"""`python -m benchmarks overhead`: what the mesh adds to a request."""

import argparse
import asyncio

from benchmarks import overhead


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("overhead", help=overhead.__doc__, description=overhead.__doc__)
    command.add_argument("--rounds", type=int, default=5, help="how often every path is measured, in turn (default 5)")
    command.add_argument("--requests", type=int, default=300, help="one after the other, per path and round")
    command.add_argument("--burst", type=int, default=2000, help="64 at a time, per path and round")
    asked = parser.parse_args()
    asyncio.run(overhead.run(asked.rounds, asked.requests, asked.burst))


if __name__ == "__main__":
    main()
