"""The addresses of the NATS servers, and the credentials for them."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from bus.errors import BusUnreachable
from bus.server_address import Login, ServerAddress, read_all, split
from config.loader import ConfigError, secret

REPLICAS = ("1", "3", "5")
"""Allowed numbers of replicas: with two, a stream would stop when either server is lost."""
DEFAULT_URL = "nats://127.0.0.1:4222"


@dataclass(frozen=True, slots=True)
class BusSettings:
    servers: tuple[str, ...] = (DEFAULT_URL,)
    user: str | None = None
    password: str | None = None
    creds_file: str | None = None
    nkey_seed_file: str | None = None
    ca_file: str | None = None
    inbox_prefix: str = "_INBOX"
    """The prefix of the inboxes; must start with `_INBOX`. A prefix of its own for each role keeps others from reading
    its answers.
    """
    replicas: int = 1
    """Servers that store each new stream and bucket; with three, one may be lost."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "BusSettings":
        """From `NATS_URL` (several, comma-separated) and the other `NATS_*` variables. Raises `ConfigError`."""
        environ = os.environ if environ is None else environ
        urls = environ.get("NATS_URL") or DEFAULT_URL
        return cls(
            servers=split(urls),
            user=environ.get("NATS_USER") or None,
            password=secret("NATS_PASSWORD", environ),
            creds_file=environ.get("NATS_CREDS") or None,
            nkey_seed_file=environ.get("NATS_NKEY_SEED_FILE") or None,
            ca_file=environ.get("NATS_CA_FILE") or None,
            inbox_prefix=environ.get("NATS_INBOX_PREFIX") or "_INBOX",
            replicas=_replicas(environ.get("NATS_REPLICAS") or "1"),
        )

    @property
    def tls_only(self) -> bool:
        """Whether only TLS is allowed: by the scheme of an address, or because a certificate authority is set."""
        return self.ca_file is not None or any(url.lower().startswith("tls://") for url in self.servers)

    def tls(self) -> ssl.SSLContext | None:
        """The certificate authorities to trust; None: those of the system. Raises `BusUnreachable`."""
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            message = f"NATS_CA_FILE {self.ca_file} is not a readable certificate ({error.strerror or error})"
            raise BusUnreachable(message, hopeless=True) from error

    def addresses(self) -> tuple[ServerAddress, ...]:
        """The servers. Raises `BusUnreachable` for an invalid address, before any connection is tried."""
        try:
            return read_all(self.servers)
        except ValueError as error:
            raise BusUnreachable(str(error), hopeless=True) from None

    def login_at(self, place: str) -> Login:
        """The login for the server at `host:port`: that of the settings, else that of its address, else the first
        address's.

        It also covers servers of a cluster that only another server names.
        """
        if self.user is not None and self.password is not None:
            return Login(self.user, self.password)
        given = {address.place: address.login for address in self.addresses() if address.login is not None}
        return given.get(place) or next(iter(given.values()), Login(self.user, self.password))

    @property
    def where(self) -> str:
        """The servers, for people: their addresses without credentials."""
        return ", ".join(url.rsplit("@", 1)[-1].removeprefix("nats://") for url in self.servers)


def _replicas(text: str) -> int:
    """Reads `NATS_REPLICAS`. Raises `ConfigError`."""
    if text not in REPLICAS:
        raise ConfigError(f"NATS_REPLICAS should be 1, 3 or 5, and no more than there are servers; it is {text!r}")
    return int(text)
