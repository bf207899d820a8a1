"""The prompt of `ask`: the question, then files, then what is piped in."""

import os
import select
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from bullpen.cli.running import usage
from bullpen.cli.show import problem

QUIET_PIPE = 3.0
"""Seconds of silence after which the command says that it waits for standard input."""


def whole_prompt(question: str | None, files: Sequence[Path]) -> str:
    """Question, files and standard input, with blank lines between them. Ends the process when all are empty."""
    parts = [question] if question not in (None, "-") else []
    parts += [
        _named(file, _text(_read(file), str(file))) if len(files) > 1 else _text(_read(file), str(file))
        for file in files
    ]
    if is_piped(has_question=bool(parts)):
        parts.append(_text(_standard_input(has_question=bool(parts)), "standard input"))
    elif not parts:
        raise usage("there is no question", 'bullpen ask "What is the capital of France?"')
    parts = [part for part in parts if part.strip()]
    if not parts:
        raise usage("the question is empty")
    return "\n\n".join([*(part.rstrip("\n") for part in parts[:-1]), parts[-1]])


def from_stdin() -> str:
    """All of standard input. Ends the process when it is not UTF-8."""
    return _text(sys.stdin.buffer.read(), "standard input")


def is_piped(*, has_question: bool) -> bool:
    """Whether standard input holds text for the prompt.

    Beside a question, a file that is read already (`while read line; do bullpen ask "$line"; done < lines`) belongs
    to that reader.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return False
    return not (has_question and _is_half_read())


def _is_half_read() -> bool:
    try:
        number = sys.stdin.fileno()
        return stat.S_ISREG(os.fstat(number).st_mode) and os.lseek(number, 0, os.SEEK_CUR) > 0
    except (OSError, ValueError):
        return False


def _standard_input(*, has_question: bool) -> bytes:
    """All of standard input. When a pipe stays silent beside a question, a message says so: it may be open by
    mistake.
    """
    if has_question and not _has_news(QUIET_PIPE):
        problem("waiting for standard input, which is a pipe", "close it, or ask with </dev/null to leave it out")
    return sys.stdin.buffer.read()


def _has_news(within: float) -> bool:
    try:
        return bool(select.select([sys.stdin], [], [], within)[0])
    except (OSError, ValueError):  # no file of the operating system
        return True


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise usage(f"--file {file}: {error.strerror}") from None


def _text(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise usage(f"{place} is not UTF-8 text (byte {error.start})") from None


def _named(file: Path, content: str) -> str:
    return f"{file}:\n\n{content}"
