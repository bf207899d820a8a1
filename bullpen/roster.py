"""Which workers a mesh starts: those asked for, or every backend that can run here.

What can run here is said by the backends themselves; none is named in this file.
"""

import asyncio
from dataclasses import dataclass

from config.loader import ConfigError
from workers.base import Availability
from workers.base.interface.discovery import BackendFolder, discover, find


@dataclass(frozen=True, slots=True)
class Squad:
    """So many workers of one backend."""

    folder: BackendFolder
    argument: str
    """What `bullpen worker` is told: a name or a path."""
    count: int
    reason: str
    """Why it can run here, in the backend's words."""


@dataclass(frozen=True, slots=True)
class Off:
    """A backend that is not started, why, and how to turn it on."""

    name: str
    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class Roster:
    squads: tuple[Squad, ...]
    off: tuple[Off, ...] = ()

    @property
    def workers(self) -> list[tuple[str, int]]:
        return [(squad.argument, squad.count) for squad in self.squads]


async def everybody() -> Roster:
    """Every backend that can run here and asks a real model, as often as its config's `replicas` says."""
    folders = list(discover().values())
    said = await asyncio.gather(*(folder.available() for folder in folders))
    judged = [_judged(folder, availability) for folder, availability in zip(folders, said, strict=True)]
    return Roster(
        tuple(one for one in judged if isinstance(one, Squad)), tuple(one for one in judged if isinstance(one, Off))
    )


async def asked_for(text: str) -> Roster:
    """The workers of `local,simulated:2,./my-backend`. Raises `ConfigError` when one is unknown or cannot run here."""
    squads = [_parsed(part.strip()) for part in text.split(",") if part.strip()]
    names = [folder.name for folder, _, _ in squads]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--workers: {', '.join(twice)} stands twice; write name:count for several")
    said = await asyncio.gather(*(folder.available() for folder, _, _ in squads))
    for name, availability in zip(names, said, strict=True):
        if not availability.available:
            raise ConfigError(f"{name} cannot run here: {availability.reason}. {availability.cure}".strip())
    return Roster(
        tuple(
            Squad(folder, argument, count, availability.reason)
            for (folder, argument, count), availability in zip(squads, said, strict=True)
        )
    )


def _parsed(part: str) -> tuple[BackendFolder, str, int]:
    argument, colon, count = part.rpartition(":")
    if not colon:
        argument, count = part, "1"
    if not count.isdecimal() or not 1 <= int(count) <= 1000:
        raise ConfigError(f"--workers: {part}: after the colon stands how many, from 1 to 1000")
    return find(argument), argument, int(count)


def _judged(folder: BackendFolder, availability: Availability) -> Squad | Off:
    if not availability.available:
        return Off(folder.name, availability.reason, availability.cure)
    if folder.load().simulated:
        return Off(folder.name, "asks no model", f"for a trial: --workers {folder.name}:2")
    return Squad(folder, folder.name, folder.config().replicas, availability.reason)
