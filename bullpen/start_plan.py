"""Which workers a mesh starts: those asked for, or every backend that can run here.

What can run here is said by the backends themselves; none is named in this file.
"""

import asyncio
from dataclasses import dataclass

from config.loader import ConfigError
from workers.base import Availability
from workers.base.interface.discovery import BackendFolder, discover, find


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """So many workers of one backend."""

    folder: BackendFolder
    argument: str
    """The argument of `bullpen worker`: a name or a path."""
    count: int
    reason: str
    """Why it can run here, in the backend's words."""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A backend that is not started, why, and how to turn it on."""

    name: str
    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class StartPlan:
    groups: tuple[WorkerGroup, ...]
    not_started: tuple[NotStarted, ...] = ()

    @property
    def workers(self) -> list[tuple[str, int]]:
        return [(group.argument, group.count) for group in self.groups]


async def every_backend() -> StartPlan:
    """Every backend that can run here and asks a real model, as often as its config's `replicas` says."""
    folders = list(discover().values())
    said = await asyncio.gather(*(folder.available() for folder in folders))
    judged = [_judged(folder, availability) for folder, availability in zip(folders, said, strict=True)]
    return StartPlan(
        tuple(one for one in judged if isinstance(one, WorkerGroup)),
        tuple(one for one in judged if isinstance(one, NotStarted)),
    )


async def named_backends(text: str) -> StartPlan:
    """The workers of `local,simulated:2,./my-backend`. Raises `ConfigError` when one is unknown or cannot run here."""
    groups = [_parsed(part.strip()) for part in text.split(",") if part.strip()]
    names = [folder.name for folder, _, _ in groups]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--workers: {', '.join(twice)} stands twice; write name:count for several")
    said = await asyncio.gather(*(folder.available() for folder, _, _ in groups))
    for name, availability in zip(names, said, strict=True):
        if not availability.available:
            raise ConfigError(f"{name} cannot run here: {availability.reason}. {availability.cure}".strip())
    return StartPlan(
        tuple(
            WorkerGroup(folder, argument, count, availability.reason)
            for (folder, argument, count), availability in zip(groups, said, strict=True)
        )
    )


def _parsed(part: str) -> tuple[BackendFolder, str, int]:
    argument, colon, count = part.rpartition(":")
    if not colon:
        argument, count = part, "1"
    if not count.isdecimal() or not 1 <= int(count) <= 1000:
        raise ConfigError(f"--workers: {part}: after the colon stands how many, from 1 to 1000")
    return find(argument), argument, int(count)


def _judged(folder: BackendFolder, availability: Availability) -> WorkerGroup | NotStarted:
    if not availability.available:
        return NotStarted(folder.name, availability.reason, availability.cure)
    if folder.load().simulated:
        return NotStarted(folder.name, "asks no model", f"for a trial: --workers {folder.name}:2")
    return WorkerGroup(folder, folder.name, folder.config().replicas, availability.reason)
