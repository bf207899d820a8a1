"""Stand-in by the lead until the real one is written: helper, overwrite this file as you like."""

from bus.connection import Bus


async def connected(bus: Bus, within: float = 0.5) -> frozenset[str] | None:
    """The names of all connections; None when no server answers."""
    return None
