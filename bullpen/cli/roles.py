"""`manager`, `worker`, `telemetry`, `gateway`: run one role in the foreground, as containers and `bullpen up` do;
`health`.

Each command imports only its own role: a worker's process should not hold a Manager.
"""

# ruff: noqa: PLC0415 — see above

import asyncio
import os
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import structlog
import typer

from bullpen.cli.running import connected, run, settings
from bullpen.cli.show import problem
from bullpen.content_key import content_key
from bullpen.known_passwords import refuse_known_password
from bullpen.settings_dir import kept_keys, role_config, settings_of
from bullpen.supervision.endpoints import default_data_dir, resolve_database_url
from bullpen.supervision.process import role_command, run_role
from bullpen.supervision.siblings import run_siblings
from bullpen.supervision.status_server import VARIABLE, LoopWatch, StatusServer
from bus import Tasks
from bus.role_status import RoleStatus
from client import Bullpen
from client.client import WORKER_SERVICE, ServiceInfo
from config.loader import ConfigError, ConfigModel, load_config
from config.watched_file import ConfigFile
from contracts import subjects as s
from outbox.outbox import OutboxSettings

log = structlog.get_logger(__name__)

UNHEALTHY = 1
S = TypeVar("S", bound=ConfigModel)

Id = Annotated[str | None, typer.Option("--id", help="A name of its own (default: made of role, host and process)")]
Config = Annotated[Path | None, typer.Option(help="Another config.yaml", dir_okay=False)]


def register(app: typer.Typer) -> None:
    app.command()(manager)
    app.command()(worker)
    app.command()(telemetry)
    app.command()(gateway)
    app.command()(health)


def manager(id_: Id = None, config: Config = None) -> None:
    """Run one Manager.

    It takes requests from infer.auto and picks a worker for each. Start several: they share the work. At a SIGTERM it
    finishes what it has and leaves; a second one breaks that off.

    Examples:

      bullpen manager

      NATS_URL=nats://10.0.0.5:4222 bullpen manager --id manager-2
    """

    status = RoleStatus()

    async def role(stop: asyncio.Event) -> None:
        from manager.config import ManagerConfig
        from manager.manager import run as run_manager

        file = _followed(ConfigFile(ManagerConfig, "manager", config or role_config("manager")))
        await run_manager(
            settings(),
            file.load(),
            manager_id=_id("manager", id_),
            stop=stop,
            books=_books(),
            config_file=file,
            status=status,
        )

    raise typer.Exit(run_role("manager", role, status))


def worker(
    name_or_path: Annotated[
        str, typer.Argument(metavar="NAME_OR_PATH", help="A backend's name, or a folder with a backend.py")
    ],
    config: Config = None,
    id_: Id = None,
) -> None:
    """Run one worker.

    At a SIGTERM it finishes what it does and leaves; a second one breaks that off.

    Examples:

      bullpen worker simulated

      bullpen worker local --id local-3

      bullpen worker ./my-backend --config my.yaml
    """

    status = RoleStatus()

    async def role(stop: asyncio.Event) -> None:
        from workers.base.interface.discovery import find
        from workers.base.runtime.worker import run_worker

        folder = find(name_or_path)
        os.environ.update(kept_keys(os.environ))
        try:
            file = _followed(folder.config_file(config or settings_of(folder.name)))
        except ImportError as error:
            availability = await folder.available()
            raise ConfigError(f"{availability.reason or error}: {availability.cure}") from None
        await run_worker(
            settings(),
            folder,
            file.load(),
            worker_id=_id(folder.name, id_),
            stop=stop,
            books=_books(),
            config_file=file,
            status=status,
        )

    raise typer.Exit(run_role("worker", role, status))


def telemetry(id_: Id = None, config: Config = None) -> None:
    """Run one accountant: keeps the books in Postgres.

    The database is DATABASE_URL, else that of the mesh which runs on .bullpen/.

    Examples:

      bullpen telemetry

      DATABASE_URL=postgresql://user@host/bullpen bullpen telemetry
    """

    status = RoleStatus()

    async def role(stop: asyncio.Event) -> None:
        from telemetry.config import TelemetryConfig
        from telemetry.database_url import read as read_database_url
        from telemetry.service import run as run_telemetry
        from telemetry.upkeep.migrate import SchemaMismatch

        database = resolve_database_url()
        if database is None:
            raise ConfigError("there is no database to keep books in: set DATABASE_URL, or start one with `bullpen up`")
        if ignored := read_database_url(database).ignored:
            log.warning("database_parameters_ignored", parameters=", ".join(ignored), effect="nothing here uses them")
        refuse_known_password("DATABASE_URL", [database])
        file = _followed(ConfigFile(TelemetryConfig, "telemetry", config or role_config("telemetry")))
        try:
            await run_telemetry(
                settings(),
                database,
                file.load(),
                instance_id=_id("telemetry", id_),
                stop=stop,
                content_key=content_key(default_data_dir()),
                config_file=file,
                status=status,
            )
        except SchemaMismatch as error:
            raise ConfigError(str(error)) from None

    raise typer.Exit(run_role("telemetry", role, status))


