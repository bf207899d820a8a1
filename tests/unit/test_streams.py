"""Terminals and pipes of every character set: each command shows what it can, and nothing ends in a traceback."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from bullpen.cli import show, streams

SAID = "“déjà” – 3×€ … → 日本 👩‍👩‍👧 e\u0301 ß\u202e"
SETS = {
    "ascii": '"deja" - 3xEUR ... -> ?? ??? e ss',
    "latin-1": '"déjà" - 3×EUR ... -> ?? ??? e ß',
    "cp1252": "“déjà” – 3×€ … -> ?? ??? e ß",
    "koi8-r": '"deja" - 3xEUR ... -> ?? ??? e ss',
    "utf-8": SAID,
}
Pipe = Callable[[str], io.BytesIO]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """Makes standard output and error one pipe of a character set."""

    def of(encoding: str) -> io.BytesIO:
        raw = io.BytesIO()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, write_through=True))
        monkeypatch.setattr(sys, "argv", ["bullpen"])
        streams.usable()
        return raw

    return of


@pytest.mark.parametrize("encoding", SETS)
def test_what_a_character_set_has_not_is_written_with_what_it_has(pipe: Pipe, encoding: str) -> None:
    raw = pipe(encoding)
    typer.echo(SAID)
    assert raw.getvalue().decode(encoding) == f"{SETS[encoding]}\n"


@pytest.mark.parametrize("encoding", SETS)
def test_tables_problems_and_json_are_shown_in_every_character_set(pipe: Pipe, encoding: str) -> None:
    raw = pipe(encoding)
    show.show(show.table([show.words("Größe →")], [[show.text(SAID)]]))
    show.problem(SAID, "→ …")
    shown = len(raw.getvalue())
    show.as_json({"said": SAID})
    assert raw.getvalue().decode(encoding)
    assert json.loads(raw.getvalue()[shown:].decode(encoding)) == {"said": SAID}


def test_an_argument_is_read_as_it_was_typed_whatever_the_locale_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bullpen", "ask", "d\udcc3\udca9j\udcc3\udca0", "\udcff"])
    streams.usable()
    assert sys.argv == ["bullpen", "ask", "déjà", "\udcff"]


def test_streams_that_were_closed_take_and_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    streams.usable()
    show.show(show.table([show.words("a")], [["b"]]))
    show.problem("nothing")
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "error: standard output cannot be written: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x"), "error: /x: Permission denied\n"),
        (
            FileNotFoundError(2, "No such file"),
            "error: the current directory does not exist any more: go to another one\n",
        ),
        (BrokenPipeError(32, "Broken pipe"), ""),
    ],
)
def test_what_the_system_refuses_is_told_in_one_line(pipe: Pipe, error: OSError, says: str) -> None:
    raw = pipe("utf-8")
    assert streams.refused(error) == 1
    assert raw.getvalue().decode() == says


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_told(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe("utf-8")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        full.write("x")
        with pytest.raises(OSError, match="No space"), streams.flushed():
            pass
        assert streams.refused(OSError(28, "No space left on device")) == 1
