"""What can go wrong between here and the server. Everything else speaks `BullpenError`."""


class BusError(Exception):
    """The bus could not do what was asked."""


class BusUnreachable(BusError):
    """No NATS server can be reached, or it does not let us in; the message says what to do."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless
        """Trying again cannot help: somebody has to change a setting."""


class NoResponders(BusError):
    """Nobody listens on the subject: the server says so at once."""


class RequestTimeout(BusError):
    """Nobody answered in time."""


class Denied(BusError):
    """The server does not let this user say that, or hear the answer."""
