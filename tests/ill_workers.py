"""Workers that fall ill, who is asked before whom, and what is booked of it."""

from decimal import Decimal
from typing import Any

from bus import Message
from contracts import AttemptRecord, Price
from outbox.batch import unpacked
from tests.mesh import SmallMesh
from tests.support import eventually

WORDY: dict[str, Any] = {"tokens_per_second": 200.0, "output_tokens": 40}
IMPATIENT: dict[str, Any] = {"next_token_timeout": 0.4, "first_token_timeout": 0.6}
HANGS: dict[str, Any] = {**WORDY, "next_token_timeout": 3, "first_token_timeout": 3, "hang_after_tokens": 10}
# Of two workers that are otherwise equal, `cheapest` asks the free one first.
FREE: dict[str, Any] = {"price": {"input_per_mtok": 0, "output_per_mtok": 0}}
DEAR: dict[str, Any] = {"price": {"input_per_mtok": 400, "output_per_mtok": 400}}
FREE_OF_CHARGE = Price(input_per_mtok=Decimal(0), output_per_mtok=Decimal(0))


class Attempts:
    """The rows that are booked for attempts, as they come."""

    def __init__(self) -> None:
        self.rows: list[AttemptRecord] = []

    @classmethod
    async def of(cls, mesh: SmallMesh) -> "Attempts":
        attempts = cls()
        await mesh.bus.subscribe_inline("telemetry.attempt", attempts._hear)
        return attempts

    async def outcomes(self, *expected: str) -> list[AttemptRecord]:
        """Waits until these are booked, in the order of the attempts."""
        await eventually(lambda: [r.outcome for r in sorted(self.rows, key=lambda r: r.attempt)] == list(expected))
        return sorted(self.rows, key=lambda row: row.attempt)

    def _hear(self, message: Message) -> None:
        rows = [AttemptRecord.model_validate_json(event) for event in unpacked(message.data)]
        # It is told again when nobody acknowledged it in time.
        self.rows += [row for row in rows if row not in self.rows]
