"""Events for the books: kept until JetStream has them, with private words removed before."""

from outbox.outbox import Outbox, OutboxSettings

__all__ = ["Outbox", "OutboxSettings"]
