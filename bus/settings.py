"""Where the NATS servers are and who we are to them."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from bus.errors import BusUnreachable
from contracts.settings import secret

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
        """Whether a server that does not speak TLS is an impostor: a scheme or a certificate says so."""
        return self.ca_file is not None or any(url.startswith("tls://") for url in self.servers)

    def tls(self) -> ssl.SSLContext | None:
        """Whom to trust when the server shows a certificate; None: whom the system trusts. Raises `BusUnreachable`."""
        if self.ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            message = f"NATS_CA_FILE {self.ca_file} is no readable certificate ({error.strerror or error})"
            raise BusUnreachable(message, hopeless=True) from error

    @property
    def where(self) -> str:
        """The servers for people, without credentials that may stand in their addresses."""
        return ", ".join(url.rsplit("@", 1)[-1].removeprefix("nats://") for url in self.servers)
