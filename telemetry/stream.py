"""The stream between the roles that book and the accountants.

A role keeps an event until the stream has it, so the stream is made at once, also while the database is away. The size
of the stream is limited. A full stream refuses new events, so no event disappears from it unbooked. Booked events stay
for a while for other readers; they are dropped when the stream is half full.
"""

import structlog

from bus import Bus
from bus.jetstream import StreamSpec, api
from contracts import subjects as s
from telemetry.config import TelemetryConfig

log = structlog.get_logger(__name__)

CONSUMER = "books"
ACK_WAIT = 15.0
"""Seconds after which JetStream gives an event to another accountant, when this one neither books nor holds it. It is
longer than it takes to notice a frozen database and to try again.
"""
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
    consumer = await api(bus, f"CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}", timeout=API_WITHIN)
    booked_up_to: int = consumer["ack_floor"]["stream_seq"]
    stream = await api(bus, f"STREAM.INFO.{s.TELEMETRY_STREAM}", timeout=API_WITHIN)
    limit = stream["config"].get("max_bytes", -1)  # the server may have had no room for as much as we wanted
    full = min(limit, max_bytes) if limit > 0 else max_bytes
    if stream["state"]["bytes"] > full / 2 and booked_up_to >= stream["state"]["first_seq"]:
        purged = await api(bus, f"STREAM.PURGE.{s.TELEMETRY_STREAM}", {"seq": booked_up_to + 1}, timeout=API_WITHIN)
        log.info("booked_events_dropped", events=purged["purged"], up_to=booked_up_to)
    return int(consumer["num_pending"] + consumer["num_ack_pending"])
