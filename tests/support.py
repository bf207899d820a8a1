"""Helpers that every level of tests shares."""

import asyncio
import inspect
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil


async def eventually(check: Callable[[], Any], timeout: float = 30.0, every: float = 0.02) -> Any:
    """Calls `check` (plain or async) until it returns something true, and returns that.

    An AssertionError counts as not yet. When the time is up, the last failure is raised.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        failure: AssertionError | None = None
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as error:
            failure = error
        if loop.time() >= end:
            raise failure or AssertionError(f"not within {timeout} s: {_story(check)}")
        await asyncio.sleep(every)


def _story(check: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(check).strip()
    except (TypeError, OSError):
        return repr(check)


def is_ours(path: Path) -> bool:
    """Whether something is part of the repository; what was just made is not yet. Without git: it is."""
    try:
        told = subprocess.run(["git", "ls-files", str(path)], cwd=path, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return True
    return bool(told.stdout)


def gone(pid: int) -> bool:
    """Whether that process has ended, also when nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@asynccontextmanager
async def tcp_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server on loopback, by its port. No connection outlives the block: who finds one left is another test."""
    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
