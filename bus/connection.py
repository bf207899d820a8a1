"""One connection to the mesh: connect, publish, request, subscribe, notice a deaf connection, close in order.

A process whose connection is closed for good sets `lost` and must exit; its supervisor starts it again (crash-only).
Until then the client reconnects for ever, with jitter.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Any

import structlog
from nats import errors as nats_errors
from nats.aio.client import Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from bus.backoff import Backoff
from bus.errors import BusError, BusUnreachable, NoResponders, RequestTimeout
from bus.headers import Headers, read_headers
from bus.inbox import Inbox, Listener
from bus.lean_nats import allow_web_sockets
from bus.once import Once
from bus.patched_client import PatchedClient
from bus.permission_errors import OnDenied, PermissionErrors
from bus.server_address import read
from bus.settings import BusSettings
from bus.standstill import Standstill
from bus.tasks import Tasks
from bus.unreachable import explain
from bus.watchdog import prove, watch
from contracts import BullpenError, ErrorCode, new_id

log = structlog.get_logger(__name__)

PING_INTERVAL = 5
CONNECT_TIMEOUT = 2
PENDING_BYTES = 8 << 20
"""Bytes that may wait while the server is away; beyond that publishing fails instead of filling the memory."""
LONGEST_SUBJECT = 2048
"""Characters of a subject and its reply subject together: a server closes the connection of a client that sends a
longer line (4 KB).
"""
HEADER_FRAME = len(b"NATS/1.0\r\n\r\n")
FIRST_CONNECT = Backoff(0.5, 0.5)
RECONNECT = Backoff(0.8, 3.0)
"""Seconds between two tries to reconnect, with jitter: three hundred workers that lost the same server must not return
in the same instant.
"""
AT_ONCE = 20_000
"""Messages of one subscription that are handled at the same time."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the bus; `reply` is empty when its sender expects no answer."""

    subject: str
    data: bytes
    reply: str
    headers: Headers

    @property
    def no_responders(self) -> bool:
        """Whether this is the server's message that the subject has no subscriber."""
        return not self.data and self.headers.get("Status") == "503"


Handler = Callable[[Message], Awaitable[None]]


class Subscription:
    """A subscription to a subject. `drain` stops new messages and waits for those that have arrived."""

    def __init__(self, client: PatchedClient, nats: NatsSubscription, tasks: Tasks) -> None:
        self._client = client
        self._nats = nats
        self._tasks = tasks

    async def stop(self) -> None:
        """Ends the subscription; messages that have arrived are still handled."""
        try:
            await self._nats.drain()
        except nats_errors.Error as error:
            log.debug("unsubscribe_failed", error=repr(error))
        finally:
            self._client.forget_tap(self._nats)

    async def drain(self) -> None:
        """Ends the subscription and waits until every handler has finished."""
        await self.stop()
        await self._tasks.finished()


