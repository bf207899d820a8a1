"""How long a caller waits for a dead worker: every fault of the failover table, with real processes.

What is measured, honestly:

- *lost*: questions without an answer, be it an error or silence. *twice*: questions with two final messages.
- *rerouted*: questions that were at the faulty worker when it failed and were then given to another one.
- *reroute*: from the fault until the Manager chose the next worker, as its own `metrics.route` decisions say; one
  machine, one clock. The fault is the signal, the cut, the provider's refusal, the first word of the restarted worker;
  for a worker that was bad from the start it is the moment the question was given to it.
- *added*: what the caller sees. From the fault (or the question, when it came later) until the answer arrives, minus
  what the same number of questions, asked the same way, took before the fault (their median). Doing the work once is
  in that minus; everything else, noticing, choosing, the crowd at the next worker, is not.

Median and maximum are over the rerouted questions of all rounds (of a worker that leaves in order: over all). A row
holds when nothing is lost, nothing came twice and the figure named beside its bound is within it.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks import results
from benchmarks.failover import failings, faults
from benchmarks.failover.failings import STALL_S
from benchmarks.failover.figures import Round, figures
from benchmarks.failover.stage import Json, Stage, stage
from bus import BusError

Judged = Literal["reroute median", "reroute max", "added median", "added max"]
SILENCE_MS = 3000
STALL_MS = STALL_S * 1000 + 200
"""The time-out itself, the 100 ms before a worker claims (which count as life), and a little for the machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    play: Callable[[Stage, int, int], AsyncIterator[Round]]
    bound_ms: float
    judged: Judged
    bare: bool = False
    """On a server that does not tell who left."""
    gentle: bool = False
    """Nobody has to be rerouted: what everybody waits is judged."""


ROWS: dict[str, Row] = {
    "kill": Row("killed with calls in flight", faults.killed, 50, "added median"),
    "kill-idle": Row("killed, asked right after (no responders)", faults.killed_idle, 50, "added median", bare=True),
    "kill-bare": Row("killed in flight, server tells no leaving", faults.killed, SILENCE_MS, "reroute max", bare=True),
    "stop": Row("stopped in order (SIGTERM)", faults.stopped, 50, "added median", gentle=True),
    "freeze": Row("frozen (SIGSTOP)", faults.frozen, SILENCE_MS, "reroute max"),
    "partition": Row("cut off (packets dropped)", faults.partitioned, SILENCE_MS, "reroute max"),
    "block": Row("event loop blocked for 5 s", faults.blocked, SILENCE_MS, "reroute max"),
    "full": Row("alive but full (`overloaded`)", failings.full, 5, "reroute median"),
    "no-claim": Row("alive, never claims", failings.unclaimed, 300, "reroute max"),
    "hung-before": Row("hung before the first token", failings.hung_before, STALL_MS, "reroute max"),
    "hung-between": Row("hung between tokens, not streamed", failings.hung_between, STALL_MS, "reroute max"),
    "hung-stream": Row("hung between tokens, streamed", failings.hung_in_stream, STALL_MS, "reroute max"),
    "garbage": Row("answers rubbish", failings.garbage, 50, "reroute median"),
    "500": Row("provider answers 500", failings.answers_500, 50, "reroute median"),
    "401": Row("provider answers 401", failings.answers_401, 50, "reroute median"),
    "429": Row("provider answers 429, Retry-After", failings.answers_429, 50, "reroute median"),
    "restart": Row("restarted under the same name", faults.restarted, 50, "reroute median", bare=True),
    "manager": Row("Manager killed, Python client", faults.manager_killed, SILENCE_MS, "added max"),
}


async def run(requests: int, rounds: int, names: Sequence[str] = ()) -> bool:
    """Plays the rows, prints the table, writes `benchmarks/results/failover.json`. Returns whether every row holds."""
    head = f"{'row':<13}{'what happened':<42}{'bound':>28}{'lost':>9}{'rerouted':>9}  {'reroute':>15}{'added':>15}"
    print(f"{head}  (ms, median / max)")
    told: dict[str, Json] = {}
    began = time.monotonic()
    for name in names or ROWS:
        told[name] = await _played(ROWS[name], requests, rounds)
        print(_line(name, told[name]), flush=True)
    limits = [
        "client, server, Managers, workers and providers share the processors of this one machine",
        "loopback only: no network latency, no TLS, no packet that is merely late",
        "simulated answers of fixed length: what a real model loses by starting again is its own",
        f"the rows hung-* run with stall time-outs of {STALL_S:g} s instead of 10 s and 5 s",
        "no telemetry role runs: the books are written to JetStream, not to Postgres",
    ]
    print(f"{time.monotonic() - began:.0f} s")
    if not names:
        print(f"written to {results.write('failover', {'rows': told}, does_not_prove=limits)}")
    return all(row["holds"] for row in told.values())


async def _played(row: Row, requests: int, rounds: int) -> Json:
    played: list[Round] = []
    began, trouble = time.monotonic(), ""
    with tempfile.TemporaryDirectory() as directory:
        try:
            async with stage(Path(directory), bare=row.bare) as opened:
                async for one in row.play(opened, rounds, -(-requests // rounds)):
                    played.append(one)  # noqa: PERF401 — what was played before trouble came counts
        except (RuntimeError, AssertionError, BusError, subprocess.SubprocessError) as error:
            trouble = str(error)
    return {
        **judged(row, figures(played, everybody=row.gentle), trouble),
        "seconds": round(time.monotonic() - began, 1),
    }


def judged(row: Row, found: Json, trouble: str = "") -> Json:
    """The row as it is written: its bound, its figures, and whether it holds."""
    measure, which = row.judged.split()
    value = found[f"{measure}_ms"][which]
    shown = value is not None and (row.gentle or found["rerouted"] > 0)
    holds = shown and value <= row.bound_ms and not (found["lost"] or found["twice"] or trouble)
    head = {"what": row.what, "bound_ms": row.bound_ms, "judged": row.judged, "holds": holds}
    return {**head, **found, "trouble": trouble}


def _line(name: str, row: Json) -> str:
    def pair(told: Json) -> str:
        return "-" if told["median"] is None else f"{told['median']:.1f} / {told['max']:.0f}"

    bound = f"{row['judged']} ≤ {row['bound_ms']:g} ms"
    lost = f"{row['lost']}/{row['requests']}"
    verdict = "ok" if row["holds"] else "MISSED"
    line = f"{name:<13}{row['what']:<42}{bound:>28}{lost:>9}{row['rerouted']:>9}  "
    line += f"{pair(row['reroute_ms']):>15}{pair(row['added_ms']):>15} {verdict}"
    more = [f"{key}: {value}" for note in row["notes"] for key, value in note.items()]
    more += [f"twice: {row['twice']}"] * bool(row["twice"]) + [f"! {error[:150]}" for error in row["errors"]]
    more += [f"! {row['trouble']}"] if row["trouble"] else []
    return "\n".join([line, *(f"{'':<13}{text}" for text in more)])


def main(requests: int, rounds: int, rows: str) -> None:
    names = [name for name in rows.split(",") if name]
    if unknown := [name for name in names if name not in ROWS]:
        sys.exit(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if not asyncio.run(run(requests, rounds, names)):
        sys.exit(1)
