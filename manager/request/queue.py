"""Requests that find every fitting worker full wait here, in order.

Interactive before batch; within them the tenants take turns, so that no tenant waits behind another one's flood; within
a tenant the oldest first. The queue has a limit: when it is full, batch work has to go, and then the latest request of
the tenant with most requests in it, if the newcomer's tenant has less. Only requests are called that want what the
worker with the free place serves: with thousands waiting, looking at all workers for each costs seconds. A request that
is called and does not want the free place (it waits for a better one) hands the call on. Pure bookkeeping on futures.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from contracts import BullpenError, ErrorCode, Priority
from manager.config import SOON_MS
from manager.routing.query import ANYTHING, Wants

HANDED_ON = 8
"""Requests that may decline the same place before it stays free until the next call."""
AT_ONCE = 8
"""Requests that one call wakes at most; each that takes a place calls the next one, while another place is free."""

Place = Callable[[Wants], bool]
"""Whether a place is free, as of now, for requests that want this."""


@dataclass(eq=False, slots=True)
class Call:
    """A place that requests are called to, one after the other until one takes it."""

    place: Place
    declined: int = 0
    """Requests that did not take it."""


@dataclass(eq=False, slots=True)
class Turn:
    """One request's place in the line."""

    tenant: str
    wants: Wants = ANYTHING
    priority: Priority = "interactive"
    called: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    call: Call | None = None
    """The last call that the request heard."""

    def again(self) -> "Turn":
        """The next turn of the same request."""
        return Turn(self.tenant, self.wants, self.priority, call=self.call)

    @property
    def was_called(self) -> bool:
        return self.called.done() and not self.called.cancelled()

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
        self._waiting: Counter[Wants] = Counter()
        """How many wait, by what they want."""

    def __len__(self) -> int:
        return self._waiting.total()

    def ahead_of(self, wants: Wants) -> int:
        """How many requests wait for what serves `wants` too."""
        return sum(count for other, count in self._waiting.items() if wants.may_share_with(other))

    async def wait(self, turn: Turn, *, last: Turn | None = None, seconds: float) -> None:
        """Waits up to `seconds` to be called.

        A request that was called and found no place comes again after its `last` turn, to the front of its tenant's
        line. Raises `BullpenError(overloaded)` at once when the queue is full.
        """
        if len(self) >= self.limit and last is None and not self._make_room(turn.priority, turn.tenant):
            raise self._full()
        line = self._lines[turn.priority]
        turns = line.setdefault(turn.tenant, deque())
        self._waiting[turn.wants] += 1
        if last is None:
            turns.append(turn)
        else:
            turns.appendleft(turn)
            line.move_to_end(turn.tenant, last=False)
            self._hand_on(last)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await turn.called
        except TimeoutError:
            pass
        finally:
            if not turn.called.done() or turn.called.cancelled():
                self._forget(turn)

    def call(self, places: int, place: Place) -> None:
        """So many places have become free: calls as many waiting requests of those that they are for."""
        fitting = sum(count for wants, count in self._waiting.items() if place(wants))
        calls = min(places, AT_ONCE, fitting)
        for _ in range(calls):
            if not self._call(Call(place, declined=HANDED_ON if calls == fitting else 0)):
                return

    def call_all(self, place: Place) -> None:
        """Has all look again that want this."""
        fitting = sum(count for wants, count in self._waiting.items() if place(wants))
        call = Call(place, declined=HANDED_ON)
        for _ in range(fitting):
            self._call(call)

    def wake(self, turn: Turn) -> None:
        """Has one request look again, whatever places there are."""
        if turn.waits:
            self._forget(turn)
            turn.call = None
            turn.called.set_result(None)

    def _hand_on(self, last: Turn) -> None:
        """The next request is called to a place that this one was called to and has not taken."""
        call = last.call
        if call is not None and call.declined < HANDED_ON and last.was_called:
            call.declined += 1
            self._call(call)

    def _call(self, call: Call) -> bool:
        """Calls the next request in line that has not heard this call. False: there is none."""
        fitting = {wants for wants in self._waiting if call.place(wants)}
        for line in self._lines.values() if fitting else ():
            for tenant, turns in line.items():
                turn = next((t for t in turns if t.wants in fitting and t.call is not call and t.waits), None)
                if turn is not None:
                    line.move_to_end(tenant)
                    self._forget(turn)
                    turn.call = call
                    turn.called.set_result(None)
                    return True
        return False

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
        self._forget(turn)
        turn.called.set_exception(self._full())
        return True

    def _full(self) -> BullpenError:
        return BullpenError(
            ErrorCode.OVERLOADED,
            f"every worker is full and {len(self)} requests wait already",
            retry_after_ms=max(SOON_MS, round(self.line_s * 1000)),
        )

    def _forget(self, turn: Turn) -> None:
        line = self._lines[turn.priority]
        turns = line.get(turn.tenant)
        if turns is None or turn not in turns:
            return
        turns.remove(turn)
        self._waiting[turn.wants] -= 1
        if not self._waiting[turn.wants]:
            del self._waiting[turn.wants]
        if not turns:
            del line[turn.tenant]
