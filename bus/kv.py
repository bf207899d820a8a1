"""Keys and values in JetStream: create a key once, or change it if no other client has changed it meanwhile.

A bucket is a stream that keeps the last message of each subject (ADR-8), so `nats kv` shows it. Every call is one round
trip (`update` at least two), takes at most `within` seconds, and raises `BusError` when JetStream does not answer in
time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from nats import errors as nats_errors
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError
from pydantic_core import to_json

from bus.acknowledgement import Acknowledgement
from bus.backoff import Backoff
from bus.connection import Bus, Subscription
from bus.errors import BusError
from contracts.kept import ABOUT

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
WRONG_REVISION = frozenset({10071, 10164})
"""Error codes for a key that another client changed: a stream with replicas has a code of its own."""
OTHER_CONFIG = 10058
API_TIMEOUT = 2.0
UPDATE_TRIES = 100
APART = Backoff(0.01, 0.1)
"""Seconds to wait before another try, with jitter, so that clients that wrote at the same time try again apart."""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class KeyValue:
    value: bytes
    revision: int


class Bucket:
    """A bucket of keys and values. Make it with `Bucket.open`. Keys consist of letters, digits, `_` and `-`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name

    @classmethod
    async def open(cls, bus: Bus, name: str, *, max_age_s: float, max_bytes: int) -> "Bucket":
        """Creates the bucket if it does not exist. A full bucket drops its oldest values. Raises `BusError`.

        An existing bucket stays as it is: an operator may have given it replicas, or more room.
        """
        config = StreamConfig(
            name=f"KV_{name}",
            description=ABOUT.get(f"KV_{name}"),
            subjects=[f"$KV.{name}.>"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=max_age_s,
            max_bytes=max_bytes,
            allow_direct=True,
            num_replicas=bus.settings.replicas,
        )
        js = bus.nats.jetstream(timeout=API_TIMEOUT)
        try:
            await js.add_stream(config)
        except (nats_errors.Error, OSError, TimeoutError) as error:
            if not (isinstance(error, APIError) and error.err_code == OTHER_CONFIG):
                raise BusError(f"cannot make bucket {name}: {error!r}") from error
        return cls(bus, name)

    async def put(self, key: str, value: bytes, *, after: int, within: float) -> int | None:
        """Writes the value if the key's revision is still `after` (0: no value). Returns the new revision; None if
        another client changed the key.
        """
        reply = await self._bus.request(
            self._subject(key), value, timeout=within, headers={EXPECTED_REVISION: str(after)}
        )
        ack = Acknowledgement.read(reply.data)
        if ack.error is None:
            return ack.seq
        if ack.error.err_code in WRONG_REVISION:
            return None
        raise BusError(f"cannot write to bucket {self._name}: {ack.error.description}")

    async def get(self, key: str, *, within: float) -> KeyValue | None:
        """The key's value and revision; None if the key has no value. A deleted key has a revision and an empty
        value.
        """
        subject = f"$JS.API.DIRECT.GET.KV_{self._name}.{self._subject(key)}"
        reply = await self._bus.request(subject, b"", timeout=within)
        if reply.headers.get("Status") == "404":
            return None
        revision = reply.headers.get("Nats-Sequence", "")
        if not revision.isdigit():
            raise BusError(f"cannot read from bucket {self._name}: {dict(reply.headers)}")
        return KeyValue(reply.data, int(revision))

    async def update(self, key: str, change: Callable[[bytes], tuple[bytes, Made]], *, within: float) -> Made:
        """Replaces the key's value with the one that `change` makes of it, and returns the second value that `change`
        makes.

        `change` gets empty bytes when there is no value, and is called again when another client wrote in between.
        Raises `BusError`, also when other clients wrote first a hundred times.
        """
        for failures in range(UPDATE_TRIES):
            await asyncio.sleep(APART.wait(failures))
            found = await self.get(key, within=within)
            value, made = change(found.value if found else b"")
            if await self.put(key, value, after=found.revision if found else 0, within=within) is not None:
                return made
        raise BusError(f"other clients write {key} of bucket {self._name} at the same time")

    async def follow(self, key: str, changed: Callable[[bytes], None]) -> Subscription:
        """Calls `changed` with every new value from now on. A write is a plain message, so it arrives at once."""
        return await self._bus.subscribe_inline(self._subject(key), lambda message: changed(message.data))

    async def everything(self, *, within: float) -> dict[str, KeyValue]:
        """All keys of the bucket, deleted keys included. One round trip for each key, each at most `within` seconds."""
        found: dict[str, KeyValue] = {}
        prefix, seq = self._subject(""), 0
        while True:
            asked = to_json({"seq": seq + 1, "next_by_subj": f"{prefix}>"})
            reply = await self._bus.request(f"$JS.API.DIRECT.GET.KV_{self._name}", asked, timeout=within)
            if reply.headers.get("Status") == "404":
                return found
            at, told = reply.headers.get("Nats-Sequence", ""), reply.headers.get("Nats-Subject", "")
            if not at.isdigit() or int(at) <= seq or not told.startswith(prefix):
                raise BusError(f"cannot read bucket {self._name}: {dict(reply.headers)}")
            seq = int(at)
            found[told.removeprefix(prefix)] = KeyValue(reply.data, seq)

    async def follow_all(self, changed: Callable[[str, bytes], None]) -> Subscription:
        """Like `follow`, for every key; `changed` gets the key first."""
        prefix = self._subject("")
        return await self._bus.subscribe_inline(
            f"{prefix}*", lambda message: changed(message.subject.removeprefix(prefix), message.data)
        )

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"
