"""Output of commands: a table for people, whole lines for pipes, JSON for programs.

Colour only on a terminal. Text from the wire is cleaned of control characters first: an answer must not be able to
drive the terminal.
"""

import codecs
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import typer
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

PIPE_WIDTH = 10_000
"""Columns of a line in a pipe."""
UNKNOWN = "–"

_TURNING = r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that change the direction of writing, and with it the order in which a line is read."""
_BREAKING = r"\u2028\u2029"
_CONTROL = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_TURNING}{_BREAKING}]")
_BREAKS = "\n\t"
"""A tab breaks a cell too: its width is not known when the columns are laid out."""
_RAW_IN_JSON = re.compile(rf"[\x7f-\x9f{_TURNING}{_BREAKING}]")

errors = Console(stderr=True, highlight=False)


def clean(text: str) -> str:
    """The text without characters that move a cursor, ring a bell, change a colour or reverse a line."""
    return _CONTROL.sub("", text)


def flat(text: str) -> str:
    """The text, cleaned, in one line: a name with a line break in it makes no second row."""
    return clean(text).translate(dict.fromkeys(map(ord, _BREAKS), " "))


def one_line(text: str, limit: int) -> str:
    """The text in one line, cut with an ellipsis."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def text(value: str, style: str = "") -> Text:
    """A cell with the text as it is: markup is not interpreted."""
    return Text(clean(value), style=style, overflow="fold")


def as_json(value: Any) -> None:
    """Prints JSON: indented on a terminal, else in one line. Money is a number, a time RFC 3339."""
    indent = 2 if sys.stdout.isatty() else None
    readable = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    written = json.dumps(value, default=_plain, ensure_ascii=not readable, indent=indent)
    typer.echo(_RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", written))


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(by_alias=True)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        case Decimal():
            return float(value)
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def words(header: str) -> Column:
    """A column of text: wrapped where necessary, never cut."""
    return Column(header, overflow="fold")


def names(header: str) -> Column:
    """A column of names: other columns are wrapped first."""
    return Column(header, no_wrap=True, overflow="fold")


def figures(header: str) -> Column:
    """A column of numbers."""
    return Column(header, justify="right", no_wrap=True)


def table(columns: Sequence[Column], rows: Iterable[Sequence[RenderableType]], *, heading: bool = True) -> Table:
    made = Table(*columns, show_header=heading, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(value: RenderableType) -> RenderableType:
    """Prints one line without markup: its text may have come over the wire."""
    if isinstance(value, str):
        return text(flat(value))
    return _flattened(value) if isinstance(value, Text) else value


def _flattened(value: Text) -> Text:
    for broken in (one for one in _BREAKS if one in value.plain):
        value = Text(" ", overflow="fold").join(value.split(broken))
    return value


def lines(*parts: Text) -> Group:
    """A cell of several lines."""
    return Group(*map(_flattened, parts))


def show(what: RenderableType) -> None:
    """Prints on standard output; in a pipe every row is one line."""
    if sys.stdout.isatty():
        Console(highlight=False).print(what)
        return
    console = Console(highlight=False, width=PIPE_WIDTH)
    with console.capture() as captured:
        console.print(what)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def problem(what: str, cure: str = "") -> None:
    """Prints an error on standard error, and its cure."""
    _tell(Text.assemble(("error: ", "bold red"), _indented(what)))
    if cure:
        _tell(Text.assemble(("next: ", "bold"), _indented(cure)))


def _indented(what: str) -> str:
    """The text with further lines indented: none of them looks like an error or a cure of ours."""
    return clean(what).replace("\n", "\n  ")


def note(what: str) -> None:
    """Prints a remark on standard error, for people only."""
    if sys.stderr.isatty():
        _tell(Text(clean(what), style="dim"))


def _tell(line: Text) -> None:
    """Prints on standard error: wrapped on a terminal, one line elsewhere."""
    errors.print(line, soft_wrap=not errors.is_terminal)


# Numbers, as people read them


def money(usd: Decimal | None) -> str:
    """US dollars; None is shown as unknown, never as 0."""
    if usd is None:
        return "cost unknown"
    if usd == 0:
        return "$0"
    digits = 2 if usd >= 1 else 1 - usd.adjusted()  # two that count
    return f"${usd:.{digits}f}"


def counted(number: int, what: str) -> str:
    """`1 request`, `1,200 requests`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """Bytes in a unit that keeps the number short."""
    amount, units = float(number), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    for larger in units:
        if amount < 1000:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"


def duration(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def ago(then: datetime) -> str:
    """The time since then, roughly."""
    seconds = max(0, round((datetime.now(UTC) - then).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"
