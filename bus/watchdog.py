"""Notices that a connection is dead or deaf although the client calls itself connected.

Once a second the connection publishes to its own inbox. Without an echo it reconnects: a read loop may have died, a
server may be frozen, or a firewall may have dropped the connection. A connection that is only busy gets its echo late,
behind earlier messages; it is left alone as long as messages move.
"""

import asyncio
from contextlib import suppress
from typing import TypeVar

import structlog
from nats import errors as nats_errors

from bus.inbox import HasSubject, Inbox
from bus.patched_client import PatchedClient

log = structlog.get_logger(__name__)

ECHO_INTERVAL = 1.0
ECHO_WAIT = 0.5
ECHO_TRIES = 20
"""Waits for the echo while other messages still move: a busy connection is not deaf."""

M = TypeVar("M", bound=HasSubject)


async def watch(client: PatchedClient, inbox: Inbox[M], name: str) -> None:
    """Checks the connection every second until it is cancelled."""
    while True:
        await asyncio.sleep(ECHO_INTERVAL)
        await prove(client, inbox, name)


async def prove(client: PatchedClient, inbox: Inbox[M], name: str) -> None:
    """Returns when the server has sent an echo, or when a connection without echo has been replaced."""
    heard = asyncio.Event()
    with inbox.open(lambda _: heard.set()) as echo:
        if client.is_connected and not await _echoes(client, echo.subject, heard):
            log.warning("bus_deaf", name=name, cure="reconnecting")
            await client.force_reconnect()


async def _echoes(client: PatchedClient, subject: str, heard: asyncio.Event) -> bool:
    """Whether the echo came. Also true when the connection was lost meanwhile, and the echo with it: the next
    connection has no echo to wait for.
    """
    asked = client.connection_id
    try:
        await client.publish(subject, b"")
    except (nats_errors.Error, OSError):
        return client.connection_id != asked
    quiet = 0
    for _ in range(ECHO_TRIES):
        before = client.traffic
        with suppress(TimeoutError):
            async with asyncio.timeout(ECHO_WAIT):
                await heard.wait()
        if heard.is_set() or client.connection_id != asked:
            return True
        quiet = 0 if client.traffic.moved_since(before) else quiet + 1
        if quiet == 2:  # once may be: after a blocked event loop the timer wakes before the message is read
            return False
    return False
