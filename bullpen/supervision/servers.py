"""Starts our own NATS and Postgres on loopback, on free ports."""

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bullpen.embedded import EmbeddedError, ServerDown, clean_environment, nats_server, postgres
from bullpen.supervision.leash import KEEP_USER
from bullpen.supervision.ports import Ports, is_free
from bullpen.supervision.supervisor import Program, Supervisor

START_WITHIN = 60.0
"""Seconds for a server to start; after a power failure Postgres repairs itself first."""
NATS, POSTGRES = "nats", "postgres"


@dataclass(frozen=True, slots=True)
class Kind:
    """A server of ours."""

    name: str
    standard_port: int
    address_taken: str
    """The server's log line when the port is taken."""
    program: Callable[[int], Program]
    ready: Callable[[int], Awaitable[bool]]


class Servers:
    """`tell` gets lines for people, `doing` the step under way."""

    def __init__(
        self, data_dir: Path, supervisor: Supervisor, tell: Callable[[str], None], doing: Callable[[str], None]
    ) -> None:
        self._data_dir = data_dir
        self._supervisor = supervisor
        self._ports = Ports(data_dir)
        self._tell = tell
        self._doing = doing

    async def start_nats(self, wanted_port: int | None = None) -> str:
        """Starts NATS and returns its address. Raises `EmbeddedError`."""
        self._doing("starting NATS")
        kind = self._nats_kind()
        if wanted_port is None:
            return nats_server.url(await self._start(kind, self._candidates(kind)))
        if not is_free(wanted_port):
            raise EmbeddedError(f"port {wanted_port} is taken: choose another one for NATS (--port-nats)")
        return nats_server.url(await self._start(kind, [wanted_port]))

    async def start_postgres(self) -> str:
        """Starts Postgres and returns its address. Raises `EmbeddedError`; `ServerDown` when it may start later."""
        cluster = postgres.Postgres(self._data_dir / POSTGRES)
        self._doing("starting Postgres" if cluster.data.exists() else "setting up Postgres, once")
        try:
            opened = await asyncio.to_thread(cluster.prepare)
        except OSError as error:
            where = error.filename or cluster.directory
            raise ServerDown(f"Postgres cannot be set up: {where}: {error.strerror or error}") from None
        if opened:
            self._tell(_opened(cluster, opened))
        kind = self._postgres_kind(cluster)
        return cluster.url(await self._start(kind, self._candidates(kind)))

    def _nats_kind(self) -> Kind:
        name = f"bullpen-{secrets.token_hex(4)}"

        def program(port: int) -> Program:
            command = nats_server.command(port, self._data_dir / NATS, name)
            return Program(NATS, tuple(command), self._log(NATS))

        return Kind(
            NATS,
            nats_server.STANDARD_PORT,
            nats_server.ADDRESS_TAKEN,
            program,
            lambda port: nats_server.answers(port, name),
        )

    def _postgres_kind(self, cluster: postgres.Postgres) -> Kind:
        account = cluster.account

        def program(port: int) -> Program:
            return Program(
                POSTGRES,
                tuple(cluster.command(port)),
                self._log(POSTGRES),
                clean_environment(os.environ),
                uid=account.pw_uid if account else KEEP_USER,
                gid=account.pw_gid if account else KEEP_USER,
                stop_signal=signal.SIGINT,
                orphan_signal=signal.SIGINT,
            )

        async def ready(_: int) -> bool:
            return cluster.is_ready(self._supervisor.pids[POSTGRES])

        return Kind(POSTGRES, postgres.STANDARD_PORT, postgres.ADDRESS_TAKEN, program, ready)

    def _candidates(self, kind: Kind) -> Iterable[int]:
        for port in self._ports.candidates(kind.name, kind.standard_port):
            if port != kind.standard_port:
                self._tell(f"port {kind.standard_port} is taken: {kind.name} listens on {port}")
            yield port

    def _log(self, name: str) -> Path:
        return self._data_dir / "logs" / f"{name}.log"

    async def _start(self, kind: Kind, ports: Iterable[int]) -> int:
        """Starts a server on the first port that stays free; returns the port."""
        words = ""
        for port in ports:
            await self._supervisor.start(kind.program(port))
            if await self._came_up(kind, port):
                self._ports.remember(kind.name, port)
                return port
            words = self._supervisor.dying_words(kind.name)
            await self._supervisor.stop([kind.name], within=1)
            if kind.address_taken not in words:
                break
        raise ServerDown(f"{kind.name} does not start; it said:\n{words}\nThe whole log: {self._log(kind.name)}")

    async def _came_up(self, kind: Kind, port: int) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WITHIN):
                while not self._supervisor.deaths(kind.name):
                    if await kind.ready(port):
                        return True
                    await asyncio.sleep(0.01)
        return False


def _opened(cluster: postgres.Postgres, folders: Iterable[Path]) -> str:
    assert cluster.account is not None
    return (
        f"Postgres refuses to run as root, so it runs as {cluster.account.pw_name}; "
        f"this user alone may now pass through (getfacl shows it): {', '.join(map(str, folders))}"
    )
