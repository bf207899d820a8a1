"""One role as a process: its event loop, its signals, and its exit code for the supervisor.

The first SIGTERM or SIGINT asks the role to finish its requests, the second to stop at once.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import structlog

from bullpen import logs
from bullpen.supervision.status_server import status_served
from bullpen.supervision.traces import traced
from bus import BusError, BusUnreachable
from bus.role_status import RoleStatus
from config.loader import ConfigError

log = structlog.get_logger(__name__)

STOPPED, CANNOT_RUN, DIED, BUS_LOST = 0, 1, 70, 78
"""Exit codes. `BUS_LOST`: the connection is closed for good, and the role has to be started again."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

GARBAGE = 10_000, 20, 20
"""Thresholds of Python's garbage collector."""

Role = Callable[[asyncio.Event], Coroutine[None, None, None]]
"""Runs until the event is set."""


def run_role(name: str, role: Role, status: RoleStatus | None = None) -> int:
    """Runs the role until a signal stops it; returns the exit code. `status`: for the role's status page on this
    machine.
    """
    try:
        logs.configure()
        _collect_seldom()
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_shown(name, role, status or RoleStatus()))
    except (ConfigError, BusUnreachable) as error:
        return _explained(name, error, CANNOT_RUN)
    except BusError as error:
        return _explained(name, error, BUS_LOST)
    except asyncio.CancelledError:
        log.warning("left_at_once", role=name)
    except Exception:
        log.exception("role_died", role=name)
        return DIED
    return STOPPED


def role_command() -> list[str]:
    """The command that runs `bullpen` in another process with the modules that this process imports.

    Python looks for modules in the current directory only if it was started with it. Otherwise another package's folder
    called `client` or `workers`, like ours, would be found first.
    """
    here = {"", str(Path.cwd())} & set(sys.path)
    return [sys.executable, *([] if here else ["-P"]), "-m", "bullpen"]


def _explained(name: str, error: Exception, code: int) -> int:
    print(f"bullpen {name}: {error}", file=sys.stderr)
    return code


async def _shown(name: str, role: Role, status: RoleStatus) -> None:
    with traced(name):
        async with status_served(name, status):
            await _until_told(role)


async def _until_told(role: Role) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    running = asyncio.ensure_future(role(stop))

    def on_signal() -> None:
        if stop.is_set():
            running.cancel()
        stop.set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    await running


def _collect_seldom() -> None:
    """Sets up the garbage collector. Imported modules stay, and requests leave no cycles, so a search every 700 objects
    is wasted.
    """
    gc.freeze()
    gc.set_threshold(*GARBAGE)


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 — not to be had on Windows

    return uvloop.new_event_loop()
