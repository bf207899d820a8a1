"""JetStream's answer to a message that it was asked to store."""

from pydantic import BaseModel, ValidationError

from bus.errors import BusError


class Refusal(BaseModel):
    err_code: int = 0
    description: str = ""


class Acknowledgement(BaseModel):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    """The stream had the message already: the same `Nats-Msg-Id` came before."""
    error: Refusal | None = None

    @classmethod
    def read(cls, data: bytes) -> "Acknowledgement":
        """Reads the server's reply. Raises `BusError` when it is not an acknowledgement."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise BusError(f"not an answer of JetStream: {data[:80]!r}") from None
