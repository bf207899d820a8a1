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
    if json:
        as_json(beats)
    elif beats:
        show(workers_table([(beat, None) for beat in beats]))
    else:
        note(NO_WORKER)


NO_WORKER = "no worker is running: start one with `bullpen worker NAME`, or the whole mesh with `bullpen up`"


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
    hint = Text("\nCtrl-C ends this", style="dim")
    return Group(workers_table([(seen.beat, seen.silent_for(now)) for seen in sightings]), hint)


def workers_table(rows: Sequence[tuple[Heartbeat, float | None]]) -> Table:
    """Heartbeats, each with the seconds its worker has been silent (None: it has not)."""
    columns = [
        *map(words, ("WORKER", "BACKEND", "MODELS", "STATE")),
        *map(figures, ("BUSY", "WAIT", "TOK/S", "MEMORY")),
    ]
    return table(columns, [_worker_row(beat, silent) for beat, silent in rows])


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
    """Those in trouble say why."""
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
