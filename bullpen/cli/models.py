"""`models`: the served models, from the heartbeats, and how well each does, from the books."""

import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal

import typer
from pydantic import Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bullpen.cli.look import NO_WORKER, heard
from bullpen.cli.reading import Json, NoBooks, reading
from bullpen.cli.running import run
from bullpen.cli.show import UNKNOWN, as_json, duration, figures, lines, money, names, note, show, table, text, words
from contracts import Heartbeat, ModelCard, OpenModel, Price
from telemetry.reading.queries import Graded, Scorecard, grades_now, scorecard
from telemetry.store import Store

BOOKS_WITHIN = 3.0
"""Seconds that the books may take; without them the table is shorter."""


class ServedModel(OpenModel):
    """A model, its workers, and how well it does."""

    model_id: str
    backend: str
    workers: tuple[str, ...]
    ready: int
    """Workers that can answer now."""
    trouble: dict[str, str] = Field(default_factory=dict)
    """Why the model fails at a worker, by worker."""
    aliases: tuple[str, ...]
    context_window: int
    capabilities: tuple[str, ...]
    price: Price | None
    local: bool
    scorecard: Scorecard | None = None
    """The model's figures at all workers; None: it had no attempt, or the books cannot be read."""
    grades: tuple[Graded, ...] = ()
    """The model's grade at each worker."""


def register(app: typer.Typer) -> None:
    app.command()(models)


def models(*, json: Json = False) -> None:
    """Every served model, its workers, its price and how well it does.

    The second part comes from the books: answers given, tries that failed, how sure the answers were and how they were
    judged, what one cost in all, and the grade at each worker.

    Examples:

      bullpen models

      bullpen models --json | jq -r '.[] | [.model_id, .scorecard.error_rate] | @tsv'
    """
    run(lambda: _list(json=json))


async def _list(*, json: bool) -> None:
    served = served_models(await heard())
    why = ""
    if served:
        try:
            served = await reading(lambda store: _with_record(store, served), within=BOOKS_WITHIN)
        except NoBooks as error:
            why = f"how well they do is not known: {error}"
    if json:
        as_json(served)
    elif not served:
        note(NO_WORKER)
    else:
        tried = [model for model in served if model.scorecard is not None]
        record: list[RenderableType] = [Text(), _record_table(tried)] if tried else []
        show(Group(_served_table(served), *record))
    if why:
        note(why)


async def _with_record(store: Store, served: Sequence[ServedModel]) -> list[ServedModel]:
    cards = {card.model_id: card for card in await scorecard(store)}
    given = await grades_now(store)
    return [
        model.model_copy(
            update={
                "scorecard": cards.get(model.model_id),
                "grades": tuple(
                    one for one in given if one.model_id == model.model_id and one.worker_id in model.workers
                ),
            }
        )
        for model in served
    ]


def served_models(beats: Sequence[Heartbeat]) -> list[ServedModel]:
    """Every model with its workers, by name; a model of two backends has two rows."""
    found: dict[tuple[str, str], list[tuple[Heartbeat, ModelCard]]] = {}
    for beat in beats:
        for card in beat.models:
            found.setdefault((card.model_id, beat.backend), []).append((beat, card))
    return [_served(served) for _, served in sorted(found.items())]


def _served(served: Sequence[tuple[Heartbeat, ModelCard]]) -> ServedModel:
    beat, card = max(served, key=lambda one: len(one[1].capabilities))
    return ServedModel(
        model_id=card.model_id,
        backend=beat.backend,
        workers=tuple(beat.worker_id for beat, _ in served),
        ready=sum(beat.state == "ready" and bool(card.capabilities) for beat, card in served),
        trouble={beat.worker_id: card.trouble for beat, card in served if card.trouble},
        aliases=card.aliases,
        context_window=card.context_window,
        capabilities=card.capabilities,
        price=card.price,
        local=card.local,
    )


def _served_table(served: Sequence[ServedModel]) -> Table:
    columns = [names("MODEL"), words("WORKERS"), figures("CONTEXT"), words("PER 1M TOKENS"), words("CAN")]
    return table(columns, [list(_served_row(model)) for model in served])


def _served_row(model: ServedModel) -> Iterator[RenderableType]:
    known = (model.model_id, *model.aliases)
    yield lines(*map(text, known)) if sys.stdout.isatty() else text(", ".join(known))
    workers = text(", ".join(model.workers))
    if not model.ready:
        workers.append(" (none ready)", style="red")
    yield lines(workers, *(text(f"{worker_id}: {trouble}", "red") for worker_id, trouble in model.trouble.items()))
    yield f"{model.context_window:,}"
    yield _price(model.price)
    yield text(", ".join(model.capabilities))


def _price(price: Price | None) -> str:
    if price is None:
        return "unknown"
    return f"{money(price.input_per_mtok)} in, {money(price.output_per_mtok)} out"


def _record_table(served: Sequence[ServedModel]) -> Table:
    judged = any(model.scorecard and model.scorecard.feedback is not None for model in served)
    columns = [
        names("MODEL"),
        *map(figures, ("ANSWERS", "FAILED", "P50", "P95", "SURE", *(["JUDGED"] if judged else []), "COST EACH")),
        words("GRADES"),
    ]
    rows = [list(_record_row(model, model.scorecard, judged=judged)) for model in served if model.scorecard]
    return table(columns, rows)


def _record_row(model: ServedModel, card: Scorecard, *, judged: bool) -> Iterator[RenderableType]:
    yield text(model.model_id)
    yield f"{card.answers:,}"
    yield UNKNOWN if card.error_rate is None else f"{card.error_rate:.1%}"
    yield UNKNOWN if card.p50_ms is None else duration(card.p50_ms)
    yield UNKNOWN if card.p95_ms is None else duration(card.p95_ms)
    yield UNKNOWN if card.confidence is None else f"{card.confidence:.2f}"
    if judged:
        yield UNKNOWN if card.feedback is None else f"{card.feedback:.2f} of {card.judgements:,}"
    yield _each(card.cost_per_answer, unpriced=card.unpriced)
    alone = len({one.grade for one in model.grades}) == 1
    grades = {one.grade if alone else f"{one.worker_id} {one.grade}" for one in model.grades}
    yield text(", ".join(sorted(grades)) or UNKNOWN)


def _each(cost: Decimal | None, *, unpriced: int) -> str:
    return UNKNOWN if cost is None else f"{money(cost)}{' or more' if unpriced else ''}"
