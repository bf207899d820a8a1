"""All that is measured of speed, in one run, and `docs/performance.md` from it: each target with its figure.

Takes some twenty minutes. Every part is a real mesh on loopback; see `cost`, `overhead`, `streams` and `scale`.
`--against litellm,vllm-router` installs these apart, and has them asked in turn with this mesh; see `gateway`.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from benchmarks import cost, gateway, overhead, results, rivals, scale, streams
from benchmarks.plot import Axis, plot
from benchmarks.results import git
from bullpen.supervision.mesh import Mesh
from client import Bullpen

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
STREAMS, WORDS = 1000, 20.0
HALF = 0.5
RIVAL_REQUESTS = 200
"""One after the other, for each of them and each round; as many times four 64 at a time."""
WAITS = 5.0
"""Times the wait at the lightest load: then it is broken."""
Figures = dict[str, Any]


class Target(NamedTuple):
    """What is to be reached, and where its figure stands."""

    what: str
    goal: float
    unit: str
    measured: Callable[[Figures], float]
    at_least: bool = False

    def row(self, figures: Figures) -> tuple[str, ...]:
        value = self.measured(figures)
        met = value >= self.goal if self.at_least else value <= self.goal
        sign = "≥" if self.at_least else "≤"
        return (
            self.what,
            f"{sign} {self.goal:g} {self.unit}",
            f"{value:g} {self.unit}",
            "met" if met else "**missed**",
        )


def _cost(way: str, role: str) -> Callable[[Figures], float]:
    return lambda figures: float(figures["cost"][way][f"{role}_us"])


def _worst(figures: Figures, name: str) -> float:
    """Of all roles."""
    return max(float(one[name]) for one in figures["starting"].values())


def _p99_at_half_load(figures: Figures) -> float:
    return next(float(row["p99_ms"]) for row in figures["loads"] if row["share"] == HALF)


TARGETS = (
    *(
        Target(f"{role}: processor time of one {way}", goal, "µs", _cost(way, role))
        for (way, role), goal in cost.BUDGETS.items()
    ),
    Target(
        "throughput of `infer.auto` against the bare relay's",
        0.4,
        "",
        lambda f: float(f["overhead"]["infer.auto"]["throughput_vs_relay"]),
        at_least=True,
    ),
    Target(
        "round trip of `infer.auto` against the bare relay's",
        1.6,
        "",
        lambda f: float(f["overhead"]["infer.auto"]["round_trip_vs_relay"]),
    ),
    Target("p99 of a request at half load", 10, "ms", _p99_at_half_load),
    Target(
        f"{STREAMS} streams of {WORDS:g} pieces a second: p99 of a piece's delay",
        60,
        "ms",
        lambda f: float(f["streams"]["infer.auto"]["late_p99_ms"]),
    ),
    Target(
        "throughput of two Managers against one",
        1.6,
        "",
        lambda f: float(f["managers"][1]["times_one"]),
        at_least=True,
    ),
    Target("import of the slowest role", 0.5, "s", lambda f: _worst(f, "import_s")),
    Target(
        "memory of the largest role after its import",
        60,
        "MB",
        lambda f: max(one["mb"] for one in f["starting"].values()),
    ),
    Target("`bullpen --help`", 0.15, "s", lambda f: float(f["help_s"])),
    Target("`bullpen up` with everything in place, to the first answer", 4, "s", lambda f: float(f["up_s"])),
)


def main(rounds: int, requests: int, against: str) -> None:
    """Measures, writes `benchmarks/results/performance.json` and `docs/performance.md`, prints the targets."""
    names = rivals.asked_for(against)
    figures = uvloop.run(_measure(rounds, requests, names))
    figures["versions"] = {name: rivals.version(name) for name in names}
    results.write("performance", figures, does_not_prove=list(LIMITS))
    PAGE.write_text(page(figures), encoding="utf-8")
    for name, drawing in drawings(figures).items():
        (PAGE.parent / name).write_text(drawing, encoding="utf-8")
    for target in TARGETS:
        print(*target.row(figures), sep="  ")
    print(f"written to {PAGE}")


async def _measure(rounds: int, requests: int, names: Sequence[str]) -> Figures:
    return {
        "cost": await cost.measure(rounds, requests),
        "starting": cost.starting(),
        "help_s": _help_s(),
        "up_s": await _up_s(),
        "overhead": await overhead.measure(rounds, 300, 2000),
        "loads": await scale.under_load(requests),
        "streams": await streams.measure(STREAMS, WORDS),
        "workers": await scale.with_workers(rounds, requests),
        "managers": await scale.with_managers(rounds, requests),
        "payloads": await scale.with_payloads(rounds, requests),
        "against": await gateway.against_rivals(names, gateway.Plan(rounds, RIVAL_REQUESTS)) if names else {},
    }


def _help_s() -> float:
    """Seconds, the best of five."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "bullpen", "--help"], check=True, capture_output=True)
        taken.append(time.monotonic() - began)
    return round(min(taken), 3)


