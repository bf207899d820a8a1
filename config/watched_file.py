"""A config file that its role follows while it runs.

Its bytes are read four times a second and decide; nothing else is asked. An editor that puts a new file in the place
of the old, a single file mounted into a container, the symbolic links that Kubernetes turns round when a ConfigMap
changes, a network file system: each loses the events of inotify in a way of its own, or shows a time that has not
moved. A few kilobytes read anew are 0.1 ms on a thread, and always right.

What is written in more than one go counts when it has not changed from one look to the next. A file that is away, or
empty while somebody writes it, is no change.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from config.loader import MAX_CONFIG_BYTES, ConfigModel, load_config, place_of

LOOK_EVERY = 0.1
"""Seconds."""
LOOK_AGAIN = 0.1
"""Seconds after which what is new must still be the same."""
S = TypeVar("S", bound=ConfigModel)


class ConfigFile(Generic[S]):
    """Make it before the first `load`: what is saved after that is noticed."""

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
        """As `load`, beside what else is done: a large file takes seconds, in which nobody else would be served."""
        return await asyncio.to_thread(self.load)

    def place(self, field: str) -> str:
        """Where a field stands, for what is found out only when it is used: `config.yaml:3: models.0.name`."""
        return place_of(self._cls, self._name, self.path, field)

    def touch(self) -> None:
        """Have it read again, whether it has changed or not."""
        self._touched.set()

    async def changed(self) -> None:
        """Returns when there is something new in it, or somebody wants it read again."""
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
    """The same for the same settings, wherever they came from."""
    return sha256(config.model_dump_json().encode()).hexdigest()[:16]


def differing(before: BaseModel, after: BaseModel) -> list[str]:
    """The fields that are not the same, as dotted paths."""
    return sorted(_differing(before.model_dump(), after.model_dump(), ()))


def _differing(before: Any, after: Any, at: Sequence[str]) -> list[str]:
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [path for key in keys for path in _differing(before.get(key), after.get(key), (*at, str(key)))]
    return [".".join(at)]


def _content(path: Path | None) -> bytes | None:
    """Its bytes, no more than a config may have; None: it is not there, or nobody may read it."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 2)
    except OSError:
        return None
