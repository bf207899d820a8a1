"""`promote`, `demote` and `grades`: set grades by hand, and show them."""

from typing import Annotated, Any

import typer

from bullpen.cli.reading import from_books
from bullpen.cli.show import as_json, flat, note, problem, show, table, text, words
from bullpen.cli.show import duration as lasting
from telemetry.reading.queries import Graded, grades_now, set_grade
from telemetry.store import Store

NOTHING_LIKE_IT = 1

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name, as `bullpen grades` shows it")]
Worker = Annotated[str | None, typer.Option(metavar="ID", help="Only at this worker (default: wherever it is served)")]
Auto = Annotated[bool, typer.Option("--auto", help="Give the decision back to the books")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]


def register(app: typer.Typer) -> None:
    app.command()(grades)
    app.command()(promote)
    app.command()(demote)


def grades(*, json: Json = False) -> None:
    """Every model's grade at every worker: probation, regular, senior or benched, and since when.

    Examples:

      bullpen grades
    """
    found = from_books(grades_now)
    if json:
        as_json(found)
    elif found:
        columns = [*map(words, ("MODEL", "WORKER", "GRADE", "FOR", "WHY"))]
        show(table(columns, [_row(one) for one in found]))
    else:
        note("no grades yet: they come with the first answers")


def promote(model: Model, *, worker: Worker = None, auto: Auto = False, json: Json = False) -> None:
    """Overrule the books: give a model its full share again.

    Its grade becomes senior.

    Examples:

      bullpen promote gpt-5-mini

      bullpen promote gpt-5-mini --auto
    """
    _decide(model, worker, None if auto else "senior", json=json)


def demote(model: Model, *, worker: Worker = None, auto: Auto = False, json: Json = False) -> None:
    """Overrule the books: give a model only a request now and then.

    Examples:

      bullpen demote smollm2 --worker local-2
    """
    _decide(model, worker, None if auto else "benched", json=json)


def _decide(model: str, worker: str | None, grade: str | None, *, json: bool) -> None:
    async def write(store: Store) -> list[Graded]:
        return await set_grade(store, model, worker, grade)

    changed = from_books(write)
    if json:
        as_json(changed)
    if not changed:
        problem(f"no worker has a grade for {model}", "`bullpen grades` lists them")
        raise typer.Exit(NOTHING_LIKE_IT)
    if not json:
        for one in changed:
            how = f"is {one.grade}" if one.by_hand else f"is {one.grade}, the books decide from now on"
            typer.echo(flat(f"{one.model_id} at {one.worker_id} {how}"))
        note("Managers know within ten seconds")


def _row(one: Graded) -> list[Any]:
    why = ("by hand; " if one.by_hand else "") + "; ".join(one.reasons)
    return [text(one.model_id), text(one.worker_id), text(one.grade), lasting(one.seconds * 1000), text(why)]
