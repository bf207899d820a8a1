"""The caller of a request, by the key in its headers, and what the caller may do. Without keys every caller may ask."""

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
"""Headers in which Anthropic's and Azure's clients send the key."""
COOKIE = "bullpen_key"
"""The cookie with the key that was used to sign in to the page."""
PAGE_HEADER = "x-bullpen-page"
"""A header that our page sends with each request. Another site's page cannot send it, so a cookie counts only with
it.
"""
MOST_LIMITED = 10_000
"""Keys whose limits are kept in memory."""
NO_KEY = "an API key is needed: send it as `Authorization: Bearer …`; `bullpen keys create` makes one"
WRONG_KEY = "this API key is unknown, revoked or expired"
UNKNOWN_KEYS = "the API keys cannot be read from JetStream yet; `keys: off` in gateway/config.yaml does without"


class Caller:
    """The caller of one request."""

    def __init__(
        self, key: ApiKey | None = None, limits: Limits | None = None, shared: SharedUse | None = None
    ) -> None:
        self._key = key
        self._limits = limits
        self._shared = shared

    @property
    def key_id(self) -> str:
        """The key's id; empty: the caller has no key."""
        return self._key.key_id if self._key is not None else ""

    @property
    def tenant(self) -> str | None:
        """The key's tenant; None: the tenant that the request names."""
        return self._key.tenant if self._key is not None else None

    def may_ask(self, model: str) -> bool:
        """Whether the caller may ask for a model of this name."""
        return self._key is None or self._key.allows(model)

    def begin(self, answers: int) -> None:
        """Takes the wanted answers from the key's limits. Raises `BullpenError(rate_limited)`."""
        if self._limits is None:
            return
        wait = self._limits.admit(answers, asyncio.get_running_loop().time())
        if wait:
            why = "this API key has asked for as much as it may in a minute"
            raise BullpenError(ErrorCode.RATE_LIMITED, why, retry_after_ms=max(1, round(wait * 1000)))
        if self._shared is not None:
            self._shared.add(self.key_id, requests=answers)

    def used(self, tokens: int) -> None:
        """Takes the tokens of answers from the key's limits."""
        if self._limits is not None:
            self._limits.used(tokens, asyncio.get_running_loop().time())
            if self._shared is not None:
                self._shared.add(self.key_id, tokens=tokens)


class Callers:
    def __init__(self, ring: KeyRing, mode: Literal["auto", "required", "off"], shared: SharedUse) -> None:
        """`shared`: exchanges the use of keys with other gateways."""
        self._ring = ring
        self._shared = shared
        self._mode = mode
        self._limits: Latest[str, tuple[ApiKey, Limits]] = Latest(MOST_LIMITED)

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """The caller with these headers. Raises `Refused` (401), `BullpenError(no_worker)`."""
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
        """Subscribes to the use of keys at other gateways. Raises `BusError`."""
        await self._shared.listen(self._used_elsewhere)

    def _used_elsewhere(self, key_id: str, requests: int, tokens: int) -> None:
        key = self._ring.with_id(key_id)
        limits = self._limits_of(key) if key is not None else None
        if limits is not None:
            limits.used_elsewhere(requests, tokens, asyncio.get_running_loop().time())

    def _limits_of(self, key: ApiKey) -> Limits | None:
        """The key's limits; new ones when the key's settings have changed."""
        if key.rpm is None and key.tpm is None:
            return None
        known = self._limits.get(key.key_id)
        if known is None or (known[0].rpm, known[0].tpm) != (key.rpm, key.tpm):
            known = self._limits[key.key_id] = (key, Limits(key.rpm, key.tpm))
        return known[1]


def secret_of(headers: Mapping[str, str]) -> str:
    """The key in the request's headers; empty: there is none."""
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
