"""`bullpen logs`: the logs of the mesh's processes on this machine."""

import time
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from bullpen.cli.running import usage
from bullpen.cli.show import clean
from bullpen.supervision.endpoints import default_data_dir

LOOK_EVERY = 0.2
TAIL_BYTES = 256 << 10


def register(app: typer.Typer) -> None:
    app.command()(logs)


def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A process (worker-local-1), or a worker (local-1)")
    ] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come; Ctrl-C ends it")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of each")] = 20,
) -> None:
    """What the processes of the mesh on this machine wrote, the newest lines of each.

    They are files in the data directory (.bullpen/logs).

    Examples:

      bullpen logs

      bullpen logs local-1 -f

      bullpen logs manager-1 -n 200
    """
    folder = default_data_dir() / "logs"
    files = {file.stem: file for file in sorted(folder.glob("*.log"))}
    if not files:
        raise usage(f"there are no logs in {folder}", "`bullpen up` makes them; a container's: `docker compose logs`")
    tails = [_Tail(process, files[process]) for process in _meant(name, list(files))]
    for tail in tails:
        _print(tail, tail.last(lines), len(tails))
    try:
        while follow:
            time.sleep(LOOK_EVERY)
            for tail in tails:
                _print(tail, tail.news(), len(tails))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _meant(name: str | None, known: list[str]) -> list[str]:
    if name is None:
        return known
    for process in (name, f"worker-{name}"):
        if process in known:
            return [process]
    if group := [process for process in known if process.startswith((f"{name}-", f"worker-{name}-"))]:
        return group
    near = get_close_matches(name, [*known, *(one.removeprefix("worker-") for one in known)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise usage(f"no process {name} wrote a log here", hint)


def _print(tail: "_Tail", lines: Iterator[str], count: int) -> None:
    prefix = f"{tail.process} | " if count > 1 else ""
    for line in lines:
        typer.echo(prefix + clean(line))


class _Tail:
    """Follows a log file from its end on, also when it is replaced by a new one."""

    def __init__(self, process: str, file: Path) -> None:
        self.process = process
        self._file = file
        self._at = 0
        self._rest = b""

    def last(self, count: int) -> Iterator[str]:
        size = self._file.stat().st_size
        self._at = max(0, size - TAIL_BYTES)
        found = list(self.news())
        return iter(found[max(0, len(found) - count) :])

    def news(self) -> Iterator[str]:
        """The whole lines that were added."""
        try:
            with self._file.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._at:
                    self._at, self._rest = 0, b""
                file.seek(self._at)
                came = file.read()
        except OSError:
            return
        self._at += len(came)
        *whole, self._rest = (self._rest + came).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
