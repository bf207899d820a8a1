"""Explains why a first connection failed, and what to do."""

import ssl

from nats import errors as nats_errors

from bus.errors import BusUnreachable
from bus.settings import BusSettings


def explain(error: Exception | None, settings: BusSettings) -> BusUnreachable:
    """The error for the person who started this process. `hopeless` is set when waiting for the server would not
    help.
    """
    where = f"NATS at {settings.where}"
    if isinstance(error, nats_errors.AuthorizationError) or "authorization" in str(error).lower():
        return BusUnreachable(
            f"{where} refuses the connection: check NATS_USER and NATS_PASSWORD (or NATS_CREDS, NATS_NKEY_SEED_FILE, "
            "or the login in NATS_URL)",
            hopeless=True,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return BusUnreachable(
            f"{where} shows a certificate that is not trusted ({error.verify_message.rstrip('.')}): set NATS_CA_FILE "
            "to the certificate of the authority that signed it, and use the name in NATS_URL that it was made for",
            hopeless=True,
        )
    if isinstance(error, nats_errors.SecureConnWantedError):
        return BusUnreachable(
            f"{where} does not speak TLS, and the settings allow nothing else: use nats:// in NATS_URL and unset "
            "NATS_CA_FILE, or configure TLS in the server",
            hopeless=True,
        )
    return BusUnreachable(
        f"no NATS server answers at {settings.where} ({error or 'none named'}): "
        "start the mesh with `bullpen up`, or set NATS_URL"
    )
