"""Where the NATS servers are, and the credentials for them."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bus.errors import BusUnreachable
from config.loader import secret

DEFAULT_URL = "nats://127.0.0.1:4222"
SCHEMES = ("nats", "tls", "ws", "wss")


@dataclass(frozen=True, slots=True)
class BusSettings:
    servers: tuple[str, ...] = (DEFAULT_URL,)
    user: str | None = None
    password: str | None = None
    creds_file: str | None = None
    nkey_seed_file: str | None = None
    ca_file: str | None = None
    inbox_prefix: str = "_INBOX"
    """Must start with `_INBOX`; a private one per role keeps others from listening in."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "BusSettings":
        """From `NATS_URL` (several, comma-separated) and the other `NATS_*` variables."""
        environ = os.environ if environ is None else environ
        urls = environ.get("NATS_URL") or DEFAULT_URL
        return cls(
            servers=tuple(url.strip() for url in urls.split(",") if url.strip()),
            user=environ.get("NATS_USER") or None,
            password=secret("NATS_PASSWORD", environ),
            creds_file=environ.get("NATS_CREDS") or None,
            nkey_seed_file=environ.get("NATS_NKEY_SEED_FILE") or None,
            ca_file=environ.get("NATS_CA_FILE") or None,
            inbox_prefix=environ.get("NATS_INBOX_PREFIX") or "_INBOX",
        )

    @property
    def tls_only(self) -> bool:
        """Whether only TLS will do: the scheme of an address or a certificate says so."""
        return self.ca_file is not None or any(url.startswith("tls://") for url in self.servers)

    def tls(self) -> ssl.SSLContext | None:
        """Which authorities to trust; None: those of the system. Raises `BusUnreachable`."""
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            message = f"NATS_CA_FILE {self.ca_file} is not a readable certificate ({error.strerror or error})"
            raise BusUnreachable(message, hopeless=True) from error

    def check(self) -> None:
        """Raises `BusUnreachable` for an address that cannot be one, before a connection is tried."""
        for url in self.servers:
            try:
                parts = urlsplit(url if "://" in url else f"nats://{url}")
                usable = parts.scheme in SCHEMES and parts.hostname and " " not in url and parts.port != 0
            except ValueError:
                usable = False
            if not usable:
                shown = url.rsplit("@", 1)[-1]
                message = f"NATS_URL: {shown!r} is not a server's address; write nats://host:4222, several with commas"
                raise BusUnreachable(message, hopeless=True)

    @property
    def where(self) -> str:
        """The servers for people, without credentials that may stand in their addresses."""
        return ", ".join(url.rsplit("@", 1)[-1].removeprefix("nats://") for url in self.servers)
