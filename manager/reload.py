"""A Manager's config while it runs: a saved change counts from the next decision on, a wrong one changes nothing.

Requests under way keep their time limits and numbers of attempts.
"""

import asyncio

import structlog

from config.loader import ConfigError
from config.watched_file import ConfigFile, config_digest, differing
from manager.config import ManagerConfig
from manager.jobs.consumer import Jobs
from manager.request.shared_state import SharedState

log = structlog.get_logger(__name__)

AT_START = frozenset({"jobs.silent_after"})
"""Settings that JetStream was given at the Manager's start: a change counts from the next start."""


class Settings:
    """The config in force."""

    def __init__(
        self, config: ManagerConfig, file: ConfigFile[ManagerConfig] | None, shared: SharedState, jobs: Jobs
    ) -> None:
        """`file` None: the config does not come from a file, so there is nothing to follow."""
        self._file = file
        self._shared = shared
        self._jobs = jobs
        self._config = config
        self._turn = asyncio.Lock()
        self.refused = ""
        """Why the last change was refused, with file, line and field; empty when it was taken."""

    @property
    def digest(self) -> str:
        return config_digest(self._config)

    async def follow(self) -> None:
        """Takes over saved changes, until cancelled."""
        while self._file is not None:
            await self._file.changed()
            await self.reload()

    async def reload(self) -> str:
        """Reads the file again. Returns why it cannot be used; empty when it is in force."""
        async with self._turn:
            return await self._read_again()

    async def _read_again(self) -> str:
        if self._file is None:
            return "this Manager was started without a config file"
        try:
            config = await self._file.read()
        except ConfigError as error:
            self.refused = str(error)
            log.error("config_refused", reason=self.refused, in_force=self.digest)
            return self.refused
        self.refused = ""
        if changed := differing(self._config, config):
            self._take(config, changed)
        return ""

    def _take(self, config: ManagerConfig, changed: list[str]) -> None:
        self._config = config
        self._shared.reconfigure(config)
        self._jobs.reconfigure(config.jobs)
        log.info("config_changed", changed=changed, config_digest=self.digest)
        if late := [field for field in changed if field in AT_START]:
            log.warning("config_needs_restart", fields=late, cure="restart this Manager")
