"""Notices that a connection is dead or deaf while the client still calls itself connected.

Once a second the connection publishes to its own inbox. Without an echo it reconnects: a read loop may have died, a
server may be frozen, a firewall may have dropped the connection. A connection that is only busy gets its echo late,
behind all earlier messages; it is left alone as long as something moves.
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
"""How often to wait for the echo while other messages still come and go: busy is not deaf."""

M = TypeVar("M", bound=HasSubject)


async def watch(client: PatchedClient, inbox: Inbox[M], name: str) -> None:
    """Runs until it is cancelled."""
    while True:
        await asyncio.sleep(ECHO_INTERVAL)
        await prove(client, inbox, name)


async def prove(client: PatchedClient, inbox: Inbox[M], name: str) -> None:
    """Returns when the server has given an echo. A connection without one is made anew."""
    heard = asyncio.Event()
    with inbox.open(lambda _: heard.set()) as echo:
        if client.is_connected and not await _echoes(client, echo.subject, heard):
            log.warning("bus_deaf", name=name, cure="reconnecting")
            await client.force_reconnect()


async def _echoes(client: PatchedClient, subject: str, heard: asyncio.Event) -> bool:
    """Also true when the connection was lost meanwhile: the echo went with it, and the next one owes us none."""
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
