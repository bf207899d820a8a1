"""`python -m benchmarks overhead`: what the mesh adds. `streams`, `soak`, `failover`: how many, how long, how fast."""

import argparse
import asyncio
import random
import sys

from benchmarks import failover, overhead, routing, soak, streams
from benchmarks.routing import report as routing_report

FAILOVER = "how long a caller waits for a dead worker: every fault of the failover table"
ROUTING = "who should answer: the real ranking in a simulation, against rivals and an oracle"
SOAK = "random faults from a seed over a real mesh under load, invariants checked at the end"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("overhead", help=overhead.__doc__, description=overhead.__doc__)
    command.add_argument("--rounds", type=int, default=5, help="how often every path is measured, in turn (default 5)")
    command.add_argument("--requests", type=int, default=300, help="one after the other, per path and round")
    command.add_argument("--burst", type=int, default=2000, help="64 at a time, per path and round")
    command = commands.add_parser(
        "soak", help=SOAK, description=soak.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    command.add_argument("--seconds", type=float, default=600, help="of load, per seed (default 600)")
    command.add_argument("--seed", type=int, nargs="+", default=[random.randrange(10**6)], help="(default: any)")
    command = commands.add_parser(
        "failover", help=FAILOVER, description=failover.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    command.add_argument("--requests", type=int, default=200, help="per row, in all (default 200)")
    command.add_argument("--rounds", type=int, default=2, help="how often each fault happens (default 2)")
    command.add_argument("--rows", default="", help="only these, with commas between: kill,freeze (default: all)")
    command = commands.add_parser("streams", help=streams.__doc__, description=streams.__doc__)
    command.add_argument("--streams", type=int, default=2000, help="at once (default 2000)")
    command = commands.add_parser("routing", help=ROUTING, description=routing.__doc__)
    command.add_argument("--seconds", type=float, default=600, help="of simulated time, per situation (default 600)")
    command.add_argument("--seeds", type=int, default=5, help="how many days of each situation (default 5)")
    command.add_argument("--page", action="store_true", help="write docs/routing.md and its drawings as well")
    asked = parser.parse_args()
    if asked.command == "routing":
        routing_report.run(asked.seconds, asked.seeds, page=asked.page)
        return
    if asked.command == "streams":
        streams.main(asked.streams)
        return
    if asked.command == "failover":
        failover.main(asked.requests, asked.rounds, asked.rows)
        return
    if asked.command == "soak":
        sys.exit(asyncio.run(soak.run(asked.seconds, asked.seed)))
    asyncio.run(overhead.run(asked.rounds, asked.requests, asked.burst))


if __name__ == "__main__":
    main()
