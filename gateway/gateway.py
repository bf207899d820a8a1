"""The gateway: an HTTP server whose handlers are clients of the mesh.

It uses aiohttp's server without its application, so a request passes no middleware, router or access log. When a client
leaves, its handler is cancelled, and so is the request to the mesh.
"""

import asyncio
from collections.abc import Callable

import structlog
from aiohttp.web import Server

from bus import Bus, BusError, BusSettings, Tasks
from bus.role_status import Figure, RoleStatus
from bus.service import Service, package_version, serve_info
from bus.tasks import first_of
from client import Bullpen, Roster
from client.client import GATEWAY_SERVICE
from config.loader import ConfigError
from config.watched_file import ConfigFile, differing
from contracts import subjects as s
from gateway.api.access import Access
from gateway.api.api import Api, Examine
from gateway.api.books import Books
from gateway.api.watching import Watch
from gateway.config import CANNOT_LISTEN, GatewayConfig
from gateway.connection import Connection, serving
from gateway.keys import Callers, KeyRing, SharedUse
from gateway.models import GONE_AFTER, Models
from gateway.routes import Routes, StatusPage
from gateway.serving import Answering

log = structlog.get_logger(__name__)

START_PATIENCE = 30.0
AT_START = ("listen", "keys", "processes", "share_port")
"""Settings whose changes need a restart."""
KEYS_WITHIN = 5.0
"""Seconds in which the keys should be read at the start."""
HEARTBEATS = 1.2
"""Seconds in which every worker has sent a heartbeat: clients may then use the names of their models."""
BACKLOG = 1024
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class Gateway:
    def __init__(
        self,
        bus: Bus,
        config: GatewayConfig,
        gateway_id: str,
        pages: Callable[[str], StatusPage],
        *,
        config_file: ConfigFile[GatewayConfig] | None = None,
        examine: Examine | None = None,
    ) -> None:
        """`config_file`: followed; a change counts from the next request on. `examine`: the doctor, for the page."""
        self._examine = examine
        self._bus = bus
        self._config = config
        self._file = config_file
        self._id = gateway_id
        self._bullpen = Bullpen(bus)
        self._pages = pages
        self._answering: Answering | None = None
        self._listens = False
        self._ring = KeyRing(bus)
        self._tasks = Tasks(gateway_id)
        self._server: Server | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set or the connection is lost for good; then finishes the requests under way."""
        books = Books(self._bus)
        async with self._bullpen.roster() as roster, Watch.kept(self._bullpen, roster, books) as watch:
            self._tasks.start(self._ring.keep(), "keys")
            await asyncio.gather(asyncio.sleep(HEARTBEATS), self._check_keys())
            models = Models(roster, self._config.aliases, self._config.unknown_model == "auto")
            callers = Callers(self._ring, self._config.keys, SharedUse(self._bus))
            await callers.listen()
            answering = self._answering = Answering(self._bullpen, models, callers, self._config)
            access = Access(self._ring, lambda: self._config)
            api = Api(self._bullpen, access, watch, books, self._examine)
            routes = Routes(answering, models, self._pages, api)
            server = self._server = Server(serving(routes.handle), handler_cancellation=True)
            listening = await self._listen(server)
            try:
                url = _url(listening.sockets[0].getsockname())
                await serve_info(self._bus, self._service(url))
                self._listens = True
                log.info("gateway_ready", gateway_id=self._id, url=url)
                self._tasks.start(self._follow(answering, models), "config")
                await self._until(stop, roster)
            finally:
                self._listens = False
                listening.close()
                watch.end()
                await answering.finish(self._config.drain_within)
                await self._tasks.cancel()
                await server.shutdown(0.5)

    async def _check_keys(self) -> None:
        """Refuses to listen beyond loopback without a key, unless the settings allow it. Raises `ConfigError`."""
        known = self._config.keys == "off" or await self._ring.known_within(KEYS_WITHIN)
        if self._config.keys != "auto" or self._config.is_loopback or (known and self._ring.exist()):
            return
        why = "there is no API key" if known else "the API keys cannot be read from JetStream"
        raise ConfigError(
            f"{self._config.listen} can be reached from elsewhere, and {why}: make one with `bullpen keys create`, or "
            "say with `bullpen gateway --no-keys` that everybody may ask"
        )

    async def _follow(self, answering: Answering, models: Models) -> None:
        """Follows the config file until cancelled; an invalid file changes nothing."""
        while self._file is not None:
            await self._file.changed()
            try:
                told = await self._file.read()
            except ConfigError as error:
                log.error("config_refused", reason=str(error))
                continue
            late = [field for field in AT_START if getattr(told, field) != getattr(self._config, field)]
            config = told.model_copy(update={field: getattr(self._config, field) for field in AT_START})
            if changed := differing(self._config, config):
                self._config = config
                answering.reconfigure(config)
                models.reconfigure(config.aliases, config.unknown_model == "auto")
                log.info("config_changed", changed=changed)
            if late:
                log.warning("config_needs_restart", fields=late, cure="restart this gateway")

    async def _listen(self, server: Server) -> asyncio.Server:
        """Listens for clients. Raises `ConfigError` when the address is in use, or not this machine's."""
        host, port = self._config.address
        loop = asyncio.get_running_loop()

        def connected() -> asyncio.Protocol:
            if len(server.connections) >= self._config.max_connections:
                return _Full()
            return Connection(
                server,
                loop=loop,
                keepalive_timeout=self._config.idle_timeout,
                headers_within=self._config.headers_within,
            )

        try:
            return await loop.create_server(
                connected, host, port, backlog=BACKLOG, reuse_port=self._config.share_port or None
            )
        except OSError as error:
            cure = "set another one with BULLPEN_GATEWAY__LISTEN, or `listen` in gateway/config.yaml"
            raise ConfigError(f"{CANNOT_LISTEN} {self._config.listen}: {error.strerror or error}; {cure}") from None

    async def _until(self, stop: asyncio.Event, roster: Roster) -> None:
        """Waits for the end; meanwhile forgets workers without heartbeats."""
        now = asyncio.get_running_loop().time

        async def forget() -> None:
            while True:
                await asyncio.sleep(GONE_AFTER / 10)
                roster.forget(now() - GONE_AFTER)

        forgetting = asyncio.create_task(forget())
        try:
            await first_of(stop, self._bus.lost)
        finally:
            forgetting.cancel()

    def _service(self, url: str) -> Service:
        return Service(
            name=GATEWAY_SERVICE,
            id=self._id,
            version=package_version(),
            description="Answers HTTP in the dialects that programs speak",
            metadata={"url": url},
        )

    def why_not_ready(self) -> str:
        """Why this gateway serves no request now; empty: it serves."""
        if not self._bus.is_connected:
            return "the connection to NATS is away"
        return "" if self._listens else "leaving, or not started yet"

    def figures(self) -> "tuple[Figure, ...]":
        """The figures for `/metrics`."""
        connected = Figure("nats_connected", "1: the connection to NATS is there", self._bus.is_connected)
        connections = len(self._server.connections) if self._server is not None else 0
        open_now = Figure("http_connections", "Connections of clients", connections)
        return (connected, open_now, *(self._answering.figures() if self._answering is not None else ()))


