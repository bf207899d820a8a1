"""What a dispatcher makes of late answers, of free places, and of workers that nothing reaches."""

import asyncio
from unittest.mock import Mock

from bus import Message
from bus.delivered import Delivered
from contracts import InferenceRequest, Outcome
from manager.config import ManagerConfig
from manager.request.dispatch import Dispatcher
from manager.request.event_queue import Heard
from manager.request.events import CalledOff, Gone
from manager.request.queue import Turn
from manager.request.shared_state import SharedState
from manager.routing.query import Choice, RoutingQuery, Wants
from manager.routing.registry import RETURN_WITHIN
from tests.unit.test_attempt import READS, STOPPED, answer, attempt
from tests.unit.test_costs import inflight
from tests.unit.test_registry import beat


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


async def test_workers_that_nothing_reaches_any_more_may_be_back_when_all_are_gone() -> None:
    """The server that they were connected to was killed, and no other one says that they left."""
    shared = SharedState(Mock(), ManagerConfig(), "m-1", Mock(), clock=lambda: 100.0)
    state = inflight()
    for worker_id in ("w1", "w2"):
        shared.registry.hear(beat(worker_id), 100.0, wall=0.0)
        state.attempts.append(attempt(len(state.attempts) + 1, worker_id))
        assert not shared.registry.all_cut_off(100.0)
        refused = Message("_INBOX.x", b"", "", headers={"Status": "503"})
        Dispatcher(shared, state)._hear(state.attempts[-1], refused)
    assert shared.registry.all_cut_off(100.0)
    assert not shared.registry.all_cut_off(100.0 + RETURN_WITHIN)


async def test_a_request_that_takes_a_place_calls_the_next_while_its_worker_has_another() -> None:
    shared = SharedState(Mock(), ManagerConfig(), "m-1", Mock(), clock=lambda: 100.0)
    shared.registry.hear(beat(capacity=2), 100.0, wall=0.0)
    (worker,) = shared.registry
    turns = [Turn("") for _ in range(3)]
    turns[0].wants = Wants(backend="another")
    waiting = [asyncio.create_task(shared.queue.wait(turn, seconds=600)) for turn in turns]
    await asyncio.sleep(0)
    took = Choice(worker, worker.heartbeat.models[0]), RoutingQuery.of(InferenceRequest(prompt="?"))
    shared.took(*took)
    assert [turn.waits for turn in turns] == [True, False, True]
    shared.took(*took)
    assert [turn.waits for turn in turns] == [True, False, True], "it is full now"
    for task in waiting:
        task.cancel()


async def test_a_worker_that_asked_for_a_pause_has_no_free_places() -> None:
    shared = SharedState(Mock(), ManagerConfig(), "m-1", Mock(), clock=lambda: 100.0)
    shared.registry.hear(beat(capacity=2), 100.0, wall=0.0)
    (worker,) = shared.registry
    turn = Turn("")
    waiting = asyncio.create_task(shared.queue.wait(turn, seconds=600))
    await asyncio.sleep(0)
    worker.leave_alone(None, 101.0)
    shared.call_to(worker, 2)
    assert turn.waits
    worker.leave_alone(None, 99.0)
    shared.call_to(worker, 2)
    assert not turn.waits
    await waiting
