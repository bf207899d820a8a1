"""Who makes a request to the API, and what they may do: by their key, in a header or in the cookie set at sign-in.

Without keys every caller on this machine is an operator. A request without a key in a header could come from any page
that is open in a browser, so it has to come from our own page: `Origin`, `Sec-Fetch-Site` and `Host` are checked, and
for an order also a header that no other page can send.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from contracts import ApiKey, BullpenError, ErrorCode, KeyRole
from gateway.config import GatewayConfig
from gateway.cors import LOOPBACK, check_origin
from gateway.dialects import Refused
from gateway.keys import KeyRing
from gateway.keys.callers import COOKIE, NO_KEY, PAGE_HEADER, UNKNOWN_KEYS, WRONG_KEY, cookie_of, secret_of

SAME_SITE = ("same-origin", "none")
Doing = Literal["reading", "acting"]


@dataclass(frozen=True, slots=True)
class Visitor:
    """The sender of one request to the API."""

    role: KeyRole
    tenant: str | None
    """The tenant whose requests they may see; None: all tenants."""
    key_id: str = ""

    @classmethod
    def of(cls, key: ApiKey) -> "Visitor":
        return cls(key.role, key.tenant if key.role == "tenant" else None, key.key_id)

    def check_sees_all(self) -> None:
        """Raises `Refused` (403) for a key that may see one tenant only."""
        if self.tenant is not None:
            why = "this key sees its own tenant's requests only: `bullpen keys create --role viewer` makes one for all"
            raise Refused(why, None, 403, "role_refused")

    def check_may_act(self) -> None:
        """Raises `Refused` (403) for a key that is no operator's."""
        if self.role != "operator":
            why = f"a {self.role}'s key may not do that: `bullpen keys create --role operator` makes one that may"
            raise Refused(why, None, 403, "role_refused")


class Access:
    def __init__(self, ring: KeyRing, config: Callable[[], GatewayConfig]) -> None:
        """`config`: returns the present settings."""
        self._ring = ring
        self._config = config

    @property
    def is_open(self) -> bool:
        """Whether requests need no key: only on this machine, while there are no keys, or keys are switched off."""
        config = self._config()
        if not config.is_loopback or config.keys == "required":
            return False
        return config.keys == "off" or (self._ring.is_known and not self._ring.exist())

    def admit(self, headers: Mapping[str, str], doing: Doing = "reading") -> Visitor:
        """Finds out who sent the request. Raises `Refused` (401, 403), `BullpenError(no_worker)` while the keys are
        unknown.
        """
        config = self._config()
        check_origin(config.origins, headers)
        if secret := secret_of(headers):
            return Visitor.of(self._key(secret))
        self._check_our_page(headers, doing)
        if self.is_open:
            _check_host(headers)
            return Visitor("operator", None)
        secret = cookie_of(headers)
        if not secret:
            self._check_known()
            raise Refused(NO_KEY, None, 401, "invalid_api_key")
        return Visitor.of(self._key(secret))

    def sign_in(self, headers: Mapping[str, str], secret: str) -> tuple[Visitor, str]:
        """Signs in with a key: the visitor, and the value of `Set-Cookie`. Raises `Refused`."""
        check_origin(self._config().origins, headers)
        self._check_our_page(headers, "acting")
        return Visitor.of(self._key(secret)), f"{COOKIE}={secret}; {_cookie_rules(headers)}"

    def sign_out(self, headers: Mapping[str, str]) -> str:
        """Signs out: the value of `Set-Cookie`. Raises `Refused`."""
        self._check_our_page(headers, "acting")
        return f"{COOKIE}=; Max-Age=0; {_cookie_rules(headers)}"

    def _key(self, secret: str) -> ApiKey:
        self._check_known()
        key = self._ring.find(secret)
        if key is None:
            raise Refused(WRONG_KEY, None, 401, "invalid_api_key")
        return key

    def _check_known(self) -> None:
        if not self._ring.is_known:
            raise BullpenError(ErrorCode.NO_WORKER, UNKNOWN_KEYS, retry_after_ms=1000)

    def _check_our_page(self, headers: Mapping[str, str], doing: Doing) -> None:
        origin = headers.get("Origin")
        ours = origin is None or urlsplit(origin).netloc == headers.get("Host")
        if not ours or headers.get("Sec-Fetch-Site", "none") not in SAME_SITE:
            raise Refused("another site's page may not ask that without a key of its own", None, 403, "origin_refused")
        if doing == "acting" and PAGE_HEADER not in headers:
            raise Refused(f"send the header {PAGE_HEADER}: 1 with this, or a key", None, 403, "origin_refused")


def _check_host(headers: Mapping[str, str]) -> None:
    """Refuses a `Host` that is another site's name: such a name may point at this machine, and `Origin` then agrees
    with it.
    """
    host = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
    try:
        ip_address(host)
    except ValueError:
        if host not in LOOPBACK:
            why = f"this gateway is not {host[:200]}: open the page at 127.0.0.1 or localhost"
            raise Refused(why, None, 403, "origin_refused") from None


def _cookie_rules(headers: Mapping[str, str]) -> str:
    nearest_the_browser = headers.get("X-Forwarded-Proto", "").split(",")[0].strip().lower()
    secure = "; Secure" if nearest_the_browser == "https" else ""
    return f"Path=/; HttpOnly; SameSite=Strict{secure}"
