"""A process that stood still publishes nothing to a connection that the server has cut off meanwhile."""

import asyncio
import time

import psutil
import pytest
from nats.aio.transport import TcpTransport

from bus import Bus, BusSettings
from bus.jetstream import ensure_stream
from bus.patched_client import CLOSE_WITHIN
from bus.queue import Archive, read_after
from tests.servers import NatsServer
from tests.support import eventually


@pytest.mark.parametrize("nats", [3.0], indirect=True, ids=["cut off after 3 s"])
@pytest.mark.parametrize("goes_on", ["at once", "with what it finds"])
async def test_what_is_said_after_a_standstill_is_not_lost(nats: NatsServer, goes_on: str) -> None:
    """It goes on in the middle of what it does, or with a message that was there when it stood still."""
    bus = await Bus.connect("frozen", BusSettings(servers=(nats.url,)), patience=20, watchdog=False)
    await ensure_stream(bus, Archive("KEPT", ("kept.>",)))
    _stand_still_until_cut_off(bus)
    if goes_on == "with what it finds":
        await bus._tasks.start(_next_turn(), "turn")
    await bus.publish("kept.word", b"said")

    async def is_kept() -> bool:
        return [message.data for message in await read_after(bus, "KEPT", "kept.>", 0)] == [b"said"]

    await eventually(is_kept)
    assert bus.reconnects >= 1
    await asyncio.sleep(2 * CLOSE_WITHIN)  # the connection that was lost is dropped after one
    await bus.close()


def _stand_still_until_cut_off(bus: Bus) -> None:
    """All of this process does. What is left of the connection is our end."""
    transport = bus.nats._transport
    assert isinstance(transport, TcpTransport)
    assert transport._io_writer is not None
    ours = transport._io_writer.get_extra_info("sockname")[1]
    end = time.monotonic() + 60
    while not any(
        one.laddr.port == ours and one.status == psutil.CONN_CLOSE_WAIT
        for one in psutil.Process().net_connections("tcp")
    ):
        assert time.monotonic() < end, "the server does not cut us off"
        time.sleep(0.1)


async def _next_turn() -> None:
    """The loop goes round once."""
