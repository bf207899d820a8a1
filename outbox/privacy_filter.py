"""Removes private words from records before they leave this process, as the operator or the caller wants it.

This happens before an event reaches the outbox, so neither JetStream nor a spool nor Postgres ever sees more. Redaction
is slow. It runs on a thread, bounded in size and duration; when it fails the record carries digests instead, never the
words.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from secrets import token_bytes

import structlog
from pydantic_core import to_json

from config.loader import ConfigError
from contracts import ContentMode
from contracts.privacy import Recorded, as_digests, characters, digest, rewritten, stricter, without_words
from outbox.redaction import RedactionMissing, Redactor

log = structlog.get_logger(__name__)

LONGEST = 256 << 10
"""Characters of one record that may be redacted; of a longer record the books keep digests."""
MOST_WAITING = 4 << 20
"""Characters of all records that may wait for redaction; of further records the books keep digests."""
WITHIN = 5.0
KEY_BYTES = 32


class PrivacyFilter:
    """`most`: the most that the books may keep. Without `key` digests can only be compared within this process.

    Raises `ConfigError` when `most` is `redacted` and the libraries for it are missing.
    """

    def __init__(self, most: ContentMode = "full", key: bytes = b"") -> None:
        self._most = most
        self._key = key or token_bytes(KEY_BYTES)
        self._redactor: Redactor | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._warned = False
        if most == "redacted":
            try:
                self._redactor = Redactor()
            except RedactionMissing as error:
                raise ConfigError(f"content: redacted: {error}") from None

    def mode(self, wanted: ContentMode | None = None) -> ContentMode:
        """The stricter of the caller's mode and the operator's."""
        return stricter(self._most, wanted)

    async def kept(self, record: Recorded, wanted: ContentMode | None = None) -> Recorded:
        """The record as the books may have it. Never raises; only redaction takes time."""
        match self.mode(wanted):
            case "full":
                return record
            case "redacted":
                return await self._redacted(record)
            case "hash":
                return as_digests(record, self._key)
            case "none":
                return without_words(record)

    def unread(self, data: bytes) -> bytes:
        """Bytes that cannot be parsed, and so not redacted, as the books may have them: whole, or their number and
        perhaps a digest.
        """
        mode = self.mode()
        if mode == "full":
            return data
        summary = {"withheld_bytes": len(data)}
        return to_json(summary if mode == "none" else {**summary, "digest": digest(data, self._key)})

    async def _redacted(self, record: Recorded) -> Recorded:
        size = characters(record)
        if not size:
            return record  # an attempt without an error, a judgement without a comment
        if size > LONGEST or self._waiting + size > MOST_WAITING:
            return self._digested(record, "there is too much of it")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "redaction")
        self._waiting += size
        try:
            async with asyncio.timeout(WITHIN):
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._rewrite, record)
        except Exception as error:  # whatever it is, the words stay here
            missing = isinstance(error, RedactionMissing)
            return self._digested(record, str(error) if missing else type(error).__name__)
        finally:
            self._waiting -= size

    def _rewrite(self, record: Recorded) -> Recorded:
        """Redacts a record; runs on the thread. Raises `RedactionMissing`."""
        if self._redactor is None:
            self._redactor = Redactor()
        return rewritten(record, self._redactor)

    def _digested(self, record: Recorded, why: str) -> Recorded:
        if not self._warned:
            log.warning("not_redacted", reason=why, kept="digests instead")
        self._warned = True
        return as_digests(record, self._key)
