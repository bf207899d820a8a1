"""A stream of work whose messages stay until they are done, and a stream that stores the results for a week.

The first is a work queue: a message stays until it is acknowledged, even if any process of the mesh dies. The second is
read without a consumer: one request brings the next few hundred messages after a number. So a reader that lost its
connection, or the server, asks again from its last message, and leaves nothing behind on the server.
"""

import asyncio
from dataclasses import dataclass
from hashlib import sha256

from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
from pydantic_core import to_json

from bus.acknowledgement import Acknowledgement
from bus.connection import Bus, Message
from bus.errors import BusError, NoResponders, RequestTimeout
from bus.headers import Headers
from bus.jetstream import StreamSpec
from contracts.headers import MESSAGE_ID

PAGE = 256
"""Messages that one request brings at most."""
READ_WITHIN = 5.0
LONGEST_ID = 128
"""Characters of the longest message id that is sent as it is; longer ids are replaced by a digest."""


@dataclass(frozen=True, slots=True)
class WorkQueue(StreamSpec):
    """A stream whose messages stay until they are acknowledged. A full stream refuses new ones."""

    def config(self) -> StreamConfig:
        config = StreamSpec.config(self)
        config.retention = RetentionPolicy.WORK_QUEUE
        return config


@dataclass(frozen=True, slots=True)
class Archive(StreamSpec):
    """A stream for looking up messages. A full stream drops its oldest messages."""

    def config(self) -> StreamConfig:
        config = StreamSpec.config(self)
        config.discard = DiscardPolicy.OLD
        config.allow_direct = True
        return config


@dataclass(frozen=True, slots=True)
class Receipt:
    """The stream has stored the message."""

    seq: int
    duplicate: bool
    """The stream had the message already."""


async def store(bus: Bus, stream: str, subject: str, data: bytes, headers: Headers, *, within: float) -> Receipt:
    """Publishes a message, and returns when the stream has stored it. Raises `BusError`,
    `BullpenError(payload_too_large)`.

    A message with a `Nats-Msg-Id` may be published again after an error: the stream stores it once.
    """
    reply = await bus.request(subject, data, timeout=within, headers=headers)
    ack = Acknowledgement.read(reply.data)
    if ack.error is not None:
        raise BusError(f"stream {stream} refuses it: {ack.error.description}")
    if ack.stream != stream:
        raise BusError(f"{subject} is kept by stream {ack.stream}, not by {stream}")
    return Receipt(ack.seq, ack.duplicate)


@dataclass(frozen=True, slots=True)
class ArchivedMessage:
    """A message as a stream keeps it."""

    seq: int
    subject: str
    headers: Headers
    data: bytes


class Unfinished(RequestTimeout):
    """A page of messages broke off: the server went away, or was too slow."""


async def read_after(
    bus: Bus, stream: str, subject: str, seq: int, *, page: int = PAGE, within: float = READ_WITHIN
) -> list[ArchivedMessage]:
    """The next messages on `subject` (wildcards allowed) after number `seq`, in order; an empty list when there are
    none.

    Raises `BusError`; `NoResponders` when there is no such stream.
    """
    found: list[ArchivedMessage] = []
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def heard(message: Message) -> None:
        if (at := message.headers.get("Nats-Sequence", "")).isdigit():
            found.append(
                ArchivedMessage(int(at), message.headers.get("Nats-Subject", ""), message.headers, message.data)
            )
        elif not ended.done():
            ended.set_result(message.headers.get("Status", ""))

    asked = to_json({"seq": seq + 1, "next_by_subj": subject, "batch": page})
    with bus.listen(heard) as listener:
        await bus.publish(f"$JS.API.DIRECT.GET.{stream}", asked, reply=listener.subject)
        try:
            async with asyncio.timeout(within):
                status = await ended
        except TimeoutError:
            raise Unfinished(f"stream {stream} was not read within {within:g} s") from None
    if status == "503":
        raise NoResponders(f"there is no stream {stream}, or it cannot be read")
    if status not in ("204", "404"):
        raise BusError(f"stream {stream} cannot be read: status {status or 'unknown'}")
    return found


def message_id(headers: Headers) -> str:
    """The publisher's own id of a message, printable and short enough for a header; empty when the message has none."""
    own = headers.get(MESSAGE_ID, "")
    if own.isascii() and own.isprintable() and len(own) <= LONGEST_ID:
        return own
    return sha256(own.encode()).hexdigest()
