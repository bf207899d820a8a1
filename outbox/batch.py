"""Many events in one message: events of one subject, as a JSON array.

A single event is sent as it is, a JSON object. So a program that reads the stream one event at a time still can on a
mesh with few requests. Each event is one line of the array, so that the accountant can split it without parsing.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Generic, TypeVar

from pydantic_core import from_json, to_json

from outbox.spool import Event

MOST_EVENTS = 256
MOST_BYTES = 64 << 10
"""Bytes of the events in one message. A larger event is sent alone."""
BETWEEN = b",\t\n"
"""The separator of events: a comma, and blanks that no other writer of JSON puts there."""

T = TypeVar("T")


class Batches(Generic[T]):
    """Events that wait to be sent, by subject, in order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[T, int]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (one for waiting in self._waiting.values() for one, _ in waiting)

    @property
    def is_full(self) -> bool:
        """Whether a message cannot become larger by waiting for more events."""
        return self._count >= MOST_EVENTS

    def put(self, subject: str, one: T, size: int) -> None:
        """Adds an event of `size` bytes."""
        self._waiting.setdefault(subject, deque()).append((one, size))
        self._count += 1

    def take(self) -> list[T]:
        """The events of one subject for the next message; empty when none waits. Subjects take turns."""
        subject = next(iter(self._waiting), None)
        if subject is None:
            return []
        waiting = self._waiting.pop(subject)
        one, size = waiting.popleft()
        taken = [one]
        while waiting and len(taken) < MOST_EVENTS and size + waiting[0][1] <= MOST_BYTES:
            one, more = waiting.popleft()
            taken.append(one)
            size += more
        if waiting:
            self._waiting[subject] = waiting
        self._count -= len(taken)
        return taken

    def oldest(self) -> T | None:
        """The first event of the subject whose turn is next."""
        return next(iter(self), None)

    def remove(self, subject: str) -> None:
        """Removes the first event of this subject."""
        waiting = self._waiting[subject]
        waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._waiting[subject]


def portions(events: Sequence[Event]) -> Iterator[list[Event]]:
    """All events, divided into messages of one subject each."""
    batches: Batches[Event] = Batches()
    for event in events:
        batches.put(event.subject, event, len(event.body))
    while batch := batches.take():
        yield batch


def packed(events: Sequence[Event]) -> bytes:
    """The body of the message with these events."""
    if len(events) == 1:
        return events[0].body
    return b"[" + BETWEEN.join(event.body for event in events) + b"]"


def unpacked(body: bytes) -> list[bytes]:
    """The events of a message, each as a JSON object. A body that is no array is one event.

    An array by another writer is split, too; one that cannot be parsed stays whole.
    """
    if not body.lstrip().startswith(b"["):
        return [body]
    ours = body[1:-1].split(BETWEEN)
    if len(ours) > 1 and all(event[:1] == b"{" and event[-1:] == b"}" for event in ours):
        return ours
    try:
        return [to_json(event) for event in from_json(body)] or [body]
    except ValueError:
        return [body]


def batch_id(events: Sequence[Event]) -> str:
    """The message id. The same events have the same id, so the stream drops a message that is sent twice."""
    if len(events) == 1:
        return events[0].message_id
    return sha256(" ".join(event.message_id for event in events).encode()).hexdigest()
