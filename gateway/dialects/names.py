"""Names of tools that are longer than every provider takes them: short on the way out, whole on the way back."""

from collections.abc import Mapping
from hashlib import sha256

LONGEST = 64
_MARK = 9


def short(name: str) -> str:
    """The same name for the same tool in every turn."""
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - _MARK]}_{sha256(name.encode(errors='replace')).hexdigest()[: _MARK - 1]}"


def whole(name: str, told: Mapping[str, str]) -> str:
    """As the client calls it; `told`: its long names by their short ones."""
    return told.get(name, name)
