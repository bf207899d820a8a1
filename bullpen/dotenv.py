"""`.env`, as far as commands change it: one line for another, and everything else as it was."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

LINE = re.compile(r"^(?:export\s+)?(?P<name>[A-Za-z_]\w*)=(?P<value>.*)$")

PROVIDER = re.compile(r"[A-Z0-9_]+_(?:API_KEY|BASE_URL)")
"""A variable that says how a provider is reached."""
FROM_A_CONTAINER = "host.docker.internal"
"""This machine, as a container calls it."""


def value_of(text: str, name: str) -> str | None:
    """What the variable is in this text; the last one counts. None: it does not stand there."""
    found = [match["value"] for line in text.splitlines() if (match := LINE.match(line)) and match["name"] == name]
    return found[-1].strip().strip("'\"") if found else None


def providers_in(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What a `.env` says of providers, as far as the environment does not: their keys and addresses, nothing else.

    Passwords for containers, which stand there too, are not meant for a mesh on this machine. Of a provider whose
    address only a container knows, the key is left out as well: it would go elsewhere.
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
    """The text with that value for the variable, in the place of its line, or at the end."""
    lines = text.splitlines()
    places = [at for at, line in enumerate(lines) if (match := LINE.match(line)) and match["name"] == name]
    for at in places:
        lines[at] = f"{name}={value}"
    return "\n".join([*lines, *([] if places else [f"{name}={value}"]), ""])


def set_value(file: Path, name: str, value: str) -> None:
    """Writes it in one step, with the permissions that the file has. Raises `OSError`."""
    _write(file, with_value(_text(file), name, value))


def append(file: Path, values: Mapping[str, str]) -> None:
    """Writes more lines behind what is there, which stays as it is to the byte; in one step, as `set_value`."""
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
