"""Standard streams that any command can use: whatever the terminal's or the pipe's character set, open or closed.

What a character set has not is written with what it has (`…` as `...`, `é` as `e`), else as `?`. What programs read is
never changed: JSON has escapes, and exports are UTF-8 everywhere.
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
"""Characters that people and this program write, by others that look like them."""
PLAIN = "bullpen_ascii"
"""ASCII under a name of its own: click takes a stream that says `ascii` for one that was set up wrongly."""
STDERR = 2
REFUSED = 1
"""Exit code."""
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
    """What the block wrote is written at its end, where a refusal can still be told. Raises `OSError`."""
    try:
        yield
    finally:
        sys.stdout.flush()


def refused(error: OSError) -> int:
    """Says in one line what the operating system refused; returns the exit code. A reader that left wants no word."""
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
    """For codecs: what stands in for characters that an encoding has not."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    written = "".join(like(character, error.encoding) for character in error.object[error.start : error.end])
    return written, error.end


def like(character: str, encoding: str) -> str:
    """One character by others of the encoding; `?` where there are none."""
    base = "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
    for written in (LIKE.get(character), base):
        if written is not None and _has(encoding, written):
            return written
    return "" if unicodedata.category(character) in ("Mn", "Cf") else "?"


def readable(argument: str) -> str:
    """An argument as it was typed, in UTF-8, also where the locale says that there is only ASCII."""
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
    """A stream that its starter closed is nothing, and the next file to be opened would become it."""
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
