"""Starts and stops workers of a running mesh after `bullpen add` and `bullpen remove`."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from bullpen.settings_dir import kept_keys, settings_of, turned_on
from bullpen.start_plan import AddedWorker, added
from bullpen.supervision.mesh import Mesh, MeshError
from config.loader import ConfigError
from workers.base.interface.discovery import find

LOOK_EVERY = 1.0


class AddedFollower:
    """Follows the settings of this machine's mesh while `keep` runs."""

    def __init__(self, mesh: Mesh, tell: Callable[[str], None]) -> None:
        self._mesh = mesh
        self._tell = tell
        self._seen = {one.worker_id: one for one in added(mesh.data_dir)}
        self._on = turned_on(mesh.data_dir)
        self._complaint = ""

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                await self.look()
                self._complaint = ""
            except (ConfigError, MeshError, OSError) as error:
                if str(error) != self._complaint:
                    self._tell(f"what was added is not started: {error}")
                self._complaint = str(error)

    async def look(self) -> None:
        """Starts and stops workers by the present settings. Raises `ConfigError`, `OSError` for settings that cannot be
        read.
        """
        now = {one.worker_id: one for one in added(self._mesh.data_dir)}
        for worker_id in self._seen.keys() - now.keys():
            await self._stop(worker_id)
        for worker_id in sorted(now.keys() - self._seen.keys()):
            await self._start(now[worker_id])
        self._seen = now
        await self._follow_backends(turned_on(self._mesh.data_dir))

    async def _follow_backends(self, on: dict[str, int]) -> None:
        before, self._on = self._on, on
        for backend in sorted(on):
            if on[backend] != before.get(backend):
                await self._turn_on(backend, self._mesh.data_dir)
        for backend in sorted(before.keys() - on.keys()):
            for worker_id in self._mesh.workers_of(backend):
                if worker_id not in self._seen:
                    await self._stop(worker_id)

    async def _turn_on(self, backend: str, data_dir: Path) -> None:
        folder = find(backend)
        running = self._mesh.workers_of(backend)
        if folder.load().key_variable:  # they may have a new key
            for worker_id in running:
                await self._mesh.restart(f"worker-{worker_id}")
        if any(worker_id not in self._seen for worker_id in running):
            return
        os.environ.update(kept_keys(os.environ, data_dir))
        said = await folder.available(settings_of(backend, data_dir))
        if not said.available:
            raise ConfigError(f"{backend} cannot run here: {said.reason}; {said.cure}")
        for number in range(1, folder.config(settings_of(backend, data_dir)).replicas + 1):
            await self._start(AddedWorker(folder, f"{backend}-{number}", Path()))

    async def _start(self, one: AddedWorker) -> None:
        if one.worker_id in self._mesh.workers:
            return
        self._tell(f"worker-{one.worker_id} was added; starting it")
        config = one.config if one.config.is_file() else None
        await self._mesh.add_worker(one.folder.name, one.worker_id, config)

    async def _stop(self, worker_id: str) -> None:
        if worker_id in self._mesh.workers:
            self._tell(f"worker-{worker_id} was removed; it finishes what it does and leaves")
            await self._mesh.remove_worker(worker_id)
