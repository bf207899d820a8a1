"""The workers that a mesh starts: the wanted ones, or every backend that can run here.

The backends themselves say whether they can run here; this file names none.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bullpen.settings_dir import added_workers, settings_of, short_name
from config.loader import ConfigError
from contracts import BullpenError
from workers.base import Availability
from workers.base.interface.discovery import BackendFolder, discover, find


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """A number of workers of one backend."""

    folder: BackendFolder
    argument: str
    """The argument for `bullpen worker`: a name or a path."""
    count: int
    reason: str
    """Why the backend can run here, in its own words."""


@dataclass(frozen=True, slots=True)
class AddedWorker:
    """A worker made with `bullpen add`: its backend and its settings."""

    folder: BackendFolder
    worker_id: str
    config: Path
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A backend that is not started, the reason, and how to turn it on."""

    name: str
    reason: str
    cure: str


@dataclass(frozen=True, slots=True)
class StartPlan:
    groups: tuple[WorkerGroup, ...]
    added: tuple[AddedWorker, ...] = ()
    not_started: tuple[NotStarted, ...] = ()

    @property
    def workers(self) -> list[tuple[str, int]]:
        return [(group.argument, group.count) for group in self.groups]


async def every_backend(data_dir: Path | None = None) -> StartPlan:
    """Every backend that can run here and has a real model, as often as its config's `replicas` says, and the added
    workers.

    `data_dir`: the mesh's data directory, whose settings count.
    """
    folders = list(discover().values())
    own = [settings_of(folder.name, data_dir) for folder in folders]
    said = await asyncio.gather(*(folder.available(config) for folder, config in zip(folders, own, strict=True)))
    judged = [_judged(*one) for one in zip(folders, said, own, strict=True)]
    return StartPlan(
        tuple(one for one in judged if isinstance(one, WorkerGroup)),
        tuple(added(data_dir)),
        tuple(one for one in judged if isinstance(one, NotStarted)),
    )


def added(data_dir: Path | None = None) -> Iterator[AddedWorker]:
    """The workers made with `bullpen add`. Raises `ConfigError` for one whose backend is gone."""
    for backend, worker_id, config in added_workers(data_dir):
        yield AddedWorker(find(backend), worker_id, config, f"added: {config}")


async def gguf_worker(file: Path, data_dir: Path) -> AddedWorker:
    """A worker for this model file; its settings are kept in the data directory. Raises `ConfigError`."""
    for folder in discover().values():
        try:
            config = await folder.load().offered(str(file), lambda step: None)
        except ImportError:
            continue
        except BullpenError as error:
            raise ConfigError(error.message) from None
        if config:
            worker_id = short_name(file.stem)
            made = data_dir / "gguf" / f"{worker_id}.yaml"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_text(json.dumps(config), encoding="utf-8")  # which is YAML, too
            return AddedWorker(folder, worker_id, made, f"model file {file.name}")
    raise ConfigError(f"--gguf {file}: no backend here serves it: is it there, and `bullpen-mesh[local]` installed?")


async def named_backends(text: str, data_dir: Path | None = None) -> StartPlan:
    """The workers of `local,simulated:2,./my-backend,box`, where `box` is an added worker.

    Raises `ConfigError` when one is unknown or cannot run here.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    own = {one.worker_id: one for one in added(data_dir)}
    groups = [_parsed(part) for part in parts if part not in own]
    names = [folder.name for folder, _, _ in groups]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--workers: {', '.join(twice)} stands twice; write name:count for several")
    said = await asyncio.gather(*(folder.available(settings_of(folder.name, data_dir)) for folder, _, _ in groups))
    for name, availability in zip(names, said, strict=True):
        if not availability.available:
            raise ConfigError(f"{name} cannot run here: {availability.reason}. {availability.cure}".strip())
    return StartPlan(
        tuple(
            WorkerGroup(folder, argument, count, availability.reason)
            for (folder, argument, count), availability in zip(groups, said, strict=True)
        ),
        tuple(own[part] for part in parts if part in own),
    )


def _parsed(part: str) -> tuple[BackendFolder, str, int]:
    argument, colon, count = part.rpartition(":")
    if not colon:
        argument, count = part, "1"
    if not count.isdecimal() or not 1 <= int(count) <= 1000:
        raise ConfigError(f"--workers: {part}: after the colon stands how many, from 1 to 1000")
    return find(argument), argument, int(count)


def _judged(folder: BackendFolder, availability: Availability, config: Path | None) -> WorkerGroup | NotStarted:
    if not availability.available:
        return NotStarted(folder.name, availability.reason, availability.cure)
    if folder.load().simulated:
        return NotStarted(folder.name, "asks no model", f"for a trial: --workers {folder.name}:2")
    told = folder.config(config)
    stands_in = bool(told.models) and all(model.stand_in for model in told.models)
    reason = availability.reason + (": stands in until another chat model is ready" if stands_in else "")
    return WorkerGroup(folder, folder.name, told.replicas, reason)
