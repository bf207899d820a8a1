"""Shortens names of tools that are too long for some provider, and restores them in the answer."""

from collections.abc import Mapping
from hashlib import sha256

LONGEST = 64
_MARK = 9


def short(name: str) -> str:
    """A short form of the name, the same in every turn."""
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - _MARK]}_{sha256(name.encode(errors='replace')).hexdigest()[: _MARK - 1]}"


def whole(name: str, told: Mapping[str, str]) -> str:
    """The name as the client knows it; `told`: long names by their short forms."""
    return told.get(name, name)
