"""The whole mesh on this machine: `bullpen up`, and the fixture of the tests.

It starts the servers first, then the roles, each as a process that is restarted when it dies. It is ready when every
role has said so. A server that the environment names (`NATS_URL`, `DATABASE_URL`) is used instead of our own. Read
`start` and `stop` for the order.
"""

import asyncio
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import structlog

from bullpen import given_key
from bullpen.embedded import EmbeddedError, ServerDown, clean_environment
from bullpen.settings_dir import VARIABLE, kept_keys, role_config, settings_dir
from bullpen.supervision import endpoints as endpoints_file
from bullpen.supervision.endpoints import Endpoints
from bullpen.supervision.lock import Lock
from bullpen.supervision.ports import Ports, is_free
from bullpen.supervision.process import role_command
from bullpen.supervision.readiness import MeshWatch
from bullpen.supervision.servers import NATS, POSTGRES, Servers
from bullpen.supervision.silence import SilentWorker
from bullpen.supervision.status_server import nth_address
from bullpen.supervision.store_watch import StoreWatch
from bullpen.supervision.supervisor import Death, Program, Supervisor
from bus import Bus, BusError, BusSettings, Tasks
from bus.backoff import Backoff
from config.loader import load_config, secret
from gateway.config import CANNOT_LISTEN, GatewayConfig
from workers.base.interface.discovery import find

log = structlog.get_logger(__name__)

ROLES_WITHIN = 60.0
"""Seconds in which the roles have to be ready."""
DATABASE_AGAIN = Backoff(1.0, 60.0)
SLOW_WORKERS = 20.0
"""Seconds after which the mesh is ready if one worker serves, though others are still loading."""
CRASH_LOOP = 3
"""Deaths before it was ready after which a process is given up."""
ROLES_LEAVE, NATS_LEAVES, POSTGRES_LEAVES = 2.5, 0.5, 1.5
"""Seconds that each gets to stop in order: less than 5 in all."""
ROLE_RESTARTS = 35.0
"""Seconds that a role gets to finish its requests when it is restarted: a little more than its own time-out."""
KEYS_TO_OTHER_SERVERS = (
    *("NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE", "NATS_CREDS"),
    *("NATS_NKEY_SEED_FILE", "NATS_CA_FILE", "NATS_INBOX_PREFIX"),
)
"""Variables for other servers. Our own server on loopback needs none of them, and would refuse some."""
SIBLINGS = "BULLPEN_SIBLINGS"
"""Tells a worker how many of its backend run here: those that use this machine's processors share them."""

TELEMETRY, GATEWAY = "telemetry-1", "gateway-1"


class MeshError(Exception):
    """The mesh cannot start; the message says why and what to do."""


