"""`python -m benchmarks NAME`: what the mesh costs, bears and survives, measured. Each writes `results/NAME.json`."""

import argparse
import asyncio
import random
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import (
    away,
    books,
    cancel,
    chaos,
    cost,
    failover,
    fuzz,
    gateway,
    growth,
    held_streams,
    ingest,
    jobs,
    openapi,
    overhead,
    page,
    performance,
    picture,
    ranking,
    routing,
    seams,
    soak,
    streams,
    swap,
    traces,
)
from benchmarks.routing import real, report

PLAN, JOBS = chaos.Plan(), jobs.Plan()

Command = Callable[[argparse.Namespace], Any]

COMMANDS: dict[str, tuple[str, str | None, Command, dict[str, dict[str, Any]]]] = {
    "overhead": (
        "what the mesh adds to a request",
        overhead.__doc__,
        lambda asked: asyncio.run(overhead.run(asked.rounds, asked.requests, asked.burst)),
        {
            "rounds": {"type": int, "default": 5, "help": "how often every path is measured, in turn"},
            "requests": {"type": int, "default": 300, "help": "one after the other, per path and round"},
            "burst": {"type": int, "default": 2000, "help": "64 at a time, per path and round"},
        },
    ),
    "page": (
        "the live page: how soon it is there, and how it looks",
        page.__doc__,
        lambda asked: page.run(asked.rows, asked.pictures),
        {
            "rows": {"type": int, "default": 100_000, "help": "requests in the books that are searched"},
            "pictures": {"default": "build/page", "help": "the folder for pictures of each view at three widths"},
        },
    ),
    "cost": (
        "what a request costs each role, in microseconds of processor time",
        cost.__doc__,
        lambda asked: cost.main(asked.rounds, asked.requests, asked.only),
        {
            "rounds": {"type": int, "default": 3, "help": "of every path, in turn"},
            "requests": {"type": int, "default": 4000, "help": "per path and round"},
            "only": {"default": "", "help": "of requests,streams,books these, with commas between (default: all)"},
        },
    ),
    "traces": (
        "the trace of a rerouted stream; draws docs/trace.svg",
        traces.__doc__,
        lambda asked: traces.run(),
        {},
    ),
    "all": (
        "each target of speed with its figure; writes docs/performance.md",
        performance.__doc__,
        lambda asked: performance.main(asked.rounds, asked.requests, asked.against),
        {
            "rounds": {"type": int, "default": 3, "help": "of every measurement"},
            "requests": {"type": int, "default": 4000, "help": "per round"},
            "against": {"default": "", "help": "litellm,vllm-router: installed apart (default: nothing)"},
        },
    ),
    "picture": (
        "the moving picture of the README, recorded anew: a worker killed in mid-sentence",
        picture.__doc__,
        lambda _: asyncio.run(picture.main()),
        {},
    ),
    "fuzz": (
        "100,000 messages that are wrong in some way: none ends a role",
        fuzz.__doc__,
        lambda _: fuzz.main(),
        {},
    ),
    "gateway": (
        "what the gateway adds to a request, and how other gateways do",
        gateway.__doc__,
        lambda asked: gateway.main(asked.rounds, asked.requests, asked.against),
        {
            "rounds": {"type": int, "default": 3, "help": "how often every way is measured, in turn"},
            "requests": {"type": int, "default": 200, "help": "one after the other, per way and round"},
            "against": {"default": "", "help": "litellm,vllm-router: installed apart (default: nothing)"},
        },
    ),
    "held-streams": (
        "what clients that hold streams and never go cost the gateway, and whether others are served",
        held_streams.__doc__,
        lambda asked: held_streams.main(asked.streams, asked.unread),
        {
            "streams": {"type": int, "default": 1000, "help": "idle ones, at once"},
            "unread": {"type": int, "default": 10, "help": "clients that never read"},
        },
    ),
    "openapi": (
        "whether the gateway says what its OpenAPI document says, by schemathesis (which is installed apart)",
        openapi.__doc__,
        lambda asked: openapi.main(asked.cases, asked.seed),
        {
            "cases": {"type": int, "default": 200, "help": "made-up requests for each operation, at least"},
            "seed": {"type": int, "default": random.randrange(10**6), "help": "of them (default: any)"},
        },
    ),
    "growth": (
        "whether a Manager and a worker hold more with every request",
        growth.__doc__,
        lambda asked: growth.main(asked.rounds, asked.requests),
        {
            "rounds": {"type": int, "default": 12, "help": "that are counted"},
            "requests": {"type": int, "default": 4000, "help": "per round"},
        },
    ),
    "streams": (
        "how many streams a Manager relays at once",
        streams.__doc__,
        lambda asked: streams.main(asked.streams, asked.words),
        {
            "streams": {"type": int, "default": 2000, "help": "at once"},
            "words": {"type": float, "default": 10.0, "help": "a second, of each"},
        },
    ),
    "seams": (
        "whether a reader sees where a killed worker's stream goes on at another",
        seams.__doc__,
        lambda asked: seams.main(asked.kills, asked.questions),
        {
            "kills": {"type": int, "default": 1000, "help": "streams that lose their worker, for each way"},
            "questions": {"type": int, "default": 8, "help": "to the bundled model; 0: none"},
        },
    ),
    "failover": (
        "how long a caller waits for a dead worker: every fault of the failover table",
        failover.__doc__,
        lambda asked: failover.main(asked.requests, asked.rounds, asked.rows),
        {
            "requests": {"type": int, "default": 200, "help": "per row, in all"},
            "rounds": {"type": int, "default": 2, "help": "how often each fault happens"},
            "rows": {"default": "", "help": "only these, with commas between: kill,freeze (default: all)"},
        },
    ),
    "cancel": (
        "how soon a provider is hung up on when its answer is no longer wanted",
        cancel.__doc__,
        lambda asked: cancel.main(asked.rounds),
        {"rounds": {"type": int, "default": 25, "help": "per kind of worker and moment"}},
    ),
    "swap": (
        "how long it takes to change a real model under load, and what is lost",
        swap.__doc__,
        lambda asked: swap.main(asked.rounds),
        {"rounds": {"type": int, "default": 5, "help": "swaps, to and fro"}},
    ),
    "soak": (
        "random faults from a seed over a real mesh under load, invariants checked at the end",
        soak.__doc__,
        lambda asked: sys.exit(asyncio.run(soak.run(asked.seconds, asked.seed))),
        {
            "seconds": {"type": float, "default": 600, "help": "of load, per seed"},
            "seed": {"type": int, "nargs": "+", "default": [random.randrange(10**6)], "help": "(default: any)"},
        },
    ),
    "routing": (
        "who should answer: the real ranking in a simulation, against rivals and an oracle",
        routing.__doc__,
        lambda asked: report.run(asked.seconds, asked.seeds, page=asked.page),
        {
            "seconds": {"type": float, "default": 600, "help": "of simulated time, per situation"},
            "seeds": {"type": int, "default": 5, "help": "days of each situation"},
            "page": {"action": "store_true", "help": "write docs/routing.md and its drawings as well"},
        },
    ),
    "routing-real": (
        "the same with real processes, and what the simulation says of it",
        real.__doc__,
        lambda asked: real.run(asked.seconds, asked.seed),
        {
            "seconds": {"type": float, "default": 60, "help": "of each day, in real time"},
            "seed": {"type": int, "default": 1, "help": "of the day"},
        },
    ),
    "ranking": (
        "what a decision costs among many workers",
        ranking.__doc__,
        lambda asked: ranking.run(asked.decisions),
        {"decisions": {"type": int, "default": 5000, "help": "per size of the mesh"}},
    ),
    "away": (
        "whether an answer waits for Postgres: there, killed and frozen, in one run",
        away.__doc__,
        lambda asked: away.main(asked.rounds, asked.requests),
        {
            "rounds": {"type": int, "default": 5, "help": "of all three"},
            "requests": {"type": int, "default": 400, "help": "per round, for each of the three"},
        },
    ),
    "ingest": (
        "from the stream to committed rows, against a bare loop of inserts",
        ingest.__doc__,
        lambda asked: asyncio.run(ingest.run(asked.rounds, asked.events)),
        {
            "rounds": {"type": int, "default": 3, "help": "of both"},
            "events": {"type": int, "default": 60_000, "help": "per round, half of them responses"},
        },
    ),
    "books": (
        "reading a million requests",
        books.__doc__,
        lambda asked: asyncio.run(books.run(asked.rows)),
        {"rows": {"type": int, "default": 1_000_000, "help": "requests"}},
    ),
    "chaos": (
        "whether the books are complete, whatever is killed",
        chaos.__doc__,
        lambda asked: chaos.main(
            chaos.Plan(
                asked.responses, asked.seconds, asked.accountant, asked.postgres, asked.nats, asked.away, asked.seed
            )
        ),
        {
            "responses": {"type": int, "default": PLAN.responses, "help": "answers"},
            "seconds": {"type": float, "default": PLAN.load_s, "help": "of load"},
            "accountant": {"type": int, "default": PLAN.accountant, "help": "how often it is killed"},
            "postgres": {"type": int, "default": PLAN.postgres, "help": "how often it is killed"},
            "nats": {"type": int, "default": PLAN.nats, "help": "how often it is killed"},
            "away": {"type": float, "default": PLAN.away_s, "help": "seconds without Postgres, once"},
            "seed": {"type": int, "default": PLAN.seed, "help": "(default: any)"},
        },
    ),
    "jobs": (
        "whether every job has one result, whatever is killed",
        jobs.__doc__,
        lambda asked: jobs.main(jobs.Plan(asked.jobs, asked.each, asked.seconds, asked.seed)),
        {
            "jobs": {"type": int, "default": JOBS.jobs, "help": "in all"},
            "each": {"type": int, "default": JOBS.each, "help": "how often each kind of process is killed"},
            "seconds": {"type": float, "default": JOBS.over_s, "help": "over which they are"},
            "seed": {"type": int, "default": JOBS.seed, "help": "(default: any)"},
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (summary, story, run, options) in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=story, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=run)
        for option, settings in options.items():
            shown = settings["help"] if "(default" in settings["help"] else f"{settings['help']} (default %(default)s)"
            command.add_argument(f"--{option}", **{**settings, "help": shown})
    asked = parser.parse_args()
    asked.run(asked)


if __name__ == "__main__":
    main()
