"""Many events in one message: those of one subject, as a JSON array.

An event that goes alone goes as it is, a JSON object, so that whoever reads the stream one event at a time still can
where little happens. Each event stays one line of the array: whoever takes the books apart need not parse it for that.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Generic, TypeVar

from pydantic_core import from_json, to_json

from outbox.spool import Event

MOST_EVENTS = 256
MOST_BYTES = 64 << 10
"""Of one message. A larger event goes alone."""
BETWEEN = b",\t\n"
"""Between two events: a comma, and blanks that no other writer of JSON leaves there."""

T = TypeVar("T")


class Batches(Generic[T]):
    """What waits to be sent, by subject, in order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[T, int]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (one for waiting in self._waiting.values() for one, _ in waiting)

    @property
    def is_full(self) -> bool:
        """Whether waiting for more makes no message larger."""
        return self._count >= MOST_EVENTS

    def put(self, subject: str, one: T, size: int) -> None:
        """`size`: bytes."""
        self._waiting.setdefault(subject, deque()).append((one, size))
        self._count += 1

    def take(self) -> list[T]:
        """As many of one subject as go in one message; empty when none waits. Subjects take turns."""
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
        """The first of the subject that is next."""
        return next(iter(self), None)

    def remove(self, subject: str) -> None:
        """The first of this subject."""
        waiting = self._waiting[subject]
        waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._waiting[subject]


def portions(events: Sequence[Event]) -> Iterator[list[Event]]:
    """All of them, in messages."""
    batches: Batches[Event] = Batches()
    for event in events:
        batches.put(event.subject, event, len(event.body))
    while batch := batches.take():
        yield batch


def packed(events: Sequence[Event]) -> bytes:
    """The body of their message."""
    if len(events) == 1:
        return events[0].body
    return b"[" + BETWEEN.join(event.body for event in events) + b"]"


def unpacked(body: bytes) -> list[bytes]:
    """The events of a message, each as a JSON object. What is no array is one event, whatever it is.

    An array that was written by somebody else is taken apart, too; one that cannot be read stays whole.
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
    """The same for the same events, so that the stream drops a message that is sent twice."""
    if len(events) == 1:
        return events[0].message_id
    return sha256(" ".join(event.message_id for event in events).encode()).hexdigest()
