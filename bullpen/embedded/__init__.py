"""Real servers from wheels, for a machine with nothing but Python: the same NATS and Postgres as anywhere."""


class EmbeddedError(Exception):
    """An embedded server cannot run here; the message says why and what to do."""


class ServerDown(EmbeddedError):
    """An embedded server did not start this time. The reason, a full disk for example, may pass."""
