"""The key of the digests that the books keep in mode `hash`: one for the whole mesh, so that equal prompts have equal
digests.

It is `BULLPEN_CONTENT_KEY` (or `BULLPEN_CONTENT_KEY_FILE`). Without it the roles of one data directory share a random
key, made by the role that starts first. Roles on several hosts must be given the same key, or their digests differ.
"""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from tempfile import NamedTemporaryFile

from config.loader import secret

NAME = "content.key"


def content_key(data_dir: Path) -> bytes:
    """The key; empty: it is not set, and there is no directory to keep one. Raises `ConfigError`."""
    given = secret("BULLPEN_CONTENT_KEY")
    if given is not None:
        return given.encode()
    path = data_dir / NAME
    try:
        return _read(path) or _made(path)
    except OSError:
        return b""  # no data directory, or none that we may write: then a role's digests are its own


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return b""


def _made(path: Path) -> bytes:
    """Makes a key file in one step, so that no process reads half of it, and the first file counts."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{NAME}.") as file:  # only its owner may read it
        file.write(f"{token_hex(32)}\n")
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)
    return _read(path)
