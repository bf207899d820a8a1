"""`bullpen restart`: restarts the roles of a mesh one after the other, while the others go on answering.

Each process gets a SIGTERM, as from an orchestrator. It finishes its requests and stops, `bullpen up` starts it again,
and the next one follows when it is ready.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bullpen.cli.running import ERROR_REPLY, run, usage
from bullpen.cli.show import problem
from bullpen.supervision.endpoints import default_data_dir, running
from bullpen.supervision.mesh import ROLE_RESTARTS, ROLES_WITHIN
from bullpen.supervision.readiness import MeshWatch
from bullpen.supervision.servers import NATS, POSTGRES
from client import Bullpen

ORDER = ("worker", "manager", "telemetry", "gateway")
LOOK_EVERY = 0.1


def register(app: typer.Typer) -> None:
    app.command()(restart)


def restart(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]…", help="Processes, as in endpoints.json (default: every role)"),
    ] = None,
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the mesh runs. Default: $BULLPEN_DATA_DIR, else .bullpen."),
    ] = None,
) -> None:
    """Restart the roles of a mesh one by one; it goes on answering.

    Each finishes what it does first; then it reads its config.yaml anew. NATS and Postgres are left alone.

    Examples:

      bullpen restart

      bullpen restart worker-local-1 manager-1
    """
    place = (data_dir or default_data_dir()).resolve()
    roles = _roles(place)
    if not roles:
        problem(f"no mesh runs on {place}", "start one: `bullpen up`")
        raise typer.Exit(ERROR_REPLY)
    if unknown := sorted({*(names or ())} - {*roles}):
        raise usage(f"{', '.join(unknown)}: there is no such role; there are {', '.join(roles)}")
    run(lambda: _one_by_one(place, names or roles))


def _roles(place: Path) -> list[str]:
    """The processes to restart, in order; empty: no mesh runs there."""
    endpoints = running(place)
    names = endpoints.pids.keys() - {NATS, POSTGRES} if endpoints else ()
    return sorted(names, key=lambda name: (ORDER.index(name.partition("-")[0]), name))


async def _one_by_one(place: Path, names: Sequence[str]) -> None:
    endpoints = running(place)
    async with Bullpen.connect(endpoints.nats_url if endpoints else None) as bullpen:
        watch = MeshWatch(bullpen.bus, typer.echo)
        for name in names:
            if failure := await _restart(place, name, watch):
                problem(failure, "`bullpen doctor` says more; nothing else was restarted")
                raise typer.Exit(ERROR_REPLY)
            typer.echo(f"{name} is back")


async def _restart(place: Path, name: str, watch: MeshWatch) -> str:
    """Restarts one process. Returns what went wrong; empty: nothing."""
    before = _pid(place, name)

    async def is_another() -> bool:
        return _pid(place, name) not in (before, None)

    for sign, within in ((signal.SIGTERM, ROLE_RESTARTS), (signal.SIGKILL, ROLES_WITHIN)):
        if before is not None:
            with suppress(ProcessLookupError):
                os.kill(before, sign)
        if await _eventually(is_another, within):
            ready = await _eventually(lambda: watch.serves(name), ROLES_WITHIN)
            return "" if ready else f"{name} was started again, but is not ready"
    return f"{name} was not started again"


def _pid(place: Path, name: str) -> int | None:
    endpoints = running(place)
    return endpoints.pids.get(name) if endpoints else None


async def _eventually(check: Callable[[], Awaitable[bool]], within: float) -> bool:
    end = asyncio.get_running_loop().time() + within
    while not await check():
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(LOOK_EVERY)
    return True
