"""How messages travel: connection, calls, service discovery, JetStream. The only importer of nats-py."""

from bus import lean_nats  # noqa: F401 — before anything imports nats-py
from bus.connection import Bus, Message, Subscription
from bus.errors import BusError, BusUnreachable, Denied, NoResponders, RequestTimeout
from bus.headers import Headers
from bus.inbox import Listener
from bus.inbox_reply import InboxReply
from bus.reply import Reply
from bus.settings import BusSettings
from bus.tasks import Tasks

__all__ = [
    "Bus",
    "BusError",
    "BusSettings",
    "BusUnreachable",
    "Denied",
    "Headers",
    "InboxReply",
    "Listener",
    "Message",
    "NoResponders",
    "Reply",
    "RequestTimeout",
    "Subscription",
    "Tasks",
]
