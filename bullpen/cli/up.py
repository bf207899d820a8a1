"""`bullpen up` and `bullpen down`: the whole mesh on this machine, in the foreground or in the background."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bullpen import dotenv, given_key, logs
from bullpen.cli import welcome
from bullpen.cli.screen import Screen
from bullpen.cli.show import problem
from bullpen.embedded import EmbeddedError
from bullpen.follow_added import AddedFollower
from bullpen.settings_dir import kept_keys
from bullpen.start_plan import StartPlan, every_backend, gguf_worker, named_backends
from bullpen.supervision import background
from bullpen.supervision.endpoints import default_data_dir, running
from bullpen.supervision.lock import AlreadyRunning, holder
from bullpen.supervision.mesh import Mesh, MeshError, make_data_dir
from bullpen.supervision.process import role_command
from bus import BusUnreachable
from config.loader import ConfigError

FAILURES = (MeshError, EmbeddedError, AlreadyRunning, BusUnreachable, ConfigError)
INTERRUPTED = 130

DataDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where data and logs are kept. Default: $BULLPEN_DATA_DIR, else .bullpen."),
]


DrainWithin = Annotated[
    float,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        envvar="BULLPEN_DRAIN_WITHIN",
        help="How long answers under way get when the mesh stops. Default: two seconds or so.",
    ),
]


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of the command line."""

    data_dir: Path
    workers: str | None
    managers: int
    port_nats: int | None
    postgres: bool
    http: bool
    port_http: int | None
    gguf: Path | None
    drain_within: float


def register(app: typer.Typer) -> None:
    """Adds `up` and `down` to the command line."""
    app.command()(up)
    app.command()(down)