class Mesh:
    """`async with Mesh(data_dir, workers=[("simulated", 2)]) as mesh:` … `mesh.endpoints`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: Sequence[tuple[str, int]] = (),
        added: Sequence[tuple[str, str, Path | None]] = (),
        managers: int = 1,
        nats_port: int | None = None,
        postgres: bool = True,
        http: bool = False,
        http_port: int | None = None,
        api_key: str | None = None,
        drain_within: float = 0.0,
        env: Mapping[str, str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
        doing: Callable[[str], None] = lambda step: None,
    ) -> None:
        """`workers`: backend (name or path) and number. `added`: backend, worker id and config of each. `http`: whether
        to start a gateway, at its standard port or another one. `api_key`: a secret that the gateway accepts.
        `drain_within`: seconds that answers under way get when the mesh stops.

        `tell` gets lines for people, `doing` the step under way.
        """
        self.data_dir = data_dir.resolve()
        self._workers = _numbered(workers)
        self._configs = {worker_id: config for _, worker_id, config in added if config is not None}
        self._workers |= {worker_id: backend for backend, worker_id, _ in added}
        self._managers = managers
        self._nats_port = nats_port
        self._environment = {**os.environ, **(env or {}), "BULLPEN_DATA_DIR": str(self.data_dir)}
        self._environment[VARIABLE] = str(settings_dir(self.data_dir).resolve())
        self._database_url = secret("DATABASE_URL", self._environment)
        self._own_postgres = postgres and self._database_url is None
        self._http = http
        self._http_port = http_port
        self._http_url: str | None = None
        self._api_key = api_key
        self._drain_within = drain_within
        self.lacks_key = False
        """Whether the gateway refuses all callers, because there is no API key."""
        self._tell = tell
        self._doing = doing
        self._supervisor = Supervisor(self._on_start, self._on_death)
        self._servers = Servers(self.data_dir, self._supervisor, tell, doing)
        self._lock: Lock | None = None
        self._watch: MeshWatch | None = None
        self._tasks = Tasks("mesh")
        self._nats_url = ""
        self._roles_started = 0
        self._began: set[str] = set()
        """The processes that were started at least once."""
        self._ready = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def endpoints(self) -> Endpoints:
        """The addresses, and the present processes."""
        return Endpoints(
            nats_url=self._nats_url,
            database_url=self._database_url,
            http_url=self._http_url,
            pids=self._supervisor.pids,
            silent_since=self._silent_since(),
        )

    def _silent_since(self) -> dict[str, float]:
        silent = {} if self._watch is None else self._watch.silent()
        return {worker_id: round(time.time() - seconds, 3) for worker_id, seconds in silent.items()}

    def pid(self, name: str) -> int:
        """The process id of `manager-1`, `worker-simulated-2`, `telemetry-1`, `nats` or `postgres`."""
        return self._supervisor.pids[name]

    @property
    def workers(self) -> frozenset[str]:
        """The ids of the workers that this mesh keeps running."""
        return frozenset(self._workers)

    def workers_of(self, backend: str) -> list[str]:
        """The ids of the workers of this backend."""
        return [worker_id for worker_id, name in self._workers.items() if find(name).name == backend]

    async def add_worker(self, backend: str, worker_id: str, config: Path | None) -> None:
        """Starts one more worker; it joins when it is ready."""
        self._workers[worker_id] = backend
        if config is not None:
            self._configs[worker_id] = config
        self._follow_workers()
        await self._start_worker(worker_id)

    async def remove_worker(self, worker_id: str) -> None:
        """Stops one worker for good, in order."""
        self._workers.pop(worker_id)
        self._configs.pop(worker_id, None)
        self._began.discard(f"worker-{worker_id}")
        self._follow_workers()
        self._forget_silence(f"worker-{worker_id}")
        await self._supervisor.stop([f"worker-{worker_id}"], ROLE_RESTARTS)
        self._write_endpoints()

    def _follow_workers(self) -> None:
        if self._watch is not None:
            self._watch.worker_ids = frozenset(self._workers)

    async def restart(self, name: str) -> None:
        """Stops a process in order, starts it again at once, and returns when it is ready.

        When several processes of a role are restarted one after the other, no request is lost. Raises `MeshError` when
        it does not get ready.
        """
        if name in (NATS, POSTGRES):
            await self._supervisor.restart(name)
        else:
            await self._supervisor.restart(name, ROLE_RESTARTS)
            await self._until_back(name)

    async def start(self) -> None:
        """Returns when everything is ready; on failure everything is stopped again.

        Raises `MeshError`, `EmbeddedError`, `AlreadyRunning`, `BusUnreachable`.
        """
        make_data_dir(self.data_dir)
        self._take_data_dir()
        try:
            await _all_of(self._start_serving(), self._find_books())
            await self._start_telemetry()
            await self._until_ready()
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        self._write_endpoints()

    async def stop(self) -> None:
        """Stops the roles, then NATS, then Postgres. A second call does nothing.

        Takes less than 5 s, and up to `drain_within` seconds more while answers are under way.
        """
        self._ready = False
        await self._tasks.cancel()
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        await self._stop_roles()
        await self._supervisor.stop([NATS], NATS_LEAVES)
        await self._supervisor.stop([POSTGRES], POSTGRES_LEAVES)
        if self._lock is not None:
            endpoints_file.forget(self.data_dir)
            self._lock.release()
            self._lock = None

    async def _stop_roles(self) -> None:
        """Stops all roles at once. With time to drain, stops gateways first, then Managers, then the others, so that
        each still gets its answers.
        """
        now = asyncio.get_running_loop().time
        end = now() + self._drain_within
        asking = [GATEWAY], [name for name in self._supervisor.pids if name.startswith("manager-")]
        for roles in asking if self._drain_within else ():
            await self._supervisor.stop(roles, max(end - now(), ROLES_LEAVE))
        await self._supervisor.stop(self._supervisor.pids.keys() - {NATS, POSTGRES}, max(end - now(), ROLES_LEAVE))

    def kill(self) -> None:
        """Kills every process at once, after a second Ctrl-C."""
        self._supervisor.kill()

    def _take_data_dir(self) -> None:
        """Locks the data directory. Raises `AlreadyRunning`, and `MeshError` when nothing can be written there."""
        try:
            self._lock = Lock(self.data_dir)
            endpoints_file.forget(self.data_dir)
            self._lock.sign()
        except OSError as error:
            if self._lock is not None:
                self._lock.release()
                self._lock = None
            why = f"{self.data_dir} cannot be written ({error.strerror})"
            raise MeshError(f"{why}: free some space, or choose another --data-dir") from None

    # The order of things

    async def _start_serving(self) -> None:
        """Starts NATS, Managers and workers: what is needed to answer."""
        await self._find_nats()
        self._watch = await MeshWatch.open(BusSettings.from_environment(self._environment), self._tell)
        self._watch.worker_ids = frozenset(self._workers)
        self._look_after_store(self._watch)
        self._tasks.start(self._watch.keep_looking(self._on_silence), "silence")
        for number in range(1, self._managers + 1):
            await self._start_role(f"manager-{number}", "manager", "--id", f"manager-{number}")
        for worker_id in self._workers:
            await self._start_worker(worker_id)
        if self._http:
            await self._start_gateway(self._watch)

    async def _start_worker(self, worker_id: str) -> None:
        backend, config = self._workers[worker_id], self._configs.get(worker_id)
        arguments = ["worker", backend, "--id", worker_id, *(["--config", str(config)] if config else [])]
        siblings = {SIBLINGS: str(len(self.workers_of(find(backend).name)))}
        keys = kept_keys(self._environment, self.data_dir)
        await self._start_role(f"worker-{worker_id}", *arguments, **siblings, **keys)

    async def _start_gateway(self, watch: MeshWatch) -> None:
        """Starts the gateway at the first free port, and finds its address. Raises `MeshError`, `ConfigError`."""
        config = load_config(GatewayConfig, "gateway", role_config("gateway"), self._environment)
        host, standard = config.address
        await self._keep_given_key(watch.bus)
        ports = Ports(self.data_dir)
        if self._http_port is not None and not is_free(self._http_port):
            raise MeshError(f"port {self._http_port} is taken: choose another one for HTTP (--port-http)")
        for port in [self._http_port] if self._http_port else ports.candidates(GATEWAY, standard):
            listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            await self._start_role(GATEWAY, "gateway", "--id", GATEWAY, BULLPEN_GATEWAY__LISTEN=listen)
            if await self._came_up(watch, GATEWAY):
                if port != standard and self._http_port is None:
                    self._tell(f"port {standard} is taken: HTTP is at {port}")
                ports.remember(GATEWAY, port)
                self._http_url = await watch.http_url(GATEWAY)
                self.lacks_key = config.keys == "required" and not await given_key.any_is_there(watch.bus)
                return
            words = self._supervisor.dying_words(GATEWAY)
            await self._supervisor.stop([GATEWAY], within=1)
            if CANNOT_LISTEN not in words:
                break
        raise MeshError(f"{GATEWAY} does not start; it said:\n{self._last_words(GATEWAY)}")

    async def _keep_given_key(self, bus: Bus) -> None:
        """Makes the API key that was given. Raises `MeshError`."""
        if self._api_key is None:
            return
        try:
            self._tell(await given_key.keep(bus, self._api_key))
        except BusError as error:
            raise MeshError(f"{given_key.VARIABLE} cannot be kept: {error}") from None

    async def _came_up(self, watch: MeshWatch, name: str) -> bool:
        """Waits for a process; returns whether it answered before it died. Raises `MeshError` when it does neither."""
        began = asyncio.get_running_loop().time()
        while not await watch.answers(name):
            if self._supervisor.deaths(name):
                return False
            await self._wait_for([name], began)
        return True

    async def _find_books(self) -> None:
        """Starts our own database. If that fails, it is tried again later: answers do not wait for the books."""
        if not self._own_postgres:
            return
        self._environment = clean_environment(self._environment)
        try:
            self._database_url = await self._servers.start_postgres()
        except ServerDown as error:
            self._tell(f"{error}\nNo books until it does; answers go on, and it is tried again")
            self._tasks.start(self._keep_finding_books(), "books")

    async def _keep_finding_books(self) -> None:
        failures = 0
        while self._database_url is None:
            failures += 1
            await asyncio.sleep(DATABASE_AGAIN.ceiling(failures))
            try:
                self._database_url = await self._servers.start_postgres()
            except EmbeddedError as error:
                log.debug("no_database_yet", error=str(error))
        await self._start_telemetry()
        self._tell("the database runs now, and the books are kept")
        if self._ready:
            self._write_endpoints()

    async def _start_telemetry(self) -> None:
        if self._database_url is not None:
            await self._start_role(TELEMETRY, "telemetry", "--id", TELEMETRY, DATABASE_URL=self._database_url)

    def _look_after_store(self, watch: MeshWatch) -> None:
        ours = NATS in self._supervisor.pids
        folder = self.data_dir / NATS if ours else self.data_dir
        store = StoreWatch(watch.bus, folder, self._restart_nats if ours else None, self._tell)
        watch.on_refused = store.look_soon
        self._tasks.start(store.keep(), "store")

    async def _restart_nats(self) -> None:
        await self._supervisor.restart(NATS)

    async def _find_nats(self) -> None:
        self._nats_url = self._environment.get("NATS_URL") or ""
        if not self._nats_url:
            self._nats_url = await self._servers.start_nats(self._nats_port)
            for key in KEYS_TO_OTHER_SERVERS:
                self._environment.pop(key, None)
        self._environment["NATS_URL"] = self._nats_url

    async def _start_role(self, name: str, *arguments: str, **environment: str) -> None:
        if not self._ready:
            self._doing(f"starting {name}")
        command = (*role_command(), *arguments)
        status = nth_address(self._environment, self._roles_started)
        self._roles_started += 1
        whole = {**self._environment, **status, **environment}
        await self._supervisor.start(Program(name, command, self._log(name), whole))

    async def _until_ready(self) -> None:
        """Waits until every role is ready. It waits for slow models only as long as no worker can answer.

        An accountant without its database, or one that does not start, is reported and not waited for.
        """
        assert self._watch is not None
        watch, began = self._watch, asyncio.get_running_loop().time()
        managers = sorted(name for name in self._supervisor.pids if name.startswith("manager-"))
        while silent := [name for name in managers if not await watch.answers(name)]:
            await self._wait_for(silent, began)
        while TELEMETRY in self._supervisor.pids and not await self._books_are_told_of(watch, began):
            await self._wait_for([TELEMETRY], began)
        watch.listen_anew()  # the Managers hear heartbeats by now, so every later heartbeat reaches them too
        while watch.unheard() or self._is_worth_waiting(watch, began):
            await self._wait_for(watch.unheard(), began, watch.loading())
        for worker in watch.loading():
            self._tell(f"{worker}; it joins when it is done")

    async def _books_are_told_of(self, watch: MeshWatch, began: float) -> bool:
        """Whether the books are kept, or the reason why not has been reported."""
        if watch.missing(TELEMETRY) or await watch.answers(TELEMETRY):
            return True
        dies = self._supervisor.deaths(TELEMETRY) >= CRASH_LOOP
        if dies or asyncio.get_running_loop().time() - began >= ROLES_WITHIN:
            self._tell(f"no books yet: {TELEMETRY} {'keeps dying' if dies else 'is not ready'}; answers go on")
            self._tell(self._last_words(TELEMETRY))
            return True
        return False

    async def _until_back(self, name: str) -> None:
        """Waits until a role that was restarted is ready again."""
        assert self._watch is not None
        began, deaths = asyncio.get_running_loop().time(), self._supervisor.deaths(name)
        while not await self._watch.serves(name):
            late = asyncio.get_running_loop().time() - began > ROLES_WITHIN
            if late or self._supervisor.deaths(name) >= deaths + CRASH_LOOP:
                raise MeshError(f"{name} does not come back; it said:\n{self._last_words(name)}")
            await asyncio.sleep(0.05)

    def _is_worth_waiting(self, watch: MeshWatch, began: float) -> bool:
        within = SLOW_WORKERS if watch.serving() else ROLES_WITHIN
        return bool(watch.loading()) and asyncio.get_running_loop().time() - began < within

    async def _wait_for(self, silent: Sequence[str], began: float, loading: Sequence[str] = ()) -> None:
        self._check_hope(silent, asyncio.get_running_loop().time() - began)
        self._doing(f"waiting for {', '.join([*silent, *loading])}")
        await asyncio.sleep(0.05)

    def _check_hope(self, silent: Sequence[str], waited: float) -> None:
        """Raises `MeshError` when a role keeps dying, or has not answered for too long."""
        for name in self._supervisor.pids.keys() - {TELEMETRY}:
            if self._supervisor.deaths(name) >= CRASH_LOOP:
                raise MeshError(f"{name} keeps dying; it said:\n{self._last_words(name)}")
        if silent and waited > ROLES_WITHIN:
            words = "\n".join(self._last_words(name) for name in silent)
            raise MeshError(f"no word from {', '.join(silent)} within {ROLES_WITHIN:g} s:\n{words}")

    def _last_words(self, name: str) -> str:
        return f"{self._supervisor.dying_words(name)}\nThe whole log: {self._log(name)}"

    # What happens while it runs

    def _on_silence(self, worker_id: str, seconds: float | None) -> None:
        if not self._ready:
            return
        name = f"worker-{worker_id}"
        if seconds is None:
            self._tell(f"{name} is heard again")
        elif pid := self._supervisor.pids.get(name):
            silent = SilentWorker.of(worker_id, pid, seconds)
            self._tell(f"{name}: {silent.reason}; {silent.cure}")
        self._write_endpoints()

    def _on_start(self, name: str) -> None:
        self._forget_silence(name)
        if self._ready:
            self._write_endpoints()
            if name in self._began:
                self._tell(f"{name} was started again")
        self._began.add(name)

    def _write_endpoints(self) -> None:
        """Writes `endpoints.json`. A full disk must not keep a process from being restarted."""
        try:
            endpoints_file.write(self.endpoints, self.data_dir)
        except OSError as error:
            self._tell(f"endpoints.json is not up to date, it cannot be written: {error.strerror}")

    def _forget_silence(self, name: str) -> None:
        role, _, worker_id = name.partition("-")
        if self._watch is not None and role == "worker":
            self._watch.started_anew(worker_id)

    def _on_death(self, death: Death) -> None:
        self._forget_silence(death.name)
        if self._ready or death.name not in (NATS, POSTGRES):  # a server's start has its own story, of ports
            self._tell(f"{death.name} {death.how}; starting it again")

    def _log(self, name: str) -> Path:
        return self.data_dir / "logs" / f"{name}.log"


def make_data_dir(data_dir: Path) -> None:
    """Makes the directory and the one for logs. Raises `MeshError` when nothing can be written there."""
    logs = data_dir / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        if not os.access(logs, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise MeshError(f"{data_dir} cannot be written ({error.strerror}): choose another --data-dir") from None


def _numbered(workers: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Worker ids, each with its backend (a name or a path). Folders of one name are numbered together."""
    named, seen = {}, Counter[str]()
    for backend, count in workers:
        for _ in range(count):
            seen[name := find(backend).name] += 1
            named[f"{name}-{seen[name]}"] = backend
    return named


async def _all_of(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all of them at the same time. The first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
