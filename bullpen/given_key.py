"""The API key from the environment: for a container, where no operator types a command.

The operator chooses the secret, so a Kubernetes `Secret` can hold it. Another secret at the next start replaces it.
"""

from collections.abc import MutableMapping

from bus import Bus, BusError
from config.loader import ConfigError, secret
from gateway.keys.office import KeyOffice

VARIABLE = "BULLPEN_API_KEY"
SHORTEST = 32
"""The least characters of a secret: anyone who reaches the gateway may guess."""
TENANT = "default"


def take(environ: MutableMapping[str, str]) -> str | None:
    """The secret of `BULLPEN_API_KEY` or `BULLPEN_API_KEY_FILE`, which is removed from the environment of our
    processes.

    None when there is none. Raises `ConfigError` for a short one.
    """
    given = secret(VARIABLE, environ)
    for name in (VARIABLE, f"{VARIABLE}_FILE"):
        environ.pop(name, None)
    if given is None:
        return None
    if len(given) < SHORTEST or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(f"{VARIABLE} should have {SHORTEST} printable characters or more: openssl rand -hex 24")
    return given


async def keep(bus: Bus, given: str) -> str:
    """Makes a key with the secret; returns a line for people. Raises `BusError`."""
    key = await (await KeyOffice.open(bus)).give(given, TENANT)
    if key.revoked_at is not None:
        return f"the key of {VARIABLE} ({key.key_id}) was revoked and opens nothing: give another one"
    return f"the key of {VARIABLE} may ask ({key.key_id}, tenant {key.tenant})"


async def any_is_there(bus: Bus) -> bool:
    """Whether there is any API key; also True when JetStream cannot say."""
    try:
        return bool(await (await KeyOffice.open(bus)).keys())
    except BusError:
        return True
