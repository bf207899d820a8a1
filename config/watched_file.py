"""A config file that its role follows while it runs.

The file's bytes are read ten times a second and compared; no event or time stamp is trusted. An editor that replaces
the file, a single file mounted into a container, the symbolic links that Kubernetes swaps when a ConfigMap changes, a
network file system: each loses inotify events in its own way, or shows a time that has not moved. Reading a few
kilobytes takes 0.1 ms on a thread, and always shows a change.

A file counts as changed when two reads in a row find the same new bytes, so a file that is still being written is not
read. A missing or empty file is no change.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from config.loader import MAX_CONFIG_BYTES, ConfigModel, load_config, place_of

LOOK_EVERY = 0.1
"""Seconds between two reads."""
LOOK_AGAIN = 0.1
"""Seconds between the read that finds new bytes and the read that confirms them."""
S = TypeVar("S", bound=ConfigModel)


class ConfigFile(Generic[S]):
    """A config file. Make it before the first `load`: it notices every later change."""

    def __init__(self, cls: type[S], name: str, path: Path | None) -> None:
        """`path` None: there is no file, only the environment; `changed` then waits for `touch`."""
        self.path = path
        self._cls = cls
        self._name = name
        self._known = _content(path)
        self._touched = asyncio.Event()

    def load(self) -> S:
        """The settings as they are now. Raises `ConfigError` with file, line and field."""
        return load_config(self._cls, self._name, self.path)

    async def read(self) -> S:
        """Loads the settings on a thread: a large file takes seconds, which would block every request."""
        return await asyncio.to_thread(self.load)

    def place(self, field: str) -> str:
        """The place of a field, for errors that are found only when it is used: `config.yaml:3: models.0.name`."""
        return place_of(self._cls, self._name, self.path, field)

    def touch(self) -> None:
        """Makes `changed` return, whether the file has changed or not."""
        self._touched.set()

    async def changed(self) -> None:
        """Returns when the file has changed, or after `touch`."""
        before: bytes | None = None
        while not self._touched.is_set():
            now = await asyncio.to_thread(_content, self.path)
            if now and now != self._known and now == before:
                self._known = now
                return
            before = now
            try:
                async with asyncio.timeout(LOOK_EVERY if now in (None, self._known) else LOOK_AGAIN):
                    await self._touched.wait()
            except TimeoutError:
                pass
        self._touched.clear()
        self._known = await asyncio.to_thread(_content, self.path) or self._known


def config_digest(config: BaseModel) -> str:
    """A digest of the settings; equal settings have equal digests, wherever they came from."""
    return sha256(config.model_dump_json().encode()).hexdigest()[:16]


def differing(before: BaseModel, after: BaseModel) -> list[str]:
    """The fields that differ, as dotted paths."""
    return sorted(_differing(before.model_dump(), after.model_dump(), ()))


def _differing(before: Any, after: Any, at: Sequence[str]) -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [path for key in keys for path in _differing(before.get(key), after.get(key), (*at, str(key)))]
    return [".".join(at)]


def _content(path: Path | None) -> bytes | None:
    """The file's bytes, up to just beyond the largest config; None when it cannot be read."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 2)
    except OSError:
        return None
