"""Failures between this process and the NATS server. Other failures are `BullpenError`."""


class BusError(Exception):
    """The bus could not carry out a call."""


class BusUnreachable(BusError):
    """No NATS server can be reached, or it refuses the connection; the message says what to do."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless
        """A new try cannot help: a setting has to be changed."""


class NoResponders(BusError):
    """The subject has no subscriber; the server reports this at once."""


class RequestTimeout(BusError):
    """No answer came in time."""


class Denied(BusError):
    """The server does not allow this user to publish there, or to receive the answer."""