def gateway(
    id_: Id = None,
    config: Config = None,
    *,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Everybody who can connect may ask")] = False,
) -> None:
    """Run one gateway: HTTP for programs that know no NATS.

    It answers at 127.0.0.1:4000 unless `listen` says otherwise. At a SIGTERM it finishes the answers under way and
    leaves. Beyond loopback it wants API keys: `bullpen keys create` makes one.

    Examples:

      bullpen gateway

      BULLPEN_GATEWAY__LISTEN=127.0.0.1:8000 bullpen gateway
    """
    status = RoleStatus()

    async def role(stop: asyncio.Event) -> None:
        from gateway.config import GatewayConfig
        from gateway.gateway import run as run_gateway

        file = _followed(ConfigFile(GatewayConfig, "gateway", config or role_config("gateway")))
        told = file.load()
        if told.processes > 1:
            status.why_not = lambda: "leaving" if stop.is_set() else ""
            await _siblings(told.processes, _id("gateway", id_), config, stop, no_keys=no_keys)
            return

        async def examined() -> list[dict[str, Any]]:
            from bullpen.doctor import examine

            return [asdict(finding) async for finding in examine(settings(), resolve_database_url())]

        watch, tasks = LoopWatch(), Tasks("gateway:status")
        tasks.start(watch.keep(), "loop-watch")
        try:
            await run_gateway(
                settings(),
                told.model_copy(update={"keys": "off"}) if no_keys else told,
                gateway_id=_id("gateway", id_),
                stop=stop,
                pages=StatusServer("gateway", status, watch).page,
                status=status,
                config_file=file,
                examine=examined,
            )
        finally:
            await tasks.cancel()

    raise typer.Exit(run_role("gateway", role, status))


async def _siblings(count: int, id_: str, config: Path | None, stop: asyncio.Event, *, no_keys: bool) -> None:
    """Runs several gateways at one port, each in a process of its own: the system spreads the connections."""
    options = [*(["--config", str(config)] if config else []), *(["--no-keys"] if no_keys else [])]
    names = [id_, *(f"{id_}-{number}" for number in range(2, count + 1))]
    alone = {"BULLPEN_GATEWAY__PROCESSES": "1", "BULLPEN_GATEWAY__SHARE_PORT": "true", VARIABLE: ""}
    commands = [[*role_command(), "gateway", "--id", name, *options] for name in names]
    await run_siblings(commands, {**os.environ, **alone}, stop)


def health(
    role: Annotated[
        Literal["manager", "worker", "telemetry", "gateway"],
        typer.Argument(metavar="ROLE", help="manager, worker, telemetry or gateway"),
    ],
    id_: Annotated[str | None, typer.Option("--id", help="Only this one (default: any on this host)")] = None,
    *,
    alive: Annotated[bool, typer.Option("--alive", help="Whether it answers at all, though it takes no work")] = False,
) -> None:
    """Whether a role on this host can serve: exit 0 or 1.

    The role itself is asked: at BULLPEN_STATUS when that is set, else over NATS. One that starts, drains, waits for its
    provider or is short of memory cannot serve but is alive: a restart would not help.

    Examples:

      bullpen health manager

      bullpen health worker --id local-1
    """
    healthy: list[bool] = []

    async def ask() -> None:
        async with connected() as bullpen:
            here = await _here(bullpen, role, id_)
            healthy.extend([alive or await _serves(bullpen, service) for service in here])

    try:
        run(ask)
    except typer.Exit:
        raise typer.Exit(UNHEALTHY) from None
    if not any(healthy):
        problem(f"no {role} on this host {'answers' if alive else 'can serve'}")
        raise typer.Exit(UNHEALTHY)


async def _here(bullpen: Bullpen, role: str, id_: str | None) -> list[ServiceInfo]:
    """The role's processes that answer: the one with that id, or those on this host."""
    host = socket.gethostname()
    return [
        service
        for service in await bullpen.services(f"bullpen-{role}")
        if (service.id == id_ if id_ else service.metadata.get("host", host) == host)
    ]


async def _serves(bullpen: Bullpen, service: ServiceInfo) -> bool:
    """Whether a role can serve. An answer is enough; a worker also says whether it is ready, unless it is of another
    make and cannot be asked.
    """
    if service.name != WORKER_SERVICE:
        return True
    if state := service.metadata.get("state"):
        return state == "ready"
    beat = (await bullpen.control(service.id, "status")).heartbeat
    return beat is not None and beat.state == "ready"


def _books() -> OutboxSettings:
    """The settings of roles that send events to the books. Raises `ConfigError`."""
    from telemetry.config import TelemetryConfig

    read = load_config(TelemetryConfig, "telemetry", role_config("telemetry"))
    key = content_key(default_data_dir())
    return OutboxSettings(
        mode=read.mode,
        content=read.content,
        content_key=key,
        spool=default_data_dir() / "spool",
        spool_max_bytes=read.spool_max_bytes,
    )


def _followed(file: ConfigFile[S]) -> ConfigFile[S]:
    """Rereads the config at a SIGHUP, except on a terminal, which sends one when it is closed."""
    if hasattr(signal, "SIGHUP") and not sys.stdin.isatty():
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, file.touch)
    return file


def _id(role: str, wanted: str | None) -> str:
    """Checks an id. Raises `ConfigError` when it cannot be part of a subject."""
    made = wanted or s.name_from(f"{role}-{socket.gethostname()}-{os.getpid()}")
    if not s.is_name(made):
        raise ConfigError(f"--id {made!r}: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    return made