async def _up_s() -> float:
    """Seconds from the start of a mesh, with Postgres, whose folders are there already, to its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        taken = []
        for _ in range(3):
            began = time.monotonic()
            async with Mesh(Path(folder), workers=[("simulated", 1)], http=True, env=cost.ENV) as mesh:
                async with Bullpen.connect(mesh.endpoints.nats_url) as bullpen:
                    await bullpen.ask("hello")
                taken.append(time.monotonic() - began)
            await asyncio.sleep(0)
        return round(min(taken[1:]), 2)


LIMITS = (
    "all processes share the two processors of one machine, on which others work too: processor time is the figure to "
    "trust, rates are comparable within this run only",
    "the worker answers at once: with a real model all of this is a small part of an answer's time",
    "loopback: no network, no TLS",
)


def page(figures: Figures) -> str:
    """The page, in Markdown."""
    ways = figures["cost"]
    roles = sorted({name for row in ways.values() for name in row if name.endswith("_us")})
    costs = [(way, *(f"{row[role]:.0f}" if role in row else "" for role in roles)) for way, row in ways.items()]
    return TEXT.format(
        commit=git("rev-parse", "--short", "HEAD"),
        targets=table(("what", "target", "measured", ""), [target.row(figures) for target in TARGETS]),
        costs=table(("", *(role.removesuffix("_us") for role in roles)), costs),
        workers=of_rows(figures["workers"]),
        managers=of_rows(figures["managers"]),
        payloads=of_rows(figures["payloads"]),
        loads=of_rows(figures["loads"]),
        breaks=_breaks(figures["loads"]),
        against=_against(figures),
        **_million(ways),
        limits="\n".join(f"- {limit}" for limit in LIMITS),
    )


def _breaks(loads: Sequence[Figures]) -> str:
    """In words, at which load callers begin to wait, and for whom."""
    calm = loads[0]["p99_ms"]
    first = next((row for row in loads if row["p99_ms"] > WAITS * calm or row["failed"]), None)
    if first is None:
        most = loads[-1]["share"]
        return f"Up to {most:.0%} of that, p99 stays below {WAITS:g} times what it is at the lightest load."
    busy = {name.removesuffix("_busy"): value for name, value in first.items() if name.endswith("_busy")}
    busiest = max(busy, key=lambda name: busy[name])
    return (
        f"At {first['share']:.0%} of that p99 is above {WAITS:g} times what it is at the lightest load, and "
        f"{first['failed']} requests failed. The busiest process is then the {busiest}, with {busy[busiest]:.0%} of a "
        f"processor; all together take {sum(busy.values()):.1f}."
    )


def _against(figures: Figures) -> str:
    """The rivals' table; a sentence where none was asked for."""
    if not figures["against"]:
        return "Not measured in this run: `python -m benchmarks all --against litellm,vllm-router` installs them apart."
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    columns = gateway.COLUMNS
    rows = [
        (name, *(f"{row[column]:g}" if column in row else "" for column in columns))
        for name, row in figures["against"].items()
    ]
    told = "In turn, before the same server that answers at once; times in ms, one after the other; rates 64 at once."
    return f"{told} Versions: {versions}.\n\n{table(('', *columns.values()), rows)}"


