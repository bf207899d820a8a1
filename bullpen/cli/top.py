"""`top`: live figures of the mesh, kept up to date."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bullpen.cli.look import FORGET_AFTER, REDRAW_EVERY, sighted_table, silent_json
from bullpen.cli.running import connected, run
from bullpen.cli.show import UNKNOWN, as_json, duration, figures, table, text, words
from bullpen.supervision.silence import silent_workers
from client import LiveFigures, Roster
from client.live import SILENT_AFTER

TELLING = 2.2
"""Seconds after which every role has published its figures once."""


def register(app: typer.Typer) -> None:
    app.command()(top)


def top(
    *, json: Annotated[bool, typer.Option("--json", help="Look once, for two seconds, and print JSON")] = False
) -> None:
    """Live figures of Managers, accountants, models and workers.

    Examples:

      bullpen top

      bullpen top --json | jq '.managers[].metrics.waiting'
    """
    run(_once if json else _watch)


async def _once() -> None:
    async with connected() as bullpen, bullpen.roster() as roster, bullpen.live() as live:
        await asyncio.sleep(TELLING)
        figures = {"managers": live.managers, "accountants": live.accountants, "models": live.models}
        silent = silent_workers({beat.worker_id for beat in roster.beats})
        as_json({**figures, "workers": [*roster.beats, *map(silent_json, silent)]})


async def _watch() -> None:
    now = asyncio.get_running_loop().time
    async with connected() as bullpen, bullpen.roster() as roster, bullpen.live() as live:
        with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as screen:
            while True:
                roster.forget(heard_before=now() - FORGET_AFTER)
                live.forget(heard_before=now() - SILENT_AFTER)
                screen.update(_all(live, roster, now()), refresh=True)
                await asyncio.sleep(REDRAW_EVERY)


def _all(live: LiveFigures, roster: Roster, now: float) -> RenderableType:
    if not live.managers and not live.accountants and not len(roster):
        return Text("listening …", style="dim")
    parts: list[RenderableType] = [_managers(live)] if live.managers else [Text("no Manager says anything", "bold red")]
    if live.accountants:
        parts += ["", _accountants(live)]
    if live.models:
        parts += ["", _models(live)]
    parts += ["", sighted_table(list(roster), now)]
    return Group(*parts, Text("\nCtrl-C ends this", style="dim"))


def _managers(live: LiveFigures) -> Table:
    columns = [
        words("MANAGER"),
        *map(figures, ("PER S", "RUNNING", "WAITING", "ANSWERED", "FAILED", "REROUTED", "UNBOOKED")),
    ]
    return table(
        columns,
        [
            [
                text(one.metrics.source),
                f"{one.per_second:.1f}",
                *map(str, (one.metrics.inflight, one.metrics.waiting, one.metrics.answered, one.metrics.failed)),
                *map(str, (one.metrics.rerouted, one.metrics.outbox_pending)),
            ]
            for one in live.managers
        ],
    )


def _accountants(live: LiveFigures) -> Table:
    columns = [words("ACCOUNTANT"), *map(figures, ("PER S", "BOOKED", "TO BOOK", "UNREADABLE")), words("POSTGRES")]
    return table(
        columns,
        [
            [
                text(one.source),
                f"{one.per_second:.1f}",
                str(one.stored),
                UNKNOWN if one.waiting is None else str(one.waiting),
                str(one.dead),
                text(one.database_away, "bold red") if one.database_away else Text("fine", style="green"),
            ]
            for one in live.accountants
        ],
    )


def _models(live: LiveFigures) -> Table:
    columns = [words("MODEL"), *map(figures, ("WORKERS", "ANSWERED", "FAILED", "TAKES", "CONFIDENCE"))]
    return table(
        columns,
        [
            [
                text(one.model_id),
                *map(str, (one.workers, one.answered, one.failed)),
                UNKNOWN if one.mean_ms is None else duration(one.mean_ms),
                UNKNOWN if one.confidence is None else f"{one.confidence:.2f}",
            ]
            for one in live.models
        ],
    )
