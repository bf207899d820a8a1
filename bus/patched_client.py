"""nats-py's client, made to survive what was found to kill it (nats-py 2.16; re-check when it moves).

* One message whose subject, reply or status line is not UTF-8 raises inside the read loop, which then
  ends while `is_connected` stays true: the process is deaf without noticing. Here such a message is
  counted and dropped.
* A `flush()` that was cancelled or timed out leaves a finished future behind; the next PONG trips over
  it and ends the read loop in the same silent way.
* `flush()` writes its PING past what still waits to be written, so its PONG can come before the server has read
  any of that. Here what waits goes first.
* A login in an address is sent as it stands there, `%40` for `@`, and is not said to other servers of the cluster. Here
  it is decoded, and said to all of them.
* `tls://` to a server that offers no TLS, or does not insist on it, sends the password in the clear. Here it is TLS
  or nothing.
* A task that is cancelled while it publishes to a server that takes nothing goes on as if it had not been cancelled,
  and so does one whose `flush()` is over in the same instant (`asyncio.wait_for` of Python 3.11). Here it ends.
* An unforeseen exception ends reconnecting for ever. Here it begins again.
* A connection that was opened but never greeted (a frozen server) is forgotten without being closed, and one whose
  certificate was refused is waited for without end when the client is closed. Here such a one is dropped at once.
* Closing gives up half-way when unsent bytes cannot be sent. Here they are dropped, with a warning.
* When the server freezes, reconnecting first waits for the old socket to close, which can take
  minutes. Here the old socket is aborted after a second.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import Transport

from bus.server_address import Login

log = structlog.get_logger(__name__)

CLOSE_WITHIN = 1.0
"""Seconds an old connection may take to close before it is aborted."""
UNTAP_WITHIN = 1
AFTER_A_BUG = 1.0
"""Seconds until reconnecting starts again after an unforeseen exception."""


class Traffic(NamedTuple):
    """The traffic of a connection so far."""

    came: int
    """Messages received."""
    went: int
    """Bytes sent, without those that the protocol adds."""
    backlog: int
    """Bytes in the write buffer that the operating system has not taken yet."""

    def moved_since(self, before: "Traffic") -> bool:
        """Whether the connection is alive: messages came in, or waiting bytes went out. Bytes that did not have to wait
        prove nothing: the operating system takes them also for a frozen server.
        """
        return self.came != before.came or (before.backlog > 0 and self.went > before.went)


Tap: TypeAlias = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply subject, data and headers, as they are on the wire."""


