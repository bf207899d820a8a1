"""The stream in which events wait for the books, as a test without an accountant makes it and looks into it.

A message of it carries one event or many.
"""

import json
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

from bus import Bus, BusError, Message
from bus.pull import StoredMessage
from outbox.batch import unpacked


async def make_stream(bus: Bus, op: str = "CREATE", *, max_bytes: int) -> None:
    spec = {"name": "TELEMETRY", "subjects": ["telemetry.>"], "max_bytes": max_bytes, "discard": "new"}
    await _order(bus, op, spec)


def rows_in(message: Message | StoredMessage) -> list[dict[str, Any]]:
    """The events of a message."""
    return [from_json(event) for event in unpacked(message.data)]


async def booked(bus: Bus, count: int) -> bool:
    """Whether so many requests are in it; for `eventually`."""
    with suppress(BusError):
        return len(await stored(bus)) >= count
    return False


async def stored(bus: Bus) -> Sequence[dict[str, Any]]:
    """The requests that are in it."""
    state = (await _order(bus, "INFO"))["state"]
    told: list[dict[str, Any]] = []
    for seq in range(state["first_seq"], state["last_seq"] + 1):
        reply = await bus.request("$JS.API.STREAM.MSG.GET.TELEMETRY", json.dumps({"seq": seq}).encode(), timeout=20)
        message = from_json(reply.data).get("message")  # of a stream that is being changed there may be none now
        if message is not None and message["subject"] == "telemetry.response":
            told += [from_json(event) for event in unpacked(b64decode(message["data"]))]
    return told


async def _order(bus: Bus, op: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What JetStream says to it."""
    reply = await bus.request(f"$JS.API.STREAM.{op}.TELEMETRY", json.dumps(body or {}).encode(), timeout=20)
    told: dict[str, Any] = from_json(reply.data)
    assert "error" not in told, told
    return told
