"""Who asks: the key in a request's headers, and what its owner may. Without keys, everybody on this machine."""

import asyncio
from collections.abc import Mapping
from typing import Literal

from config.bounded import Latest
from contracts import ApiKey, BullpenError, ErrorCode
from gateway.dialects import Refused
from gateway.keys.limits import Limits
from gateway.keys.ring import KeyRing
from gateway.keys.shared_use import SharedUse

BEARER = "bearer "
OTHER_HEADERS = ("x-api-key", "api-key")
"""Of Anthropic's and Azure's clients."""
COOKIE = "bullpen_key"
"""Where the page's browser keeps the key that somebody signed in with."""
PAGE_HEADER = "x-bullpen-page"
"""What our page sends with each request: a page of another site cannot, so only ours is believed a cookie."""
MOST_LIMITED = 10_000
"""Keys whose use is remembered."""
NO_KEY = "an API key is needed: send it as `Authorization: Bearer …`; `bullpen keys create` makes one"
WRONG_KEY = "this API key is unknown, revoked or expired"
UNKNOWN_KEYS = "the API keys cannot be read from JetStream yet; `keys: off` in gateway/config.yaml does without"


class Caller:
    """Whoever sent one request."""

    def __init__(
        self, key: ApiKey | None = None, limits: Limits | None = None, shared: SharedUse | None = None
    ) -> None:
        self._key = key
        self._limits = limits
        self._shared = shared

    @property
    def key_id(self) -> str:
        """Empty: there is no key."""
        return self._key.key_id if self._key is not None else ""

    @property
    def tenant(self) -> str | None:
        """None: as the request says."""
        return self._key.tenant if self._key is not None else None

    def may_ask(self, model: str) -> bool:
        """Whether a model of this name is for this caller."""
        return self._key is None or self._key.allows(model)

    def begin(self, answers: int) -> None:
        """So many answers are wanted. Raises `BullpenError(rate_limited)`."""
        if self._limits is None:
            return
        wait = self._limits.admit(answers, asyncio.get_running_loop().time())
        if wait:
            why = "this API key has asked for as much as it may in a minute"
            raise BullpenError(ErrorCode.RATE_LIMITED, why, retry_after_ms=max(1, round(wait * 1000)))
        if self._shared is not None:
            self._shared.add(self.key_id, requests=answers)

    def used(self, tokens: int) -> None:
        """Answers took so many tokens."""
        if self._limits is not None:
            self._limits.used(tokens, asyncio.get_running_loop().time())
            if self._shared is not None:
                self._shared.add(self.key_id, tokens=tokens)


class Callers:
    def __init__(self, ring: KeyRing, mode: Literal["auto", "required", "off"], shared: SharedUse) -> None:
        """`shared`: tells other gateways what keys use here, and hears what they use there."""
        self._ring = ring
        self._shared = shared
        self._mode = mode
        self._limits: Latest[str, tuple[ApiKey, Limits]] = Latest(MOST_LIMITED)

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Who sent a request with these headers. Raises `Refused` (401), `BullpenError(no_worker)`."""
        if self._mode == "off":
            return Caller()
        if not self._ring.is_known:
            raise BullpenError(ErrorCode.NO_WORKER, UNKNOWN_KEYS, retry_after_ms=1000)
        if self._mode == "auto" and not self._ring.exist():
            return Caller()
        secret = secret_of(headers) or (cookie_of(headers) if PAGE_HEADER in headers else "")
        if not secret:
            raise Refused(NO_KEY, None, 401, "invalid_api_key")
        key = self._ring.find(secret)
        if key is None:
            raise Refused(WRONG_KEY, None, 401, "invalid_api_key")
        return Caller(key, self._limits_of(key), self._shared)

    async def listen(self) -> None:
        """Counts from now on what keys use at other gateways. Raises `BusError`."""
        await self._shared.listen(self._used_elsewhere)

    def _used_elsewhere(self, key_id: str, requests: int, tokens: int) -> None:
        key = self._ring.with_id(key_id)
        limits = self._limits_of(key) if key is not None else None
        if limits is not None:
            limits.used_elsewhere(requests, tokens, asyncio.get_running_loop().time())

    def _limits_of(self, key: ApiKey) -> Limits | None:
        """Begun anew when the key's limits are others now."""
        if key.rpm is None and key.tpm is None:
            return None
        known = self._limits.get(key.key_id)
        if known is None or (known[0].rpm, known[0].tpm) != (key.rpm, key.tpm):
            known = self._limits[key.key_id] = (key, Limits(key.rpm, key.tpm))
        return known[1]


def secret_of(headers: Mapping[str, str]) -> str:
    """The key in a header of its own; empty: there is none."""
    told = headers.get("Authorization", "")
    if told.lower().startswith(BEARER):
        return told[len(BEARER) :].strip()
    return next((headers[name].strip() for name in OTHER_HEADERS if headers.get(name)), "")


def cookie_of(headers: Mapping[str, str]) -> str:
    """The key in the cookie; empty: there is none."""
    for part in headers.get("Cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""