class PatchedClient(Client):
    """A nats-py client whose read loop does not die silently."""

    def __init__(self, *, tls_only: bool = False, login_at: Callable[[str], Login] | None = None) -> None:
        """`login_at`: returns the login for the server at `host:port`."""
        super().__init__()
        self._login_at = login_at
        self.poisoned = 0
        """Messages dropped because they could not be read."""
        self._tls_only = tls_only
        self._taps: dict[int, Tap] = {}

    @property
    def in_cluster(self) -> bool:
        return "cluster" in self._server_info

    @property
    def connection_id(self) -> str | None:
        """The connection's name in the server's own events: `<server id>:<client number>`; None while disconnected."""
        server = self._server_info.get("server_id")
        return f"{server}:{self.client_id}" if self.is_connected and server and self.client_id else None

    @property
    def traffic(self) -> "Traffic":
        writer = _writer(self._transport)
        backlog = writer.transport.get_write_buffer_size() if writer is not None else 0
        return Traffic(self.stats["in_msgs"], self.stats["out_bytes"] - self._pending_data_size - backlog, backlog)

    async def tap(self, subject: str, callback: "Tap", *, queue: str = "") -> Subscription:
        """Calls `callback` for each message of the subject as soon as it is read: without a queue, a task or a limit.

        Raises `nats.errors.Error`.
        """
        subscription = await self.subscribe(subject, queue=queue, cb=_nothing)
        self._taps[subscription._id] = callback
        return subscription

    async def untap(self, subscription: Subscription) -> None:
        """Ends a tap, and returns when the messages on their way have been handed over. Raises `nats.errors.Error`,
        `TimeoutError`.
        """
        await subscription.unsubscribe()
        try:
            if self.is_connected:
                await self.flush(timeout=UNTAP_WITHIN)
        finally:
            self._taps.pop(subscription._id, None)

    def post(self, subject: str, data: bytes) -> bool:
        """Adds a message to those that are sent next, without waiting. False: too many bytes wait already."""
        if not self.is_connected or self._flush_queue is None or self._pending_data_size > self._max_pending_size:
            return False
        command = b"PUB %b  %d\r\n%b\r\n" % (subject.encode(), len(data), data)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(data)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    def forget_tap(self, subscription: Subscription) -> None:
        """Drops the callback of a subscription that has ended."""
        self._taps.pop(subscription._id, None)

    async def publish_many(self, subjects: Sequence[str], data: bytes) -> None:
        """Sends the same data to all subjects, in one write. Raises the errors of `publish`."""
        if not subjects:
            return
        *others, last = subjects
        size = len(data)
        commands = b"".join(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), size, data) for subject in others)
        if commands and self.is_connected:
            self.stats["out_msgs"] += len(others)
            self.stats["out_bytes"] += size * len(others)
            await self._send_command(commands)
        elif commands:
            for subject in others:
                await self.publish(subject, data)
        await self.publish(last, data)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        tap = self._taps.get(sid)
        try:
            if tap is not None:
                self.stats["in_msgs"] += 1
                self.stats["in_bytes"] += len(data)
                tap(subject, reply, data, headers)
                return
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:
            self.poisoned += 1
            log.warning("message_unreadable", error=repr(error), dropped=self.poisoned)

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        return self.msg_class(
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        if self.is_connected and self._pending and self._transport is not None:
            self._transport.writelines(self._pending)
            self._pending = []
            self._pending_data_size = 0
        await super()._send_ping(future)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if not force_flush:
            return await super()._flush_pending()
        with _cancellation_kept():
            return await super()._flush_pending(force_flush)

    async def flush(self, timeout: int = 10) -> None:
        with _cancellation_kept():
            await super().flush(timeout)

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    def _connect_command(self) -> bytes:
        if self._login_at is not None and self._current_server is not None:
            login = self._login_at(self._current_server.uri.netloc)
            self.options.update(user=login.user, password=login.password, token=login.token)
        return super()._connect_command()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._tls_only and initial_connection and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise nats_errors.SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Srv) -> None:
        _abort(_writer(self._transport))
        self._transport = None
        await super()._connect_to_server(s)

    async def force_reconnect(self) -> None:
        """Leaves a server that does not answer; its peers are tried first."""
        if self._current_server is not None:
            self._current_server.reconnects += 1
        await super().force_reconnect()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            _abort(_writer(self._transport))
            self._transport = None
            raise

    async def _attempt_reconnect(self) -> None:
        told = False
        while True:
            _abort_later(self._transport)
            try:
                await super()._attempt_reconnect()
            except Exception as error:
                if not told:  # once for each time that the server is away: the same again would drown the log
                    log.warning("reconnecting_failed", error=repr(error), again_every_s=AFTER_A_BUG)
                    log.debug("reconnecting_failed", exc_info=error)
                told = True
                await asyncio.sleep(AFTER_A_BUG)
                self._status = Client.RECONNECTING
            else:
                return

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        _abort_later(self._transport)
        try:
            await super()._close(status, do_cbs)
        except (OSError, RuntimeError) as error:  # uvloop raises the latter
            log.warning("unsent", bytes=self._pending_data_size, error=repr(error))
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super()._close(status, do_cbs)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            # Not we were cancelled, but another task that waited for this connection's end, and with it the future.
            _abort(_writer(self._transport))
            self._transport, self._status = None, Client.DISCONNECTED
            await super()._close(status, do_cbs)


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Ends a task that was cancelled in the block, even if the block lost the cancellation."""
    task = asyncio.current_task()
    requests = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > requests:
        raise asyncio.CancelledError


async def _nothing(message: Msg) -> None:
    """Does nothing: it keeps the queue of a tapped subscription empty."""


def _abort_later(transport: Transport | None) -> None:
    """Aborts this connection after `CLOSE_WITHIN` seconds if it has not closed by then.

    The writer is remembered, not the transport: nats-py puts the next connection into the same transport object.
    """
    asyncio.get_running_loop().call_later(CLOSE_WITHIN, _abort, _writer(transport))


def _abort(writer: asyncio.StreamWriter | None) -> None:
    if writer is None:
        return
    with suppress(AttributeError):  # asyncio's transport has forgotten its loop when it closed with bytes to send
        writer.transport.abort()


def _writer(transport: Transport | None) -> asyncio.StreamWriter | None:
    return getattr(transport, "_io_writer", None)
