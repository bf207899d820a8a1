"""`bullpen chat` and `ask --continue`: what was said goes along, and stays on this machine."""

from pathlib import Path

from bullpen import conversation
from bus import Message
from contracts import BullpenError, ErrorCode
from tests.cli import Terminal, bullpen
from tests.fake_manager import FakeManager
from tests.support import eventually


async def test_a_second_question_takes_the_first_one_along(
    manager: FakeManager, nats_server: str, tmp_path: Path
) -> None:
    env = {"NATS_URL": nats_server, "BULLPEN_DATA_DIR": str(tmp_path)}
    assert (await bullpen("ask", "Where?", "-s", "brief", "-m", "m", env=env)).code == 0
    assert (await bullpen("ask", "--continue", "Why?", env=env)).code == 0
    assert (await bullpen("ask", "And now?", env=env)).code == 0
    first, second, third = (request for _, request in manager.requests)
    assert first["context"] == {"system": "brief"}
    assert second["context"] == {
        "system": "brief",
        "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Paris"}],
    }
    assert (second["prompt"], second["model"]) == ("Why?", "m")
    assert "context" not in third
    file = tmp_path / conversation.NAME
    assert file.stat().st_mode & 0o077 == 0
    conversation.forget(tmp_path)
    assert conversation.load(tmp_path) is None


async def test_chat_in_a_pipe_goes_on_after_an_error(manager: FakeManager, nats_server: str, tmp_path: Path) -> None:
    async def once_wrong(message: Message, task_id: str) -> None:
        if len(manager.requests) == 2:
            served = "nobody serves llama4; served are: llama3, m"
            await manager.fail(message, task_id, BullpenError(ErrorCode.NO_SUCH_MODEL, served, field="model"))
        else:
            await manager.chunks(message, task_id, "Pa", "ris")
            await manager.final(message, task_id)

    manager.script = once_wrong
    saved = tmp_path / "talk.md"
    typed = f"Where?\n/model llama4\nWhy?\n/modle\n/model m\nAnd?\n/save {saved}\n/clear\nNew?\n/exit\nno\n"
    env = {"NATS_URL": nats_server, "BULLPEN_DATA_DIR": str(tmp_path)}
    told = await bullpen("chat", stdin=typed.encode(), env=env)
    assert told.code == 0
    assert told.out == "Paris\nParis\nParis\n"
    assert "did you mean llama3?" in told.err
    assert "did you mean /model?" in told.err
    asked = [request for _, request in manager.requests]
    assert [request["prompt"] for request in asked] == ["Where?", "Why?", "And?", "New?"]
    assert [turn["content"] for turn in asked[2]["context"]["messages"]] == ["Where?", "Paris"]
    assert asked[2]["model"] == "m"
    assert "context" not in asked[3]
    assert saved.read_text().startswith("## You\n\nWhere?\n\n## Answer\n\nParis")


async def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    manager: FakeManager, nats_server: str, tmp_path: Path
) -> None:
    async def begin(message: Message, task_id: str) -> None:
        await manager.chunks(message, task_id, "Once upon")
        await manager.silence(message, task_id)

    manager.script = begin
    async with Terminal.run("chat", NATS_URL=nats_server, BULLPEN_DATA_DIR=str(tmp_path)) as terminal:
        await eventually(lambda: "›" in terminal.screen)
        terminal.type("A story\n")
        await eventually(lambda: "Once upon" in terminal.screen)
        terminal.interrupt()
        await eventually(lambda: len(manager.cancelled) == 1)
        manager.script = manager.answer
        await eventually(lambda: terminal.screen.count("›") == 2)
        terminal.type("Where?\n")
        await eventually(lambda: "Paris" in terminal.screen)
        await eventually(lambda: terminal.screen.count("›") == 3)
        assert "m · w-1" in terminal.screen, "who answered"
        terminal.type("\x04")
        assert await terminal.end() == 0
    assert "context" not in manager.requests[-1][1], "what was broken off was not said"
