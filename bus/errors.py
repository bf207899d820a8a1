"""What can go wrong between here and the server. Everything else speaks `BullpenError`."""


class BusError(Exception):
    """The bus could not do what was asked."""


class BusUnreachable(BusError):
    """No NATS server can be reached, or it does not let us in; the message says what to do."""


class NoResponders(BusError):
    """Nobody listens on the subject: the server says so at once."""


class RequestTimeout(BusError):
    """Nobody answered in time."""
