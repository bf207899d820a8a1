"""The stream between those who tell and the books.

Whoever tells keeps an event until the stream has it, so the stream is made at once, also while the database is
away. It is limited in size, and a full one refuses what is new, so that nothing disappears from it unbooked.
Booked events stay for a while, for whoever wants to read them again, but they make room long before it is full.
"""

from typing import Any

import structlog
from pydantic_core import from_json, to_json

from bus import Bus, BusError
from bus.jetstream import StreamSpec
from contracts import JsonObject
from contracts import subjects as s
from telemetry.config import TelemetryConfig

log = structlog.get_logger(__name__)

CONSUMER = "books"
ACK_WAIT = 60.0
"""Seconds after which JetStream gives an event to another accountant, when we neither book nor hold it."""
API = "$JS.API"
API_WITHIN = 2.0


def spec(config: TelemetryConfig) -> StreamSpec:
    return StreamSpec(
        s.TELEMETRY_STREAM,
        (s.TELEMETRY_ANY,),
        max_age_s=config.stream_max_age,
        max_bytes=config.stream_max_bytes,
        duplicate_window_s=config.duplicate_window,
    )


async def make_room(bus: Bus, max_bytes: int) -> int:
    """Drops booked events when the stream is half full; returns how many events are not booked yet.

    Raises `BusError`.
    """
    consumer = await _api(bus, f"CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}")
    booked_up_to: int = consumer["ack_floor"]["stream_seq"]
    stream = await _api(bus, f"STREAM.INFO.{s.TELEMETRY_STREAM}")
    if stream["state"]["bytes"] > max_bytes / 2 and booked_up_to >= stream["state"]["first_seq"]:
        purged = await _api(bus, f"STREAM.PURGE.{s.TELEMETRY_STREAM}", {"seq": booked_up_to + 1})
        log.info("booked_events_dropped", events=purged["purged"], up_to=booked_up_to)
    return int(consumer["num_pending"] + consumer["num_ack_pending"])


async def _api(bus: Bus, verb: str, body: JsonObject | None = None) -> dict[str, Any]:
    answer = await bus.request(f"{API}.{verb}", to_json(body) if body else b"", timeout=API_WITHIN)
    told: dict[str, Any] = from_json(answer.data)
    if "error" in told:
        raise BusError(f"JetStream refuses {verb}: {told['error'].get('description')}")
    return told