class Bus:
    """A connection to the NATS servers. Make it with `Bus.connect`."""

    def __init__(self, name: str, settings: BusSettings) -> None:
        self.name = name
        self.settings = settings
        self.lost = asyncio.Event()
        """Set when the connection is closed for good: the process must exit, and its supervisor starts it again."""
        self.reconnects = 0
        self.reconnected_at = -inf
        """When the connection was last made again (loop's clock); -inf: never."""
        self.on_reconnect: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._client = self._new_client()
        self._inbox: Inbox[Message] = Inbox(f"{settings.inbox_prefix}.{new_id().replace('-', '')}")
        self._permission_errors = PermissionErrors(self._inbox.wildcard)
        self._tasks = Tasks(f"bus:{name}")
        self._standstill = Standstill(self.prove)
        self._established = False
        self._closing = False
        self._slow = 0
        self._told = Once()

    @classmethod
    async def connect(
        cls,
        name: str,
        settings: BusSettings,
        *,
        patience: float = 0.0,
        stop: asyncio.Event | None = None,
        watchdog: bool = True,
    ) -> "Bus":
        """Connects; tries again for `patience` seconds when no server answers, unless `stop` is set meanwhile.

        Wrong credentials and certificates are errors at once. Raises `BusUnreachable`.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while True:
            bus = cls(name, settings)
            try:
                await bus._connect()
            except BusUnreachable as error:
                late = loop.time() >= end or (stop is not None and stop.is_set())
                if late or error.hopeless:
                    raise
                await asyncio.sleep(FIRST_CONNECT.wait(1))
            else:
                if watchdog:
                    bus._tasks.start(watch(bus._client, bus._inbox, name), "watchdog")
                bus._standstill.watch()
                return bus

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return self._client.max_payload

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    @property
    def connection_id(self) -> str | None:
        """The connection's name in the server's events, `<server id>:<client number>`; None while disconnected."""
        return self._client.connection_id

    @property
    def in_cluster(self) -> bool:
        """Whether the connected server may have peers."""
        return self._client.in_cluster

    @property
    def unreadable(self) -> int:
        """Messages dropped because a part that must be UTF-8 was not."""
        return self._client.poisoned

    @property
    def nats(self) -> PatchedClient:
        """The NATS client, for the other modules of `bus/`."""
        return self._client

    def check_size(self, data: bytes, headers: Headers | None = None) -> None:
        """Raises `BullpenError(payload_too_large)` when the server would not take this message.

        The size is counted to the byte, as the server does: it closes the connection of a client that sends more, for
        good.
        """
        size = len(data)
        if headers is not None:
            characters = len("".join((*headers, *headers.values())))
            if size + HEADER_FRAME + 4 * (characters + len(headers)) <= self.max_payload:
                return  # as UTF-8 no character has more than four bytes
            size += HEADER_FRAME + sum(len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
        if size > self.max_payload:
            raise BullpenError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"the message has {size} bytes, the server takes {self.max_payload}",
            )

    async def publish(self, subject: str, data: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Publishes. Raises `BullpenError(payload_too_large)`, `BusError` when it cannot be sent."""
        self.check_size(data, headers)
        if len(subject) + len(reply) > LONGEST_SUBJECT:
            raise BusError(
                f"cannot publish on {subject[:64]}…: the server takes no subject of {len(subject)} characters"
            )
        if not self._standstill.is_proved:
            await self._standstill.until_proved()
        try:
            await self._client.publish(subject, data, reply=reply, headers=headers)
        except nats_errors.OutboundBufferLimitError as error:
            raise BusError(
                f"cannot publish on {subject}: the server is away, and {PENDING_BYTES >> 20} MiB wait for it"
            ) from error
        except (nats_errors.Error, OSError) as error:
            raise BusError(f"cannot publish on {subject}: {error!r}") from error

    def publish_soon(self, subject: str, data: bytes) -> None:
        """Publishes a message that may be lost, without waiting: it is dropped when the server is away or takes no
        more.
        """
        if len(data) > self.max_payload or not self._client.post(subject, data):
            log.debug("not_published", name=self.name, subject=subject, size=len(data))

    async def request(self, subject: str, data: bytes, *, timeout: float, headers: Headers | None = None) -> Message:
        """Publishes a request and waits for its one answer. Raises `NoResponders`, `RequestTimeout`, `Denied`, and the
        errors of `publish`.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        with (
            self.listen(lambda message: None if answer.done() else answer.set_result(message)) as listener,
            self.when_denied(subject, lambda error: None if answer.done() else answer.set_exception(error)),
        ):
            await self.publish(subject, data, reply=listener.subject, headers=headers)
            try:
                async with asyncio.timeout(timeout):
                    message = await answer
            except TimeoutError:
                raise RequestTimeout(f"no answer on {subject} within {timeout:g} s") from None
        if message.no_responders:
            raise NoResponders(f"no subscriber on {subject}")
        return message

    def listen(self, callback: Callable[[Message], None], of: str = "") -> "Listener[Message]":
        """Opens a private inbox: calls `callback` with each message, in order, at once. Close it after use.

        `of`: the one kind of sender (a backend) that the server may allow to write to this part of the inbox.
        """
        return self._inbox.open(callback, of)

    def when_denied(self, subject: str, on_denied: OnDenied) -> AbstractContextManager[None]:
        """While it is open, calls `on_denied` when the server refuses a message that this process publishes to the
        subject. Raises `Denied`.
        """
        return self._permission_errors.watch(subject, on_denied)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Calls `handler` for each message, each in a task of its own (so their order is not kept)."""
        tasks = Tasks(f"{self.name}:{subject}")
        free = asyncio.Semaphore(AT_ONCE)

        async def handled(message: Message) -> None:
            try:
                await handler(message)
            finally:
                free.release()

        async def received(msg: Msg) -> None:
            await free.acquire()
            tasks.start(handled(Message(msg.subject, msg.data, msg.reply, msg.headers or {})), subject)

        try:
            nats = await self._client.subscribe(subject, queue=queue, cb=received)
        except nats_errors.Error as error:
            raise BusError(f"cannot subscribe to {subject}: {error!r}") from error
        return Subscription(self._client, nats, tasks)

    async def subscribe_inline(
        self, subject: str, callback: Callable[[Message], None], *, queue: str = ""
    ) -> Subscription:
        """Calls `callback` for each message, in order, as soon as it is read: for short, plain functions."""

        def received(at: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
            message = Message(at.decode(), data, reply.decode(), read_headers(headers))
            try:
                callback(message)
            except Exception:
                log.exception("handler_failed", subject=subject)

        try:
            nats = await self._client.tap(subject, received, queue=queue)
        except nats_errors.Error as error:
            raise BusError(f"cannot subscribe to {subject}: {error!r}") from error
        return Subscription(self._client, nats, Tasks(subject))

    async def flush(self, timeout: float = 2.0) -> None:
        """Returns when the server has everything that this connection published before. Raises `BusError`."""
        if not self._client.is_connected:
            raise BusError("cannot flush: the server is away")
        try:
            await self._client.flush(timeout=max(1, round(timeout)))
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise BusError(f"cannot flush: {error!r}") from error

    async def prove(self) -> None:
        """Returns when the server has answered on this connection, or when a silent connection has been replaced."""
        await prove(self._client, self._inbox, self.name)

    async def close(self) -> None:
        """Sends what is still buffered and disconnects. Never `drain()`: that would close the inbox for replies
        first.
        """
        self._closing = True
        self._standstill.close()
        await self._tasks.cancel()
        if self._client.is_connected:
            try:
                await self.flush()
            except BusError as error:
                log.debug("flush_failed", error=str(error))
        await self._client.close()

    async def _connect(self) -> None:
        servers = [address.url for address in self.settings.addresses()]
        failure: Exception | None = None
        for server in random.sample(servers, len(servers)):
            try:
                await self._connect_to(server)
            except (OSError, nats_errors.Error, TimeoutError, ValueError) as error:
                failure = self._client.last_error or error
                await self._client.close()
                if explain(failure, self.settings).hopeless:
                    break
                self._client = self._new_client()
            else:
                # Only now: a first connect that may "reconnect" hides wrong credentials for two minutes.
                self._client.set_server_pool(servers)
                self._client.options.update(allow_reconnect=True, max_reconnect_attempts=-1)
                await self.subscribe_inline(self._inbox.wildcard, self._inbox.deliver)
                self._established = True
                return
        raise explain(failure, self.settings) from failure

    def _new_client(self) -> PatchedClient:
        return PatchedClient(tls_only=self.settings.tls_only, login_at=self.settings.login_at)

    async def _connect_to(self, server: str) -> None:
        settings = self.settings
        if server.startswith("ws"):
            allow_web_sockets()
        login = settings.login_at(read(server).place)
        options: dict[str, Any] = {
            "user": login.user,
            "password": login.password,
            "token": login.token,
            "user_credentials": settings.creds_file,
            "nkeys_seed": settings.nkey_seed_file,
            "tls": settings.tls(),
        }
        await self._client.connect(
            servers=[server],
            name=self.name,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT,
            inbox_prefix=settings.inbox_prefix,  # JetStream's answers too arrive in the private inbox
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES,
            flush_timeout=2,
            reconnect_to_server_handler=next_server,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_closed,
            **{key: value for key, value in options.items() if value is not None},
        )

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, nats_errors.SlowConsumerError):
            self._slow += 1
            if self._slow.bit_count() == 1:  # at 1, 2, 4, 8 …: one per message would drown the log
                log.warning("slow_consumer", name=self.name, subject=error.subject, dropped=self._slow)
        elif "permissions violation" in str(error).lower():
            if self._told.first(str(error)):
                log.error("bus_denied", name=self.name, error=str(error), cure="check the role's permissions")
            self._permission_errors.heard(str(error))
        elif self._established and not self.lost.is_set() and (refusal := explain(error, self.settings)).hopeless:
            log.error("bus_refused", name=self.name, error=str(refusal), cure="exiting to be restarted")
            self.lost.set()
        else:
            log.debug("bus_error", name=self.name, error=repr(error))

    async def _on_disconnect(self) -> None:
        self._permission_errors.forget()
        if self._established and not self._closing:
            log.warning("bus_disconnected", name=self.name, servers=self.settings.where)

    async def _on_reconnect(self) -> None:
        self.reconnects += 1
        self.reconnected_at = asyncio.get_running_loop().time()
        log.info("bus_reconnected", name=self.name, reconnects=self.reconnects)
        for callback in self.on_reconnect:
            self._tasks.start(callback(), "on_reconnect")

    async def _on_closed(self) -> None:
        if self._established and not self._closing:
            log.error("bus_lost", name=self.name, error=repr(self._client.last_error), cure="exiting to be restarted")
            self.lost.set()


def next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """Chooses the server to try next, and the seconds to wait before.

    The choice is one of the servers that failed least: a frozen server takes seconds to fail, and its peer may be well.
    """
    fewest = min(server.reconnects for server in servers)
    server = random.choice([server for server in servers if server.reconnects == fewest])  # noqa: S311 — no secret
    return server, RECONNECT.wait(fewest + 1)
