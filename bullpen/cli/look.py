"""`workers` and `models`: who is here and what is served, from the heartbeats."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bullpen.cli.running import connected, run, usage
from bullpen.cli.show import UNKNOWN, as_json, figures, money, note, show, size, table, text, words
from client import Sighting
from contracts import Heartbeat, ModelCard, OpenModel, Price

STATE_STYLES = {"ready": "green", "starting": "cyan", "degraded": "red", "draining": "yellow", "stopped": "dim"}
REDRAW_EVERY = 0.5
FORGET_AFTER = 30.0
"""Seconds after which a worker that says nothing leaves the live table."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


class ServedModel(OpenModel):
    """A model, and who serves it."""

    model_id: str
    backend: str
    workers: tuple[str, ...]
    ready: int
    """Workers that can answer now."""
    aliases: tuple[str, ...]
    context_window: int
    capabilities: tuple[str, ...]
    price: Price | None
    local: bool


def register(app: typer.Typer) -> None:
    app.command()(workers)
    app.command()(models)


def workers(
    *, json: Json = False, watch: Annotated[bool, typer.Option("--watch", help="Keep the table up to date")] = False
) -> None:
    """Who is here: every worker, its state and its load.

    Examples:

      bullpen workers

      bullpen workers --watch

      bullpen workers --json | jq '.[] | select(.state != "ready")'
    """
    if watch and json:
        raise usage("--watch is for people, --json for programs", "nats sub worker.heartbeat")
    run(_watch if watch else lambda: _list_workers(json=json))


def models(*, json: Json = False) -> None:
    """What is served: every model, by whom, at what price.

    Examples:

      bullpen models

      bullpen models --json | jq -r '.[].model_id'
    """
    run(lambda: _list_models(json=json))


async def _list_workers(*, json: bool) -> None:
    beats = await _heard()
    if json:
        as_json(beats)
    elif beats:
        show(_workers_table([(beat, None) for beat in beats]))
    else:
        note(NOBODY)


async def _list_models(*, json: bool) -> None:
    served = served_models(await _heard())
    if json:
        as_json(served)
    elif served:
        show(_models_table(served))
    else:
        note(NOBODY)


NOBODY = "no worker is here: start one with `bullpen worker NAME`, or the whole mesh with `bullpen up`"


async def _heard() -> list[Heartbeat]:
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
    return Group(_workers_table([(seen.beat, seen.silent_for(now)) for seen in sightings]), hint)


# Workers


def _workers_table(rows: Sequence[tuple[Heartbeat, float | None]]) -> Table:
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
        text(", ".join(card.model_id for card in beat.models) or UNKNOWN),
        _state(beat, silent),
        f"{beat.inflight}/{beat.capacity}",
        str(beat.queued),
        UNKNOWN if rate is None else f"{rate:.0f}",
        size(beat.resources.memory_used),
    ]


def _state(beat: Heartbeat, silent: float | None) -> Text:
    if silent is not None:
        return Text(f"silent for {silent:.0f} s", style="bold red")
    state = Text(beat.state, style=STATE_STYLES[beat.state], overflow="fold")
    return state.append_text(text(f": {beat.reason}", "default")) if beat.reason else state


# Models


def served_models(beats: Sequence[Heartbeat]) -> list[ServedModel]:
    """Every model with its workers, by name; a model that two backends serve stands twice."""
    found: dict[tuple[str, str], list[tuple[Heartbeat, ModelCard]]] = {}
    for beat in beats:
        for card in beat.models:
            found.setdefault((card.model_id, beat.backend), []).append((beat, card))
    return [_served(served) for _, served in sorted(found.items())]


def _served(served: Sequence[tuple[Heartbeat, ModelCard]]) -> ServedModel:
    beat, card = served[0]
    return ServedModel(
        model_id=card.model_id,
        backend=beat.backend,
        workers=tuple(beat.worker_id for beat, _ in served),
        ready=sum(beat.state == "ready" for beat, _ in served),
        aliases=card.aliases,
        context_window=card.context_window,
        capabilities=card.capabilities,
        price=card.price,
        local=card.local,
    )


def _models_table(served: Sequence[ServedModel]) -> Table:
    columns = [words("MODEL"), words("WORKERS"), figures("CONTEXT"), words("PER 1M TOKENS"), words("CAN")]
    return table(columns, [list(_model_row(model)) for model in served])


def _model_row(model: ServedModel) -> Iterator[RenderableType]:
    yield text(", ".join((model.model_id, *model.aliases)))
    workers = text(", ".join(model.workers))
    yield workers if model.ready else workers.append(" (none ready)", style="red")
    yield f"{model.context_window:,}"
    yield _price(model.price)
    yield text(", ".join(model.capabilities))


def _price(price: Price | None) -> str:
    if price is None:
        return "unknown"
    return f"{money(price.input_per_mtok)} in, {money(price.output_per_mtok)} out"