def up(
    *,
    workers: Annotated[
        str | None,
        typer.Option(metavar="NAME[:COUNT],…", help="Who answers. Default: every backend that can run here."),
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve this GGUF file too, this time", dir_okay=False)
    ] = None,
    managers: Annotated[int, typer.Option(min=1, max=16, help="How many Managers share the questions.")] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `bullpen down` stops it.")] = False,
    port_nats: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="N", help="Default: 4222; when taken, a free one.")
    ] = None,
    port_http: Annotated[
        int | None,
        typer.Option(min=1, max=65535, metavar="N", help="For HTTP. Default: 4000; when taken, a free one."),
    ] = None,
    no_http: Annotated[bool, typer.Option("--no-http", help="Start no gateway: ask over NATS only.")] = False,
    no_postgres: Annotated[bool, typer.Option("--no-postgres", help="Keep no books.")] = False,
    data_dir: DataDir = None,
    drain_within: DrainWithin = 0.0,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Start the whole mesh on this machine: servers, a Manager, telemetry, workers and a gateway.

    Uses NATS_URL and DATABASE_URL instead of its own servers when they are set. Keys and addresses of providers may
    stand in a .env here. Ctrl-C stops everything.

    Examples:

      bullpen up

      bullpen up --workers local,simulated:2

      bullpen up --gguf ./qwen2.5-7b-q4.gguf

      bullpen up --detach --data-dir /tmp/trial
    """
    options = UpOptions(
        (data_dir or default_data_dir()).resolve(),
        workers,
        managers,
        port_nats,
        postgres=not no_postgres,
        http=not no_http,
        port_http=port_http,
        gguf=gguf,
        drain_within=drain_within,
    )
    try:
        _refuse_a_second(options.data_dir)
        code = _launch(options) if detach else asyncio.run(_foreground(options, ready_fd))
    except FAILURES as error:
        problem(str(error))
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def down(data_dir: DataDir = None, drain_within: DrainWithin = 0.0) -> None:
    """Stop the mesh that runs on a data directory.

    Does nothing when none runs there.

    Examples:

      bullpen down

      bullpen down --data-dir /tmp/trial
    """
    place = (data_dir or default_data_dir()).resolve()
    try:
        stopped = background.stop(place, drain_within)
    except OSError as error:
        problem(f"the mesh on {place} cannot be stopped: {error.strerror}")
        raise typer.Exit(1) from None
    typer.echo(f"stopped the mesh on {place}" if stopped else f"no mesh runs on {place}")


def _refuse_a_second(data_dir: Path) -> None:
    if (pid := holder(data_dir)) is not None:
        if endpoints := running(data_dir):
            for line in welcome.addresses(endpoints, data_dir):
                typer.echo(line)
        raise AlreadyRunning(data_dir, pid)


def _launch(options: UpOptions) -> int:
    make_data_dir(options.data_dir)
    command = [*role_command(), "up", "--data-dir", str(options.data_dir), "--managers", str(options.managers)]
    command += ["--workers", options.workers] if options.workers is not None else []
    command += ["--gguf", str(options.gguf)] if options.gguf is not None else []
    command += ["--port-nats", str(options.port_nats)] if options.port_nats is not None else []
    command += ["--port-http", str(options.port_http)] if options.port_http is not None else []
    command += [] if options.postgres else ["--no-postgres"]
    command += [] if options.http else ["--no-http"]
    command += ["--drain-within", str(options.drain_within)] if options.drain_within else []
    return background.launch(command, options.data_dir / "logs" / "up.log", typer.echo)


async def _foreground(options: UpOptions, ready_fd: int | None) -> int:
    """Runs the mesh until it is asked to stop; returns the exit code."""
    logs.configure(level="critical")  # what matters is on the screen
    began = time.monotonic()
    screen = Screen()
    screen.doing("asking each backend whether it can run here")
    _read_dotenv(screen)
    api_key = given_key.take(os.environ)
    os.environ.update(kept_keys(os.environ, options.data_dir))
    plan = await _plan(options)
    mesh = Mesh(
        options.data_dir,
        workers=plan.workers,
        added=[(one.folder.name, one.worker_id, one.config) for one in plan.added],
        managers=options.managers,
        nats_port=options.port_nats,
        postgres=options.postgres,
        http=options.http,
        http_port=options.port_http,
        api_key=api_key,
        drain_within=options.drain_within,
        tell=screen.tell,
        doing=screen.doing,
    )
    leave = _on_signals(mesh)
    started = await _started(mesh, leave, screen)
    if started:
        _welcome(screen, mesh, plan, f"{time.monotonic() - began:.1f} s", ready_fd)
        following = asyncio.create_task(AddedFollower(mesh, screen.tell).keep())
        await leave.wait()
        following.cancel()
    screen.tell("stopping …")
    await mesh.stop()
    return 0 if started else INTERRUPTED


def _read_dotenv(screen: Screen) -> None:
    """Providers' keys and addresses in a `.env` in this directory."""
    try:
        told = dotenv.providers_in(Path(".env").read_text(encoding="utf-8"), os.environ)
    except (OSError, UnicodeDecodeError):
        return
    os.environ.update(told)
    if told:
        screen.tell(f"from .env: {', '.join(told)}")


async def _plan(options: UpOptions) -> StartPlan:
    own = options.data_dir
    plan = await (every_backend(own) if options.workers is None else named_backends(options.workers, own))
    if options.gguf is None:
        return plan
    return replace(plan, added=(*plan.added, await gguf_worker(options.gguf, own)))


async def _started(mesh: Mesh, leave: asyncio.Event, screen: Screen) -> bool:
    """Starts the mesh; False: it was asked to stop before it was ready."""
    starting = asyncio.create_task(mesh.start())
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait({starting, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    screen.idle()
    if not leave.is_set():
        await starting
        return True
    starting.cancel()
    await asyncio.wait({starting})
    return False


def _on_signals(mesh: Mesh) -> asyncio.Event:
    """The event that the first Ctrl-C (or SIGTERM, or a closed terminal) sets; a second one does not wait."""
    leave = asyncio.Event()

    def interrupted() -> None:
        if leave.is_set():
            mesh.kill()
            os._exit(INTERRUPTED)
        leave.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave.set)
    return leave


def _welcome(screen: Screen, mesh: Mesh, plan: StartPlan, took: str, ready_fd: int | None) -> None:
    how = "Ctrl-C stops it" if ready_fd is None else "`bullpen down` stops it"
    how = "`docker stop` stops it" if welcome.in_container() else how
    screen.tell(f"Bullpen is up after {took}; {how}.")
    for line in welcome.lines(mesh.endpoints, plan, mesh.data_dir, lacks_key=mesh.lacks_key):
        screen.tell(line)
    screen.settled()
    if ready_fd is not None:
        os.write(ready_fd, background.READY)
        os.close(ready_fd)
