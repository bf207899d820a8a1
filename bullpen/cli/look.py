"""`workers`: the mesh's workers, from their heartbeats."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bullpen.cli.capabilities import show_capabilities
from bullpen.cli.running import connected, run, usage
from bullpen.cli.show import UNKNOWN, as_json, figures, note, show, size, table, text, words
from bullpen.supervision.silence import SilentWorker, silent_workers
from client import Sighting
from contracts import Heartbeat

STATE_STYLES = {"ready": "green", "starting": "cyan", "degraded": "red", "draining": "yellow", "stopped": "dim"}
REDRAW_EVERY = 0.5
FORGET_AFTER = 30.0
"""Seconds after which a silent worker leaves the live table."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def register(app: typer.Typer) -> None:
    app.command()(workers)


def workers(
    *,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date")] = False,
    capabilities: Annotated[
        bool, typer.Option("--capabilities", help="What each kind of worker can do, from its checklist; no mesh needed")
    ] = False,
) -> None:
    """Every worker, its state and its load.

    `bullpen ps` and `bullpen status` are the same.

    Examples:

      bullpen workers

      bullpen workers --watch

      bullpen workers --capabilities

      bullpen workers --json | jq '.[] | select(.state != "ready")'
    """
    if watch and json:
        raise usage("--watch is for people, --json for programs", "nats sub worker.heartbeat")
    if capabilities:
        show_capabilities(json=json)
        return
    run(_watch if watch else lambda: _list_workers(json=json))


async def _list_workers(*, json: bool) -> None:
    beats = await heard()
    silent = silent_workers({beat.worker_id for beat in beats})
    if json:
        as_json([*beats, *map(silent_json, silent)])
    elif beats or silent:
        show(workers_table([(beat, None) for beat in beats], silent))
    else:
        note(NO_WORKER)


NO_WORKER = "no worker is running: start one with `bullpen worker NAME`, or the whole mesh with `bullpen up`"


def silent_json(silent: SilentWorker) -> dict[str, object]:
    """A silent worker in the form of a heartbeat, with the fields that are known of it."""
    return {"worker_id": silent.worker_id, "state": "silent", "reason": silent.reason, "models": [], "pid": silent.pid}


async def heard() -> list[Heartbeat]:
    async with connected() as bullpen:
        return await bullpen.workers()


async def _watch() -> None:
    now = asyncio.get_running_loop().time
    async with connected() as bullpen, bullpen.roster() as roster:
        with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
            while True:
                roster.forget(heard_before=now() - FORGET_AFTER)
                live.update(_live_table(list(roster), now()), refresh=True)
                await asyncio.sleep(REDRAW_EVERY)


def _live_table(sightings: Sequence[Sighting], now: float) -> RenderableType:
    if not sightings:
        return Text("listening for heartbeats …", style="dim")
    return Group(sighted_table(sightings, now), Text("\nCtrl-C ends this", style="dim"))


def sighted_table(sightings: Sequence[Sighting], now: float) -> Table:
    """The table of all workers that were heard, and of those on this machine that are silent."""
    silent_for = {seen.beat.worker_id: seen.silent_for(now) for seen in sightings}
    silent = silent_workers({worker_id for worker_id, seconds in silent_for.items() if seconds is None})
    ours = {one.worker_id for one in silent}
    rows = [(seen.beat, silent_for[seen.beat.worker_id]) for seen in sightings if seen.beat.worker_id not in ours]
    return workers_table(rows, silent)


def workers_table(rows: Sequence[tuple[Heartbeat, float | None]], silent: Sequence[SilentWorker] = ()) -> Table:
    """The table of heartbeats, each with the seconds of its worker's silence (None: it is not silent), then of workers
    without one.
    """
    columns = [
        *map(words, ("WORKER", "BACKEND", "MODELS", "STATE")),
        *map(figures, ("BUSY", "WAIT", "TOK/S", "MEMORY")),
    ]
    told = [_worker_row(beat, seconds) for beat, seconds in rows]
    unheard = [_silent_row(one) for one in silent]
    if len({beat.version for beat, _ in rows}) > 1:  # in the middle of an upgrade
        columns.append(words("VERSION"))
        shown = [text(beat.version) if beat.version else UNKNOWN for beat, _ in rows]
        told = [[*row, version] for row, version in zip(told, shown, strict=True)]
        unheard = [[*row, UNKNOWN] for row in unheard]
    return table(columns, [*told, *unheard])


def _silent_row(silent: SilentWorker) -> list[RenderableType]:
    return [text(silent.worker_id), *[UNKNOWN] * 2, Text(silent.reason, style="bold red"), *[UNKNOWN] * 4]


def _worker_row(beat: Heartbeat, silent: float | None) -> list[RenderableType]:
    rate = beat.tokens_per_second
    return [
        text(beat.worker_id),
        text(beat.backend),
        _models(beat),
        _state(beat, silent),
        f"{beat.inflight}/{beat.capacity}",
        str(beat.queued),
        UNKNOWN if rate is None else f"{rate:.0f}",
        size(beat.resources.memory_used),
    ]


def _models(beat: Heartbeat) -> Text:
    """A worker's models; one in trouble says why."""
    told = Text(overflow="fold")
    for number, card in enumerate(beat.models):
        told.append_text(text(f"{', ' if number else ''}{card.model_id}"))
        if card.trouble:
            told.append_text(text(f" ({card.trouble})", "red"))
    return told if beat.models else text(UNKNOWN)


def _state(beat: Heartbeat, silent: float | None) -> Text:
    if silent is not None:
        return Text(f"silent for {silent:.0f} s", style="bold red")
    state = Text(beat.state, style=STATE_STYLES[beat.state], overflow="fold")
    return state.append_text(text(f": {beat.reason}", "default")) if beat.reason else state