class _Full(asyncio.Protocol):
    """Answers that there are too many connections, and closes this one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(FULL)
        transport.close()


def _url(address: tuple[str, int]) -> str:
    host, port, *_ = address
    if host in ("0.0.0.0", "::"):  # noqa: S104 — for people on this machine
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def run(
    settings: BusSettings,
    config: GatewayConfig,
    *,
    gateway_id: str,
    stop: asyncio.Event,
    pages: Callable[[str], StatusPage],
    status: RoleStatus | None = None,
    config_file: ConfigFile[GatewayConfig] | None = None,
    examine: Examine | None = None,
) -> None:
    """Runs one gateway until `stop` is set. `pages`: the contents of `/healthz`, `/readyz` and `/metrics`.

    `config_file`: the file of `config`, which is followed. `examine`: the doctor's findings, for the live page.

    Raises `BusUnreachable`, `ConfigError`; `BusError` when the connection was lost for good.
    """
    if not s.is_name(gateway_id):
        raise ConfigError(f"{gateway_id!r} is not a gateway's id: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    bus = await Bus.connect(f"gateway:{gateway_id}", settings, patience=START_PATIENCE, stop=stop)
    try:
        gateway = Gateway(bus, config, gateway_id, pages, config_file=config_file, examine=examine)
        if status is not None:
            status.why_not, status.figures = gateway.why_not_ready, gateway.figures
        await gateway.run(stop)
        if bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
    finally:
        await bus.close()
