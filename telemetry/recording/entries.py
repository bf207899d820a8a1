"""Turns the events of a message into rows of their table, or finds out why they cannot be booked."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from contracts import AttemptRecord, FeedbackRecord, OpenModel, ResponseRecord, WorkerEventRecord
from contracts import subjects as s
from outbox.batch import unpacked
from telemetry.store import DeadLetter

TABLES: dict[str, tuple[str, type[OpenModel]]] = {
    s.TELEMETRY_RESPONSE: ("responses", ResponseRecord),
    s.TELEMETRY_ATTEMPT: ("attempts", AttemptRecord),
    s.TELEMETRY_FEEDBACK: ("feedback", FeedbackRecord),
    s.TELEMETRY_WORKER: ("worker_events", WorkerEventRecord),
}
"""The table for the events of a subject, and their record."""

FIELDS = {subject: len(record.model_fields) for subject, (_, record) in TABLES.items()}

NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
REPLACED = rb"\1\\ufffd"
REASON_CHARACTERS = 500


class QueuedMessage(Protocol):
    """The parts of a stream's message that are used here. It carries one event, or an array of events."""

    subject: str
    data: bytes

    @property
    def stream_seq(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as its role sent it."""

    message: QueuedMessage
    data: bytes

    @property
    def subject(self) -> str:
        return self.message.subject


@dataclass(frozen=True, slots=True)
class Booking:
    """One event, ready to be booked."""

    event: Event
    table: str
    row: bytes
    """The row: a JSON object whose keys are columns."""


@dataclass(frozen=True, slots=True)
class Unbookable:
    """An event that can never be booked."""

    event: Event
    reason: str

    @property
    def letter(self) -> DeadLetter:
        subject, reason = (text.replace("\0", "�") for text in (self.event.subject, self.reason))
        return DeadLetter(self.event.message.stream_seq, subject, reason, self.event.data)


def read(batch: Sequence[QueuedMessage]) -> tuple[list[Booking], list[Unbookable]]:
    """The events of the batch as rows, and those that cannot be read. A message that only checks the stream is left
    out.
    """
    entries: list[Booking] = []
    unbookable: list[Unbookable] = []
    for message in batch:
        if message.subject == s.TELEMETRY_CHECK:
            continue
        for event in [Event(message, data) for data in unpacked(message.data)]:
            try:
                entries.append(_entry(event))
            except KeyError:
                unbookable.append(Unbookable(event, "no such subject"))
            except ValidationError as error:
                unbookable.append(Unbookable(event, _reason(error)))
    return entries, unbookable


def parts(entries: Sequence[Booking], max_bytes: int) -> Iterator[Sequence[Booking]]:
    """The entries in portions of at most `max_bytes` bytes of rows (or one larger row); at least one portion."""
    start = size = 0
    for index, entry in enumerate(entries):
        size += len(entry.row)
        if size > max_bytes and index > start:
            yield entries[start:index]
            start, size = index, len(entry.row)
    yield entries[start:]


def by_table(entries: Iterable[Booking]) -> dict[str, list[bytes]]:
    """The rows by table, for `Store.save`."""
    tables: dict[str, list[bytes]] = {}
    for entry in entries:
        tables.setdefault(entry.table, []).append(entry.row)
    return tables


def rewritten(entry: Booking) -> Booking:
    """The same row as canonical JSON: Postgres may be stricter than pydantic with numbers and times."""
    _, record = TABLES[entry.event.subject]
    return _booked(entry.event, entry.table, record.model_validate_json(entry.event.data).to_bytes())


def _entry(event: Event) -> Booking:
    """Checks an event and returns its row. An event with all fields is passed on unchanged, which saves time.

    Raises `KeyError`, `ValidationError`.
    """
    table, record = TABLES[event.subject]
    read = record.model_validate_json(event.data)
    whole = len(read.model_fields_set) == FIELDS[event.subject]
    return _booked(event, table, event.data if whole else read.to_bytes())


def _booked(event: Event, table: str, row: bytes) -> Booking:
    # Postgres has no U+0000 in text; the event's own bytes keep it in the stream.
    return Booking(event, table, NUL.sub(REPLACED, row) if b"\\u0000" in row else row)


def _reason(error: ValidationError) -> str:
    """Which fields are wrong and why, without their values: prompts do not belong in logs."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    fields = (f"{'.'.join(map(str, detail['loc'])) or 'the event'}: {detail['msg']}" for detail in details)
    return "; ".join(fields)[:REASON_CHARACTERS]
