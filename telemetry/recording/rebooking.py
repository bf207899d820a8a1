"""Books events from `dead_letters` again: after an upgrade that can read them, for example.

The event is booked and its dead letter deleted in one transaction, so no event is lost or booked twice.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from telemetry.recording.entries import by_table, read, rewritten
from telemetry.store import LetterKey, RowsRefused, Store

BATCH = 100
BEFORE_ALL = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(eq=False, slots=True)
class KeptLetter:
    """An event in `dead_letters`."""

    stream_seq: int
    digest: bytes
    created_at: datetime
    subject: str
    reason: str
    data: bytes
    """The event as it came, as far as the books may keep it."""

    @property
    def key(self) -> LetterKey:
        return LetterKey(self.stream_seq, self.digest)


async def kept_letters(store: Store, *, most: int | None = None) -> AsyncIterator[KeptLetter]:
    """The dead letters, oldest first. Raises `DatabaseAway`."""
    last = BEFORE_ALL, -1, b""
    told = 0
    while rows := await store.fetch("dead_letters", *last, BATCH):
        for row in rows:
            if told == most:
                return
            told += 1
            yield KeptLetter(*row)
        last = rows[-1]["created_at"], rows[-1]["stream_seq"], rows[-1]["digest"]


async def rebook(store: Store, letter: KeptLetter) -> str:
    """Books all events of a dead letter and deletes it. Returns why that failed; empty: done. Raises `DatabaseAway`."""
    entries, unbookable = read([letter])
    if unbookable:
        return unbookable[0].reason
    if not entries:
        return "there is nothing to book in it"
    refusal = ""
    for forms in (entries, map(rewritten, entries)):
        try:
            await store.save(by_table(forms), booked=[letter.key])
        except RowsRefused as error:
            refusal = str(error)
        else:
            return ""
    return refusal
