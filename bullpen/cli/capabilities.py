"""`workers --capabilities`: what each kind of worker can do, as its folder's checklist says."""

from collections.abc import Mapping

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bullpen.cli.show import as_json, problem, show, table, text, words
from config.loader import ConfigError
from workers.base.interface.checklist import load_checklist
from workers.base.interface.discovery import discover

WRONG = 1
MARKS = {"done": ("yes", "green"), "todo": ("not yet", "yellow"), "exempt": ("no", "dim")}


def show_capabilities(*, json: bool) -> None:
    """Prints the table. Exits with 1 when a checklist cannot be read, after printing the others."""
    known: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for name, folder in discover().items():
        try:
            known[name] = load_checklist(folder.path).items()
        except ConfigError as error:
            wrong.append(str(error))
    if json:
        as_json(known)
    else:
        show(_table(known))
        for name, verdicts in known.items():
            for item, verdict in verdicts.items():
                if verdict != "done":
                    show(text(f"{name}, {item}: {verdict.partition(': ')[2]}", "dim"))
    for mistake in wrong:
        problem(mistake, "docs/add-a-backend.md says what belongs into a checklist")
    if wrong:
        raise typer.Exit(WRONG)


def _table(known: Mapping[str, Mapping[str, str]]) -> Table:
    items = list(dict.fromkeys(item for verdicts in known.values() for item in verdicts))
    columns = [words("CAN"), *map(words, known)]
    return table(columns, [[item, *(_mark(verdicts[item]) for verdicts in known.values())] for item in items])


def _mark(verdict: str) -> RenderableType:
    mark, style = MARKS[verdict.partition(":")[0]]
    return Text(mark, style=style)
