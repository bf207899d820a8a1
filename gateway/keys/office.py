"""Makes, lists, revokes and rotates API keys. A secret is shown once, to the maker of the key, and stored nowhere."""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Self

from pydantic import ValidationError

from bus import Bus
from bus.kv import Bucket
from contracts import ApiKey, BullpenError, ErrorCode, KeyBudget, KeyRole, utc_now
from contracts import subjects as s
from contracts.keys import digest
from gateway.keys.ring import MAX_BYTES

PREFIX = "bp-"
SECRET_BYTES, ID_BYTES = 32, 5
GIVEN = "given-"
"""Prefix of the id of a key whose secret came from outside."""
WITHIN = 2.0


class KeyOffice:
    """Make it with `KeyOffice.open`. Each method raises `BusError` when JetStream does not answer."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    @classmethod
    async def open(cls, bus: Bus) -> Self:
        return cls(await Bucket.open(bus, s.KEYS_BUCKET, max_age_s=0, max_bytes=MAX_BYTES))

    async def create(
        self,
        tenant: str,
        *,
        expires_at: datetime | None = None,
        models: tuple[str, ...] = (),
        rpm: int | None = None,
        tpm: int | None = None,
        budget: KeyBudget | None = None,
        role: KeyRole = "tenant",
    ) -> tuple[ApiKey, str]:
        """Makes a key; returns it with its secret."""
        key = ApiKey(
            key_id=f"key-{secrets.token_hex(ID_BYTES)}",
            tenant=tenant,
            created_at=utc_now(),
            expires_at=expires_at,
            models=models,
            rpm=rpm,
            tpm=tpm,
            budget=budget,
            role=role,
        )
        return key, await self._store(key)

    async def give(self, secret: str, tenant: str) -> ApiKey:
        """Makes a key with a given secret. It replaces the key that was made so before."""
        now = {"revoked_at": utc_now()}
        for at, key in await self._all():
            if at == digest(secret):
                return key
            if key.key_id.startswith(GIVEN) and key.revoked_at is None:
                await self._change(at, lambda key: key.model_copy(update=now))
        given = ApiKey(key_id=GIVEN + digest(secret)[: 2 * ID_BYTES], tenant=tenant, created_at=utc_now())
        await self._bucket.put(digest(secret), given.to_bytes(), after=0, within=WITHIN)
        return given

    async def keys(self) -> list[ApiKey]:
        """All keys, revoked ones included, oldest first."""
        return sorted((key for _, key in await self._all()), key=lambda key: key.created_at)

    async def revoke(self, key_id: str) -> ApiKey:
        """Revokes a key; a revoked key stays revoked. Raises `BullpenError` when there is no such key."""
        at, _ = await self._find(key_id)
        now = {"revoked_at": utc_now()}
        return await self._change(at, lambda key: key if key.revoked_at else key.model_copy(update=now))

    async def rotate(self, key_id: str, overlap: datetime | None = None) -> tuple[ApiKey, str]:
        """Makes a key with the same rights. The old key ends now, or at `overlap`. Raises as `revoke`."""
        at, old = await self._find(key_id)
        if old.revoked_at is not None:
            raise BullpenError(
                ErrorCode.INVALID_REQUEST, f"{key_id} is revoked: make a new key with `bullpen keys create`"
            )
        new, secret = await self.create(
            old.tenant,
            expires_at=old.expires_at,
            models=old.models,
            rpm=old.rpm,
            tpm=old.tpm,
            budget=old.budget,
            role=old.role,
        )
        ends = {"revoked_at": utc_now()} if overlap is None else {"expires_at": _sooner(old.expires_at, overlap)}
        await self._change(at, lambda key: key.model_copy(update=ends))
        return new, secret

    async def _store(self, key: ApiKey) -> str:
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        await self._bucket.put(digest(secret), key.to_bytes(), after=0, within=WITHIN)
        return secret

    async def _all(self) -> list[tuple[str, ApiKey]]:
        found = []
        for at, entry in (await self._bucket.everything(within=WITHIN)).items():
            try:
                found.append((at, ApiKey.model_validate_json(entry.value)))
            except ValidationError:
                continue  # deleted by hand, or of a version that we cannot read
        return found

    async def _find(self, key_id: str) -> tuple[str, ApiKey]:
        for at, key in await self._all():
            if key.key_id == key_id:
                return at, key
        raise BullpenError(ErrorCode.INVALID_REQUEST, f"there is no key {key_id}: `bullpen keys list` shows them")

    async def _change(self, at: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        def changed(value: bytes) -> tuple[bytes, ApiKey]:
            key = change(ApiKey.model_validate_json(value))
            return key.to_bytes(), key

        return await self._bucket.update(at, changed, within=WITHIN)


def _sooner(one: datetime | None, other: datetime) -> datetime:
    return other if one is None else min(one, other)
