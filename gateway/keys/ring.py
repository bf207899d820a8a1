"""All API keys, as every gateway has them in memory: a revoked key is refused a moment later."""

import asyncio
from datetime import datetime

import structlog
from pydantic import ValidationError

from bus import Bus
from bus.bucket_copy import BucketCopy
from contracts import ApiKey, utc_now
from contracts import subjects as s
from contracts.keys import digest

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20


class KeyRing:
    def __init__(self, bus: Bus) -> None:
        self._copy = BucketCopy(bus, s.KEYS_BUCKET, max_bytes=MAX_BYTES, changed=self._read)
        self._keys: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}
        self._unreadable: set[str] = set()

    async def keep(self) -> None:
        """Follows the keys until cancelled."""
        await self._copy.keep()

    async def known_within(self, seconds: float) -> bool:
        """Waits up to so many seconds until the keys are read; returns whether they are."""
        try:
            async with asyncio.timeout(seconds):
                await self._copy.known.wait()
        except TimeoutError:
            return False
        return True

    @property
    def is_known(self) -> bool:
        """Whether the keys have been read."""
        return self._copy.known.is_set()

    def exist(self) -> bool:
        """Whether a key was ever made. A revoked key counts: its owner did not mean to let every caller in."""
        return bool(self._copy.values)

    def find(self, secret: str, now: datetime | None = None) -> ApiKey | None:
        """The valid key with this secret; None: there is none."""
        key = self._keys.get(digest(secret))
        if key is None or key.revoked_at is not None:
            return None
        return None if key.expires_at is not None and key.expires_at <= (now or utc_now()) else key

    def with_id(self, key_id: str) -> ApiKey | None:
        """The key with that id, valid or not."""
        return self._by_id.get(key_id)

    def _read(self) -> None:
        """Reads all keys anew. An entry that cannot be read lets no caller in."""
        keys: dict[str, ApiKey] = {}
        for name, value in self._copy.values.items():
            try:
                keys[name] = ApiKey.model_validate_json(value)
            except ValidationError:
                if name not in self._unreadable:
                    log.warning("key_unreadable", digest=name[:12])
                    self._unreadable.add(name)
        self._keys = keys
        self._by_id = {key.key_id: key for key in keys.values()}
