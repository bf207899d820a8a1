"""Keys and values in JetStream, as little of it as is needed: make a key once, change it if nobody else has.

A bucket is a stream that keeps the last message of each subject (ADR-8), so `nats kv` can look into it. Every call
is one round trip, bounded by `within` seconds, and raises `BusError` when JetStream does not answer in time.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nats import errors as nats_errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError
from pydantic import BaseModel, ValidationError

from bus.connection import Bus, Subscription
from bus.errors import BusError

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
WRONG_REVISION = frozenset({10071, 10164})
"""Two codes for the same: a stream with replicas has one of its own."""
OTHER_CONFIG = 10058
API_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class KeyValue:
    value: bytes
    revision: int


class _Problem(BaseModel):
    err_code: int = 0
    description: str = ""


class _Ack(BaseModel):
    seq: int = 0
    error: _Problem | None = None


class Bucket:
    """Make it with `Bucket.open`. Keys are made of letters, digits, `_` and `-`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name

    @classmethod
    async def open(cls, bus: Bus, name: str, *, max_age_s: float, max_bytes: int) -> "Bucket":
        """Makes the bucket if it is not there. When it is full the oldest go. Raises `BusError`.

        One that is there stays as it is: an operator may have given it replicas, or more room.
        """
        config = StreamConfig(
            name=f"KV_{name}",
            subjects=[f"$KV.{name}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=max_age_s,
            max_bytes=max_bytes,
            allow_direct=True,
        )
        js = bus.nats.jetstream(timeout=API_TIMEOUT)
        try:
            await js.add_stream(config)
        except (nats_errors.Error, OSError, TimeoutError) as error:
            if not (isinstance(error, APIError) and error.err_code == OTHER_CONFIG):
                raise BusError(f"cannot make bucket {name}: {error!r}") from error
        return cls(bus, name)

    async def put(self, key: str, value: bytes, *, after: int, within: float) -> int | None:
        """Writes if the key's revision still is `after` (0: there is none). Returns the new one, None: it is not."""
        reply = await self._bus.request(
            self._subject(key), value, timeout=within, headers={EXPECTED_REVISION: str(after)}
        )
        try:
            ack = _Ack.model_validate_json(reply.data)
        except ValidationError as error:
            raise BusError(f"not an answer of JetStream: {reply.data[:80]!r}") from error
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in WRONG_REVISION:
            return None
        raise BusError(f"cannot write to bucket {self._name}: {ack.error.description}")

    async def get(self, key: str, *, within: float) -> KeyValue | None:
        """What is there; None: nothing. A key that somebody deleted has an empty value, and a revision."""
        subject = f"$JS.API.DIRECT.GET.KV_{self._name}.{self._subject(key)}"
        reply = await self._bus.request(subject, b"", timeout=within)
        if reply.headers.get("Status") == "404":
            return None
        revision = reply.headers.get("Nats-Sequence", "")
        if not revision.isdigit():
            raise BusError(f"cannot read from bucket {self._name}: {dict(reply.headers)}")
        return KeyValue(reply.data, int(revision))

    async def follow(self, key: str, changed: Callable[[bytes], None]) -> Subscription:
        """Calls `changed` with every new value from now on; a write is a plain message, so it is heard at once."""
        return await self._bus.subscribe_inline(self._subject(key), lambda message: changed(message.data))

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"
