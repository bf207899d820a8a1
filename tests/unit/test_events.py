"""What was heard comes out in order, and pieces of a stream that have to wait are joined."""

import asyncio

from contracts import Claim, Piece
from manager.request.attempt import Attempt
from manager.request.event_queue import EventQueue, Heard
from manager.request.events import Gone, Streamed
from tests.unit.test_attempt import attempt


def piece(one: Attempt, seq: int, text: str) -> Heard:
    return Heard(one, Streamed(Piece(text, tokens=seq + 1), seq, seq))


def taken(events: EventQueue) -> list[Heard]:
    return list(iter(events.take, None))


def test_pieces_that_wait_are_joined_and_nothing_overtakes() -> None:
    one, other, events = attempt(1), attempt(2), EventQueue()
    claim = Heard(one, Claim(attempt=1, epoch="e"))
    for heard in (claim, piece(one, 0, "a"), piece(one, 1, "b"), piece(other, 0, "x"), piece(one, 2, "c")):
        events.put(heard)
    first, joined, foreign, last = taken(events)
    assert first is claim
    assert isinstance(joined.event, Streamed)
    assert (joined.event.piece.text, joined.event.piece.tokens) == ("ab", 2)
    assert (foreign.attempt, last.attempt) == (other, one)


async def test_waiting_ends_with_what_comes_or_with_the_time() -> None:
    events, loop = EventQueue(), asyncio.get_running_loop()
    assert await events.next(loop.time() + 0.01) is None
    gone = Heard(attempt(), Gone("away"))
    loop.call_later(0.01, events.put, gone)
    assert await events.next(loop.time() + 600) is gone


def test_pieces_between_which_one_is_missing_are_not_joined() -> None:
    """The attempt has to see the gap."""
    one, events = attempt(1), EventQueue()
    for heard in (piece(one, 0, "a"), piece(one, 2, "c"), piece(one, 3, "d")):
        events.put(heard)
    assert [heard.event for heard in taken(events)] == [
        Streamed(Piece("a", tokens=1), 0, 0),
        Streamed(Piece("cd", tokens=4), 2, 3),
    ]
