"""The stream in which events wait for the books, as a test without an accountant makes it and looks into it."""

import json
from contextlib import suppress
from typing import Any

from pydantic_core import from_json

from bus import Bus, BusError


async def make_stream(bus: Bus, op: str = "CREATE", *, max_bytes: int) -> None:
    spec = {"name": "TELEMETRY", "subjects": ["telemetry.>"], "max_bytes": max_bytes, "discard": "new"}
    await _order(bus, op, spec)


async def booked(bus: Bus, count: int) -> bool:
    """Whether so many requests are in it; for `eventually`."""
    with suppress(BusError):
        state = (await _order(bus, "INFO", {"subjects_filter": "telemetry.response"}))["state"]
        return bool(state.get("subjects", {}).get("telemetry.response", 0) >= count)
    return False


async def _order(bus: Bus, op: str, body: dict[str, Any]) -> dict[str, Any]:
    """What JetStream says to it."""
    reply = await bus.request(f"$JS.API.STREAM.{op}.TELEMETRY", json.dumps(body).encode(), timeout=20)
    told: dict[str, Any] = from_json(reply.data)
    assert "error" not in told, told
    return told
