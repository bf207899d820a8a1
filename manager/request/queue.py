"""Requests that find every fitting worker full wait here, in order.

Interactive before batch; within them the tenants take turns, so that no tenant waits behind another one's flood; within
a tenant the oldest first. The queue has a limit: when it is full, batch work has to go, and then the latest request of
the tenant with most requests in it, if the newcomer's tenant has less. A request that is called and does not want the
free place (it waits for a better one) hands the call on. Pure bookkeeping on futures.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from contracts import BullpenError, ErrorCode, Priority
from manager.config import SOON_MS

HANDED_ON = 8
"""Requests that may decline the same place before it stays free until the next call."""


@dataclass(eq=False, slots=True)
class Turn:
    """One request's place in the line."""

    tenant: str
    called: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    round: int = 0
    """The last call that the request heard."""
    declined: int = 0
    """How many requests had declined the place that it was called for."""

    @property
    def waits(self) -> bool:
        """Whether the request still waits; False once it was called, or its time was over."""
        return not self.called.done()


class RequestQueue:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.line_s = 0.0
        """Seconds until all waiting requests will have found places, as estimated for the last request that came."""
        self._lines: dict[Priority, OrderedDict[str, deque[Turn]]] = {
            "interactive": OrderedDict(),
            "batch": OrderedDict(),
        }
        self._count = 0
        self._round = 0

    def __len__(self) -> int:
        return self._count

    async def wait(self, priority: Priority, tenant: str, *, last: Turn | None, seconds: float) -> Turn:
        """Waits up to `seconds` to be called.

        A request that was called and found no place comes again with its `last` turn, to the front of its tenant's
        line. Raises `BullpenError(overloaded)` at once when the queue is full.
        """
        if len(self) >= self.limit and not last and not self._make_room(priority, tenant):
            raise self._full()
        line = self._lines[priority]
        turn = Turn(tenant) if last is None else Turn(tenant, round=last.round, declined=last.declined)
        turns = line.setdefault(tenant, deque())
        self._count += 1
        if last is None:
            turns.append(turn)
        else:
            turns.appendleft(turn)
            line.move_to_end(tenant, last=False)
            if last.called.done() and last.declined < HANDED_ON:
                self._call(last.round, last.declined + 1)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await turn.called
        except TimeoutError:
            pass
        finally:
            if not turn.called.done() or turn.called.cancelled():
                self._forget(line, turn)
        return turn

    def call(self, count: int) -> None:
        """`places` have become free: calls as many waiting requests."""
        all_of_them = count >= len(self)
        for _ in range(min(count, len(self))):
            self._round += 1
            self._call(self._round, HANDED_ON if all_of_them else 0)

    def _call(self, round_: int, declined: int) -> None:
        """Calls the next request in line that has not heard this call."""
        for line in self._lines.values():
            for tenant, turns in line.items():
                turn = next((turn for turn in turns if turn.round != round_ and turn.waits), None)
                if turn is not None:
                    line.move_to_end(tenant)
                    self._forget(line, turn)
                    turn.round, turn.declined = round_, declined
                    turn.called.set_result(None)
                    return

    def _make_room(self, priority: Priority, tenant: str) -> bool:
        """Whether another request had to leave for one of this tenant: batch work for interactive, else out of a
        burst.
        """
        if priority == "interactive" and self._send_away("batch", longer_than=0):
            return True
        mine = len(self._lines[priority].get(tenant, ()))
        return self._send_away(priority, longer_than=mine + 1)

    def _send_away(self, priority: Priority, *, longer_than: int) -> bool:
        """Dismisses the latest request of the tenant with most requests, if it has more than `than`."""
        line = self._lines[priority]
        longest = max(line.values(), key=len, default=deque[Turn]())
        turn = next((turn for turn in reversed(longest) if turn.waits), None)
        if len(longest) <= longer_than or turn is None:
            return False
        self._forget(line, turn)
        turn.called.set_exception(self._full())
        return True

    def _full(self) -> BullpenError:
        return BullpenError(
            ErrorCode.OVERLOADED,
            f"every worker is full and {len(self)} requests wait already",
            retry_after_ms=max(SOON_MS, round(self.line_s * 1000)),
        )

    def _forget(self, line: OrderedDict[str, deque[Turn]], turn: Turn) -> None:
        turns = line.get(turn.tenant)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        self._count -= 1
        if not turns:
            del line[turn.tenant]
