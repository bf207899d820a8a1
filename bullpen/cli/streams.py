"""Makes the standard streams safe for any command, whatever their character set, open or closed.

A character that the set lacks is written with similar ones (`…` as `...`, `é` as `e`), else as `?`. Output for programs
never changes: JSON has escapes, and exports are UTF-8 everywhere.
"""

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIKE = {
    **dict.fromkeys("‐‑‒–—−", "-"),
    **dict.fromkeys("‘’‚′", "'"),
    **dict.fromkeys("“”„″", '"'),
    **{
        "…": "...",
        "→": "->",
        "←": "<-",
        "×": "x",
        "•": "*",
        "·": "*",
        "✓": "ok",
        "✗": "x",
        "─": "-",
        "│": "|",
        "€": "EUR",
    },
    **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "."),  # the wheel that turns while something is under way
    **{"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"},
}
"""Replacements for characters in Bullpen's and people's texts."""
PLAIN = "bullpen_ascii"
"""A name for ASCII: click believes that a stream called `ascii` is set up wrongly."""
STDERR = 2
REFUSED = 1
"""The exit code when the operating system refused something."""
_ERRORS = "bullpen_degrade"


def usable() -> None:
    """Makes the three streams safe for the rest of this process."""
    _open_missing()
    codecs.register_error(_ERRORS, degraded)
    codecs.register(lambda name: _PLAIN if name == PLAIN else None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=PLAIN if ascii_only else None, errors=_ERRORS)
    sys.argv = [readable(argument) for argument in sys.argv]


@contextmanager
def flushed() -> Iterator[None]:
    """Flushes standard output at the end of the block, where an error can still be reported. Raises `OSError`."""
    try:
        yield
    finally:
        sys.stdout.flush()


def refused(error: OSError) -> int:
    """Prints what the operating system refused; returns the exit code. A reader that left gets no message."""
    number = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(number, sys.stdout.fileno())  # what is still in the buffer can go nowhere else
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            print(f"error: {_refusal(error)}", file=sys.stderr)
    return REFUSED


def _refusal(error: OSError) -> str:
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return "the current directory does not exist any more: go to another one"
    return f"standard output cannot be written: {error.strerror}"


def degraded(error: UnicodeError) -> tuple[str, int]:
    """The replacement for characters that an encoding lacks, as a codec's error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = "".join(like(character, error.encoding) for character in error.object[error.start : error.end])
    return written, error.end


def like(character: str, encoding: str) -> str:
    """The replacement for one character; `?` if there is none."""
    base = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    for written in (LIKE.get(character), base):
        if written is not None and _has(encoding, written):
            return written
    return "" if unicodedata.category(character) in ("Mn", "Cf") else "?"


def readable(argument: str) -> str:
    """An argument as it was typed, in UTF-8, also where the locale has only ASCII."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeError:
        return False
    return True


def _open_missing() -> None:
    """Opens closed standard streams, because the next file to be opened would otherwise become one of them."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 — for the whole process


_ASCII = codecs.lookup("ascii")
_PLAIN = codecs.CodecInfo(
    _ASCII.encode,
    _ASCII.decode,
    streamreader=_ASCII.streamreader,
    streamwriter=_ASCII.streamwriter,
    incrementalencoder=_ASCII.incrementalencoder,
    incrementaldecoder=_ASCII.incrementaldecoder,
    name=PLAIN,
)