def drawings(figures: Figures) -> dict[str, str]:
    """By file name, as SVG."""
    loads, workers, payloads = figures["loads"], figures["workers"], figures["payloads"]
    return {
        "performance-load.svg": plot(
            "Waiting of a request, by load",
            Axis("requests offered per second"),
            Axis("ms", is_log=True),
            {name: [(row["offered_per_s"], row[f"{name}_ms"]) for row in loads] for name in ("p50", "p99")},
        ),
        "performance-workers.svg": plot(
            "A Manager's processor time, by workers",
            Axis("workers", is_log=True),
            Axis("µs"),
            {"Manager": [(row["workers"], row["manager_us"]) for row in workers]},
        ),
        "performance-payload.svg": plot(
            "Processor time of a request, by its prompt",
            Axis("bytes", is_log=True),
            Axis("µs", is_log=True),
            {
                role: [(row["bytes"], row[f"{role}_us"]) for row in payloads if row[f"{role}_us"]]
                for role in ("manager", "worker")
            },
        ),
    }


def _million(ways: Figures) -> dict[str, str]:
    """What a million requests a minute would need."""
    per_s = 1_000_000 / 60
    auto, row = ways["infer.auto"], ways["booked row"]
    return {
        "per_s": f"{per_s:.0f}",
        "per_manager": f"{1e6 / auto['manager_us']:.0f}",
        "for_managers": f"{per_s * auto['manager_us'] / 1e6:.1f}",
        "for_nats": f"{per_s * auto['nats_us'] / 1e6:.1f}",
        "for_telemetry": f"{2 * per_s * row['telemetry_us'] / 1e6:.1f}",
        "for_postgres": f"{2 * per_s * row['postgres_us'] / 1e6:.1f}",
    }


TEXT = """\
# Performance

Written by `python -m benchmarks all` at commit `{commit}`. Do not edit it.

Processor time is user and system time of a role's process, divided by the requests (pieces, rows, heartbeats) that it
did in that time, 64 at once, books and explanation on.

## Targets

{targets}

## What misses, and why

- Manager and worker: no single thing is left to mend. Of a Manager's time for a request (py-spy, 500 samples a second)
  13 % goes to choosing the worker, 12 % to reading and checking the request, 10 % to following the attempt, 9 % to the
  books, 8 % to handing the request over, 8 % to reading from NATS and 7 % to writing to it; the rest is spread over a
  hundred functions below 1 % each. What would help is fewer Python calls per request, of which there are more than a
  thousand.
- The relay does nothing but pass a message on, in 22 µs. A Manager that takes fifteen times as much is as much slower.
- A heartbeat is read and checked as a whole (9 µs), by nats-py before that, and looked at ten times a second.
- Two Managers on two processors: client, server and workers share them, and are the limit.
- Half load: client, server, Manager and workers wait for the same two processors.
- Memory: aiohttp, and the models of every dialect that the gateway speaks.

## What each role pays

µs of processor time. `relay` and `echo` are bare nats-py processes in the same run.

{costs}

## Where it breaks first

One Manager, two workers, requests at random times, at shares of the most that was answered with 64 at once. `busy` is
the share of one processor that a process takes.

{loads}

{breaks}

![Waiting by load](performance-load.svg)

## Against others

{against}

## Growth

With workers, all of which beat their hearts; all but one are full:

{workers}

![By workers](performance-workers.svg)

With Managers, two workers and one client, on two processors:

{managers}

With the prompt:

{payloads}

![By prompt](performance-payload.svg)

## A million requests a minute

That is {per_s} a second. One Manager does {per_manager} of them with one processor, so Managers need {for_managers}
processors. They share nothing, so they add up as long as the NATS server does, which needs {for_nats}. The accountants
need {for_telemetry}, and Postgres {for_postgres}. What this does not say: where a single NATS server, or a single
Postgres, ends. Two processors cannot show it.

## What this does not prove

{limits}
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of_rows(rows: Sequence[Figures]) -> str:
    """Rows with the same keys as a table."""
    return table(list(rows[0]), [[f"{value:.10g}" for value in row.values()] for row in rows])
