"""Changes a `.env` line by line, and leaves everything else as it was."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

LINE = re.compile(r"^(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)$")

PROVIDER = re.compile(r"[A-Z0-9_]+_(?:API_KEY|BASE_URL)")
"""Variables with a provider's key or address."""
FROM_A_CONTAINER = "host.docker.internal"
"""This machine's name inside a container."""


def value_of(text: str, name: str) -> str | None:
    """The variable's value in this text; the last line counts. None: it is not set."""
    found = [match["value"] for line in text.splitlines() if (match := LINE.match(line)) and match["name"] == name]
    return found[-1].strip().strip("'\"") if found else None


def providers_in(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The providers' keys and addresses in a `.env` that are not in the environment.

    Passwords for containers, which are there too, are not meant for a mesh on this machine. When a provider's address
    is only valid in a container, its key is left out as well: it would be sent elsewhere.
    """
    names = {match["name"] for line in text.splitlines() if (match := LINE.match(line))}
    told = {name: value_of(text, name) for name in sorted(names) if PROVIDER.fullmatch(name)}
    theirs = {name.removesuffix("BASE_URL") for name, value in told.items() if FROM_A_CONTAINER in (value or "")}
    return {
        name: value
        for name, value in told.items()
        if value and not environ.get(name) and not name.startswith(tuple(theirs))
    }


def with_value(text: str, name: str, value: str) -> str:
    """The text with this value for the variable, in the place of its line, or at the end."""
    lines = text.splitlines()
    places = [at for at, line in enumerate(lines) if (match := LINE.match(line)) and match["name"] == name]
    for at in places:
        lines[at] = f"{name}={value}"
    return "\n".join([*lines, *([] if places else [f"{name}={value}"]), ""])


def set_value(file: Path, name: str, value: str) -> None:
    """Sets a variable in one step; the file keeps its permissions. Raises `OSError`."""
    _write(file, with_value(_text(file), name, value))


def append(file: Path, values: Mapping[str, str]) -> None:
    """Adds lines at the end in one step; the lines before stay the same to the byte. Raises `OSError`."""
    text = _text(file)
    start = "" if not text or text.endswith("\n") else "\n"
    _write(file, text + start + "".join(f"{name}={value}\n" for name, value in values.items()))


def _text(file: Path) -> str:
    return file.read_bytes().decode() if file.exists() else ""


def _write(file: Path, text: str) -> None:
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
    with NamedTemporaryFile("wb", dir=file.parent, prefix=".env.", delete=False) as output:
        output.write(text.encode())
        os.fchmod(output.fileno(), mode)
    Path(output.name).replace(file)
