"""The connections that exist now, as the NATS servers know them.

The request goes to `$SYS.REQ.ACCOUNT.PING.CONNZ`, which every account imports: it needs no credentials of the system
account and shows only this account's connections. Each server of a cluster answers for its own connections, in pages.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from pydantic_core import from_json, to_json

from bus.connection import Bus, Message
from bus.errors import BusError

log = structlog.get_logger(__name__)

SUBJECT = "$SYS.REQ.ACCOUNT.PING.CONNZ"
PAGE = 1000
"""Connections in one answer of a server; a thousand are about half a megabyte."""
MOST_PAGES = 100


class Page(NamedTuple):
    """One server's answer."""

    names: frozenset[str]
    ids: frozenset[str]
    """As `Bus.connection_id` has them."""
    total: int
    """All connections of that server, whether or not this page lists them."""


async def connected(bus: Bus, within: float = 0.5) -> frozenset[str] | None:
    """The names of all connections of this account, the caller's own among them; None when no server answers.

    `within`: seconds that the servers of a cluster have for each page of 1,000 connections. A server that is slower, or
    lost, is missing with all its connections. So a missing name proves that a connection is gone only when its client
    is also silent.
    """
    pages = await _all(bus, within)
    return None if pages is None else frozenset[str]().union(*(page.names for page in pages))


async def is_connected(bus: Bus, connection_id: str, within: float = 0.5) -> bool:
    """Whether a server says that it has this connection. `within`: as for `connected`."""
    return any(connection_id in page.ids for page in await _all(bus, within) or ())


async def _all(bus: Bus, within: float) -> Sequence[Page] | None:
    """Every server's pages; None when no server answers."""
    pages: list[Page] = []
    for number in range(MOST_PAGES):
        answers = await _ask(bus, number * PAGE, within)
        if not answers:
            return None
        pages += answers
        if max(answer.total for answer in answers) <= (number + 1) * PAGE:
            break
    return pages


async def _ask(bus: Bus, offset: int, within: float) -> Sequence[Page]:
    """One page from each server. A server that is not in a cluster is not waited for once it has answered."""
    answers: list[Page] = []
    enough = asyncio.Event()

    def heard(message: Message) -> None:
        if (page := _read(message)) is not None:
            answers.append(page)
        if message.no_responders or not bus.in_cluster:
            enough.set()

    with bus.listen(heard) as inbox:
        try:
            await bus.publish(SUBJECT, to_json({"limit": PAGE, "offset": offset}), reply=inbox.subject)
            async with asyncio.timeout(within):
                await enough.wait()
        except TimeoutError:
            pass  # every server that answers has answered
        except BusError as error:
            log.debug("connected_clients_unknown", error=str(error))
    return answers


def _read(message: Message) -> Page | None:
    try:
        answer = from_json(message.data)
        server, data = answer["server"]["id"], answer["data"]
        names = frozenset(connection.get("name", "") for connection in data["connections"])
        ids = frozenset(f"{server}:{connection['cid']}" for connection in data["connections"])
        return Page(names - {""}, ids, int(data["total"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # an error, or no server's answer at all
