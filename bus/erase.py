"""Searches and deletes what JetStream stores: for `bullpen forget`, never while a request is served.

Every call is bounded in time and raises `BusError` when JetStream does not answer, also for a user without the
permission. A stream that does not exist counts as empty.
"""

from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from bus.connection import Bus
from bus.jetstream import JetStreamRefuses, api
from contracts import JsonObject

API_WITHIN = 2.0
NOT_THERE = frozenset({10059, 10014, 10037, 10043})
"""Error codes of JetStream: no such stream, no such consumer, no such message (to get, or to delete)."""


class _Sequences(BaseModel):
    stream_seq: int = 0


class _State(BaseModel):
    last_seq: int = 0


class _Info(BaseModel):
    state: _State = Field(default_factory=_State)


class _Consumer(BaseModel):
    ack_floor: _Sequences = Field(default_factory=_Sequences)
    num_pending: int = 0
    num_ack_pending: int = 0


class _Purged(BaseModel):
    purged: int = 0


class _Message(BaseModel):
    subject: str
    seq: int
    data: str = ""


class _Found(BaseModel):
    message: _Message


@dataclass(frozen=True, slots=True)
class StreamMessage:
    """A message of a stream."""

    subject: str
    seq: int
    data: bytes


async def last_seq(bus: Bus, stream: str) -> int:
    """The number of the stream's newest message; 0: the stream never had one."""
    answer = await _api(bus, f"STREAM.INFO.{stream}")
    return _Info.model_validate(answer).state.last_seq if answer else 0


async def done_up_to(bus: Bus, stream: str, consumer: str) -> int:
    """The number up to which the consumer has acknowledged every message; 0 when there is no such consumer."""
    newest = await last_seq(bus, stream)
    answer = await _api(bus, f"CONSUMER.INFO.{stream}.{consumer}")
    if answer is None:
        return 0
    state = _Consumer.model_validate(answer)
    idle = state.num_pending == 0 and state.num_ack_pending == 0
    return max(newest, state.ack_floor.stream_seq) if idle else state.ack_floor.stream_seq


async def purge(bus: Bus, stream: str, *, up_to: int) -> int:
    """Deletes the stream's messages up to number `up_to` (inclusive). Returns how many were deleted.

    Clients cannot read these messages afterwards. The server's file keeps their bytes until everything in that file is
    too old.
    """
    answer = await _api(bus, f"STREAM.PURGE.{stream}", {"seq": up_to + 1})
    return _Purged.model_validate(answer).purged if answer else 0


async def delete(bus: Bus, stream: str, seq: int) -> bool:
    """Deletes one message and its bytes on disk (takes a few milliseconds). False: the message was not there any
    more.
    """
    return await _api(bus, f"STREAM.MSG.DELETE.{stream}", {"seq": seq}) is not None


async def walk(bus: Bus, stream: str, subject: str) -> AsyncIterator[StreamMessage]:
    """Every message of the stream on that subject (wildcards allowed), the oldest first."""
    seq = 1
    while answer := await _api(bus, f"STREAM.MSG.GET.{stream}", {"seq": seq, "next_by_subj": subject}):
        message = _Found.model_validate(answer).message
        yield StreamMessage(message.subject, message.seq, b64decode(message.data))
        seq = message.seq + 1


async def _api(bus: Bus, verb: str, body: JsonObject | None = None) -> JsonObject | None:
    """JetStream's answer; None when the stream, consumer or message does not exist. Raises `BusError`."""
    try:
        return await api(bus, verb, body, timeout=API_WITHIN)
    except JetStreamRefuses as refusal:
        if refusal.code in NOT_THERE:
            return None
        raise
