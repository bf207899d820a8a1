"""Real servers for tests, private to them: start, stop, kill -9, freeze, start again on the same port."""

import asyncio
import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import psutil

from bullpen.embedded import nats_server, postgres
from bullpen.supervision.leash import KEEP_USER, leashed
from tests.support import eventually, gone

NO_POWER_FAILURE = [word for name in ("fsync", "full_page_writes") for word in ("-c", f"{name}=off")]
"""What Postgres may leave out where processes are killed but no machine is."""
NOTHING_LEFT = ["-c", "dynamic_shared_memory_type=mmap"]
"""What it shares is in its own directory: one that is killed leaves half a megabyte in /dev/shm for ever otherwise."""

PORTS = range(10_000, 32_000)
"""Below those that the system gives to whoever connects: what is free now is free still when a server comes back."""
SHIPPED_PING, PINGS = 'ping_interval: "1s"', 3
"""Of the embedded NATS server: a client that answers none of so many in a row is cut off."""
PATIENT = 60.0
"""Seconds after which a server cuts off a client that says nothing, where no test is about that."""
_chance = random.SystemRandom()  # two runs of the tests have the same seed
_given: set[int] = set()


def free_port() -> int:
    """One that nobody listens on, and that was not given to anybody before."""
    while True:
        port = _chance.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class _Server:
    """A child process that dies with the tests."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.may_move = port is None
        """Nobody relies on the port yet."""
        self.process: subprocess.Popen[bytes] | None = None

    def _spawn(self, command: list[str], *, uid: int = KEEP_USER, gid: int = KEEP_USER) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                leashed(command, uid=uid, gid=gid), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    async def _ready(self, check: Callable[[], bool | Awaitable[bool]]) -> None:
        try:
            await eventually(check, timeout=40, every=0.002)
        except AssertionError:
            self.kill()
            raise AssertionError((self.directory / "log").read_text()) from None

    def send(self, number: signal.Signals) -> None:
        """For example SIGSTOP, to freeze it, and SIGCONT."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """kill -9. Returns when what it had started is gone too: Postgres does not start beside its orphans."""
        started = self._children()
        self._end(signal.SIGKILL)
        end = time.monotonic() + 30
        while not all(gone(process.pid) for process in started) and time.monotonic() < end:
            time.sleep(0.002)  # what has ended and waits for a slow init to take note is gone as well

    def _children(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class PlainNats(_Server):
    """A NATS server on loopback, as `config` says; without one it is as a stranger would start it."""

    def __init__(self, directory: Path, config: str = "", port: int | None = None) -> None:
        super().__init__(directory, port)
        self.config = config

    @property
    def url(self) -> str:
        return nats_server.url(self.port)

    @property
    def name(self) -> str:
        """Ours alone: another run of the tests may have been quicker to take the port."""
        return f"test-{os.getpid()}-{self.port}"

    async def start(self) -> None:
        self.process = self._spawn(self._command())
        if self.may_move and await self._is_taken():
            self.port = free_port()
            self.process = self._spawn(self._command())
        await self._ready(lambda: nats_server.answers(self.port, self.name))
        self.may_move = False

    async def _is_taken(self) -> bool:
        """Whether it ended at once, because somebody else was quicker."""
        assert self.process is not None
        process = self.process
        await self._ready(lambda: process.poll() is not None or nats_server.answers(self.port, self.name))
        return process.poll() is not None

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _command(self) -> list[str]:
        file = self.directory / "nats.conf"
        if not file.exists() or file.read_text() != self.config:  # its disk may be full by now
            file.write_text(self.config)
        address = ["--addr", "127.0.0.1", "--port", str(self.port), "--name", self.name]
        return [str(nats_server.binary()), "--config", str(file), *address]


class NatsServer(PlainNats):
    """The embedded NATS server: JetStream, account MESH without credentials, system events."""

    def __init__(self, directory: Path, port: int | None = None, *, cuts_off_after: float | None = None) -> None:
        """`cuts_off_after`: seconds after which it cuts off a client that stands still; None: as the embedded one."""
        config = nats_server.CONFIG.read_text()
        if cuts_off_after is not None:
            config = config.replace(SHIPPED_PING, f'ping_interval: "{round(1000 * cuts_off_after / PINGS)}ms"')
            assert SHIPPED_PING not in config
        super().__init__(directory, config, port)

    def _command(self) -> list[str]:
        return [*super()._command(), "--store_dir", str(self.directory / "jetstream")]


def nats_cluster(directory: Path, size: int = 3, config: str | None = None) -> list[PlainNats]:
    """Servers of one cluster, each configured as the embedded one unless `config` says otherwise. Not started."""
    config = nats_server.CONFIG.read_text() if config is None else config
    routes = [free_port() for _ in range(size)]
    urls = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    nodes = []
    for port in routes:
        home = directory / f"node-{port}"
        home.mkdir()
        own = f'cluster {{name: test, listen: "127.0.0.1:{port}", routes: [{urls}]}}\n'
        store = config.replace("jetstream {", f'jetstream {{\n  store_dir: "{home}"')
        nodes.append(PlainNats(home, store + own))
    return nodes


@cache
def _new_cluster() -> Path:
    """A cluster that was never started, to be copied; removed at the end of the tests."""
    directory = Path(mkdtemp(prefix="bullpen-tests-cluster-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    cluster = postgres.Postgres(directory / "postgres")
    cluster.prepare()
    return cluster.directory


def copy_cluster(directory: Path) -> None:
    """A new cluster, for a Postgres that finds none there: making each takes ten times as long."""
    subprocess.run(["cp", "-a", str(_new_cluster()), str(directory)], check=True)


class PostgresServer(_Server):
    """The embedded Postgres."""

    def __init__(self, directory: Path, port: int | None = None) -> None:
        super().__init__(directory, port)
        self.cluster = postgres.Postgres(directory / "postgres")

    @property
    def url(self) -> str:
        return self.cluster.url(self.port)

    def database(self, name: str) -> str:
        """The address of another database of this server."""
        return f"{self.url.rpartition('/')[0]}/{name}"

    async def start(self) -> None:
        await asyncio.to_thread(self._prepare)
        account = self.cluster.account
        process = self._spawn(
            [*self.cluster.command(self.port), *NO_POWER_FAILURE, *NOTHING_LEFT],
            uid=account.pw_uid if account else KEEP_USER,
            gid=account.pw_gid if account else KEEP_USER,
        )
        self.process = process
        await self._ready(lambda: self.cluster.is_ready(process.pid))

    def stop(self) -> None:
        self._end(signal.SIGINT)

    def _prepare(self) -> None:
        if not self.cluster.directory.exists():
            copy_cluster(self.cluster.directory)
        self.cluster.prepare()


class PgBouncer(_Server):
    """A pooler before one database of a Postgres, in transaction mode, with two connections for all."""

    def __init__(self, directory: Path, program: Path, server: PostgresServer, database: str) -> None:
        super().__init__(directory)
        self._program = program
        self._server = server
        self._database = database

    @property
    def url(self) -> str:
        return f"postgresql://{postgres.USER}@127.0.0.1:{self.port}/{self._database}"

    async def start(self) -> None:
        account = self._server.cluster.account
        config = self._server.cluster.directory / f"pgbouncer-{self.port}.ini"  # where the account may read
        config.write_text(self._config())
        self.process = self._spawn(
            [str(self._program), "-q", str(config)],
            uid=account.pw_uid if account else KEEP_USER,
            gid=account.pw_gid if account else KEEP_USER,
        )
        await self._ready(self._listens)

    def _config(self) -> str:
        server = (
            f"host=127.0.0.1 port={self._server.port} user={postgres.USER} password={self._server.cluster.password}"
        )
        return (
            f"[databases]\n{self._database} = dbname={self._database} {server}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        )

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True
