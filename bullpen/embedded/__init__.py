"""Real servers from wheels, for a machine with nothing but Python: the same NATS and Postgres as in production."""

from collections.abc import Mapping


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for our own servers, without `PG*`, which is about another Postgres and would change ours."""
    return {name: value for name, value in environ.items() if not name.startswith("PG")}


class EmbeddedError(Exception):
    """An embedded server cannot run on this machine; the message says why and what to do."""


class ServerDown(EmbeddedError):
    """An embedded server did not start. The reason, a full disk for example, may pass."""
