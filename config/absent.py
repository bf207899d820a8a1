"""Imports a library without those of its optional dependencies that take long and are not used here."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Within the block, importing these modules fails as if they were not installed; modules imported before stay."""
    hidden = [name for name in names if name not in sys.modules]
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules.update(dict.fromkeys(hidden))  # None is Python's own word for it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
