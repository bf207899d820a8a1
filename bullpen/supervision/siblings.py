"""Several processes of one role under one parent, which a container or `bullpen up` supervises as one process.

A child that dies is started again. When the parent is stopped, it stops the children and waits for them; when it is
killed, they end as well.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from bullpen.supervision.leash import leashed
from bullpen.supervision.process import CANNOT_RUN
from bus.backoff import Backoff
from config.loader import ConfigError

log = structlog.get_logger(__name__)

AGAIN = Backoff(0.5, 10.0)


async def run_siblings(commands: Sequence[Sequence[str]], environment: Mapping[str, str], stop: asyncio.Event) -> None:
    """Runs until `stop` is set. Raises `ConfigError` when a child reports that it cannot run."""
    try:
        async with asyncio.TaskGroup() as group:
            for command in commands:
                group.create_task(_keep(command, environment, stop))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _keep(command: Sequence[str], environment: Mapping[str, str], stop: asyncio.Event) -> None:
    failures = 0
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(
            *leashed(command),
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )
        try:
            await _first(process, stop)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            code = await process.wait()
        if code == CANNOT_RUN and not stop.is_set():
            raise ConfigError("one of its processes cannot run, see above")
        failures += 1
        if not stop.is_set():
            log.warning("sibling_died", code=code, command=" ".join(command[-3:]))
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN.wait(failures)):
                    await stop.wait()


async def _first(process: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    """Returns when the process has ended, or `stop` is set."""
    waiting = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
