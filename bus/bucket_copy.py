"""A copy of a whole bucket in memory, for values that every request reads and that seldom change.

A write to the bucket is a plain message, so the copy gets it as soon as the bucket has it. The copy also reads the
bucket at its start, after every reconnect and every ten seconds, because a message may be lost and a write refused.
Without JetStream the copy stays as it was.
"""

import asyncio
from collections.abc import Callable

import structlog

from bus.connection import Bus
from bus.errors import BusError
from bus.kv import Bucket

log = structlog.get_logger(__name__)

READ_EVERY = 10.0
LOOK_AGAIN = 1.0
"""Seconds until a bucket that could not be read is tried again."""
READ_WITHIN = 2.0


class BucketCopy:
    def __init__(self, bus: Bus, name: str, *, max_bytes: int, changed: Callable[[], None] = lambda: None) -> None:
        """`changed`: called after every change of `values`."""
        self._bus = bus
        self._name = name
        self._max_bytes = max_bytes
        self._changed = changed
        self._written: set[str] = set()
        """Keys that were written while the bucket was read: the value that was read may be older."""
        self.values: dict[str, bytes] = {}
        self.known = asyncio.Event()
        """Set once the bucket has been read."""

    async def keep(self) -> None:
        """Keeps the copy up to date. Runs until it is cancelled."""
        bucket: Bucket | None = None
        again = asyncio.Event()

        async def reconnected() -> None:
            again.set()

        self._bus.on_reconnect.append(reconnected)
        while True:
            again.clear()
            pause = LOOK_AGAIN
            try:
                if bucket is None:
                    bucket = await Bucket.open(self._bus, self._name, max_age_s=0, max_bytes=self._max_bytes)
                    await bucket.follow_all(self._hear)
                await self._read(bucket)
                pause = READ_EVERY
            except BusError as error:
                log.debug("bucket_not_read", bucket=self._name, error=str(error))
            try:
                async with asyncio.timeout(pause):
                    await again.wait()
            except TimeoutError:
                continue

    async def _read(self, bucket: Bucket) -> None:
        self._written.clear()
        read = {key: found.value for key, found in (await bucket.everything(within=READ_WITHIN)).items()}
        heard = {key: self.values[key] for key in self._written if key in self.values}
        values = {key: value for key, value in {**read, **heard}.items() if value}
        if values != self.values or not self.known.is_set():
            self.values = values
            self.known.set()
            self._changed()

    def _hear(self, key: str, value: bytes) -> None:
        self._written.add(key)
        self.values = {**self.values, key: value}
        self._changed()
