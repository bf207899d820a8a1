"""What a caller gets, and how it is noticed that nobody reads a stream any more."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bus import Bus, BusSettings, InboxReply, Message
from bus import publish_with_retry as insist
from contracts import BullpenError, ErrorCode, Piece
from tests.support import eventually


@pytest.fixture
async def bus(nats_server: str) -> AsyncIterator[Bus]:
    async with connected(nats_server) as bus:
        yield bus


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect("test", BusSettings(servers=(url,)), watchdog=False)
    try:
        await bus.flush(30)  # the server knows of its inbox
        yield bus
    finally:
        await bus.close()


def stream(bus: Bus, subject: str) -> InboxReply:
    return InboxReply(bus, subject, "t1", "r1", streaming=True)


async def test_a_reader_who_left_is_noticed_while_pieces_are_sent(bus: Bus, nats_server: str) -> None:
    left: list[str] = []
    async with connected(nats_server) as reader:
        read: list[Message] = []
        inbox = reader.listen(read.append)
        reply = InboxReply(bus, inbox.subject, "t1", "r1", streaming=True, on_abandoned=lambda: left.append("left"))
        await reply.chunk(Piece("Par"))
        await eventually(lambda: read)
        await bus.flush(30)
        assert not reply.abandoned.is_set()
    await eventually(lambda: _noticed(reply))  # the server may need a moment to notice it itself
    await reply.chunk(Piece(" is a city"))
    await bus.flush(30)
    assert left == ["left"]
    assert len(bus._inbox) == 0  # nothing is waited for any more


async def _noticed(reply: InboxReply) -> bool:
    await reply.chunk(Piece("is"))
    return reply.abandoned.is_set()


async def test_a_reader_who_listens_is_never_taken_for_gone(bus: Bus, nats_server: str) -> None:
    """Also not one who answers to every piece."""
    async with connected(nats_server) as reader:

        def answer(message: Message) -> None:
            if message.reply:
                answers.append(asyncio.ensure_future(reader.publish(message.reply, b"thanks")))

        answers: list[asyncio.Future[None]] = []
        reply = stream(bus, reader.listen(answer).subject)
        for _ in range(20):
            await reply.chunk(Piece("piece "))
        await bus.flush(30)
        await eventually(lambda: len(answers) == 20)
        await asyncio.gather(*answers)
        await reader.flush(30)
        await bus.flush(30)
    assert not reply.abandoned.is_set()


async def test_the_last_word_leaves_nothing_open(bus: Bus) -> None:
    read: list[Message] = []
    reply = stream(bus, bus.listen(read.append).subject)
    await reply.chunk(Piece("Par"))
    assert len(bus._inbox) == 2  # the reader's and the one for the server's word
    await reply.error(BullpenError(ErrorCode.CANCELLED, "enough"))
    await eventually(lambda: len(read) == 3)
    assert read[-1].data == b""
    assert len(bus._inbox) == 1


async def test_pieces_carry_their_number_and_the_tokens_so_far(bus: Bus) -> None:
    read: list[dict[str, Any]] = []
    reply = stream(bus, bus.listen(lambda message: read.append(json.loads(message.data))).subject)
    assert reply.first_chunk_at is None
    await reply.chunk(Piece("Par", tokens=1))
    first = reply.first_chunk_at
    await reply.resumed("w1", "w2", continued=True)
    await reply.chunk(Piece("is", tokens=2))
    await reply.chunk(Piece("", tokens=3))
    await eventually(lambda: len(read) == 3)
    assert [(piece["seq"], piece.get("delta"), piece.get("tokens")) for piece in read] == [
        (0, "Par", 1),
        (1, None, None),
        (2, "is", 2),
    ]
    assert first is not None
    assert reply.first_chunk_at == first
    assert reply.delivered.text == "Paris"


async def test_a_caller_who_wants_one_answer_gets_one_message(bus: Bus) -> None:
    read: list[Message] = []
    reply = InboxReply(bus, bus.listen(read.append).subject, "t1", "r1", streaming=False)
    await reply.chunk(Piece("Par"))
    await reply.error(BullpenError(ErrorCode.CANCELLED, "enough"))
    await eventually(lambda: read)
    await asyncio.sleep(2 * insist.AGAIN_AFTER)
    assert len(read) == 1
    assert reply.first_chunk_at is None


async def test_an_answer_finds_a_caller_who_is_back_a_moment_later(
    bus: Bus, nats_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection broke, and with it the inbox that the answer was sent to."""
    monkeypatch.setattr(insist, "BACK_WITHIN", 60.0)
    reply = InboxReply(bus, "_INBOX.away.1", "t1", "r1", streaming=False)
    await reply.error(BullpenError(ErrorCode.CANCELLED, "enough"))
    await bus.flush(30)
    read: list[Message] = []
    async with connected(nats_server) as caller:
        await caller.subscribe_inline("_INBOX.away.1", read.append)
        await eventually(lambda: read)
    assert b"cancelled" in read[0].data


async def test_an_answer_that_nobody_waits_for_is_given_up(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insist, "BACK_WITHIN", 0.5)
    said = 0

    def heard(_: Message) -> None:
        nonlocal said
        said += 1

    before = len(bus._inbox)
    await InboxReply(bus, "_INBOX.gone.1", "t1", "r1", streaming=False).error(BullpenError(ErrorCode.CANCELLED, "no"))
    await eventually(lambda: len(bus._inbox) == before)
    await bus.subscribe_inline("_INBOX.gone.1", heard)
    await asyncio.sleep(2 * insist.AGAIN_AFTER)
    assert said == 0
