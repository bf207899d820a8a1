"""What a dispatcher makes of words that come when a request is answered already."""

from unittest.mock import Mock

from bus.delivered import Delivered
from contracts import Outcome
from manager.config import ManagerConfig
from manager.request.dispatch import Dispatcher
from manager.request.event_queue import Heard
from manager.request.events import CalledOff, Gone
from tests.unit.test_attempt import READS, STOPPED, answer, attempt
from tests.unit.test_costs import inflight


async def test_a_late_answer_counts_only_while_there_is_none() -> None:
    late, quick, beaten = attempt(1, "w1"), attempt(2, "w2"), attempt(3, "w3")
    for one in (late, quick, beaten):
        one.on(READS, 101.0)
    late.on(Gone("silent", died=False), 102.0)
    beaten.on(CalledOff(STOPPED, beaten=True), 102.0)
    state = inflight(late, quick, beaten)
    state.reply = Mock(streaming=False, delivered=Delivered(), was_resumed=False, first_chunk_at=None)
    quick.on(answer(), 103.0)
    for one in (late, beaten):
        state.events.put(Heard(one, answer()))
    shared = Mock(now=lambda: 104.0, reconnected_at=0.0)
    shared.config = ManagerConfig()
    await Dispatcher(shared, state).answer()
    assert [one.outcome for one in state.attempts] == [
        Outcome.LATE_DISCARDED,
        Outcome.OK,
        Outcome.HEDGED_LOSER,
    ]
