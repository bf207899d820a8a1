"""`bullpen ask` and what a model thinks: shown to people, and to nobody in a pipe."""

from collections.abc import AsyncIterator

import pytest

from bus import Message
from contracts import Chunk, Piece
from tests.cli import Terminal, bullpen
from tests.fake_manager import FakeManager


@pytest.fixture
async def manager(nats_server: str) -> AsyncIterator[FakeManager]:
    manager = await FakeManager.start(nats_server)

    async def thinks(message: Message, task_id: str) -> None:
        if b'"stream":true' not in message.data.replace(b" ", b""):
            await manager.answer(message, task_id)
            return
        for seq, piece in enumerate((Piece(reasoning="Hm, "), Piece(reasoning="France."), Piece("Pa"), Piece("ris"))):
            await manager.bus.publish(message.reply, Chunk.of(task_id, seq, piece).to_bytes())
        await manager.final(message, task_id, reasoning="Hm, France.")

    manager.script = thinks
    yield manager
    await manager.bus.close()


async def test_on_a_terminal_thoughts_stand_dimmed_before_the_answer(manager: FakeManager, nats_server: str) -> None:
    async with Terminal.run("ask", "Where?", "--reasoning-effort", "low", NATS_URL=nats_server) as terminal:
        assert await terminal.end() == 0
    assert "Hm, France.\n\nParis\n" in terminal.screen
    assert "\x1b[2mHm, " in terminal.raw
    assert manager.requests[0][1]["reasoning_effort"] == "low"


async def test_in_a_pipe_there_are_no_thoughts(manager: FakeManager, nats_server: str) -> None:
    told = await bullpen("ask", "Where?", env={"NATS_URL": nats_server})
    assert (told.code, told.out, told.err) == (0, "Paris\n", "")
