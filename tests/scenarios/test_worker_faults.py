"""What befalls one worker of two, over real processes: killed or frozen in the middle of streams, told to leave at
once, deaf in one direction. Whoever asked is answered once, and whole.

The number in a docstring is the row of our fault matrix.
"""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy import Direction, Proxy
from tests.roles import Question, Roles, unwell
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

WORDY = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "60"}
"""Three seconds, word by word."""
SECOND = {"BULLPEN_SIMULATED__LATENCY_MS": "1000"}


@pytest.fixture
async def roles(tmp_path: Path, nats: NatsServer) -> AsyncIterator[Roles]:
    """Nobody yet."""
    async with Roles(tmp_path, nats.url) as roles:
        yield roles


def read(stream: Question) -> tuple[str, list[Any]]:
    """The text that its reader has at the end, and the seams in it; no piece may be missing or come twice."""
    *pieces, final, end = stream.heard
    assert end == {}
    assert [piece["seq"] for piece in pieces] == list(range(len(pieces)))
    text, seams = "", []
    for piece in pieces:
        if piece["type"] == "chunk":
            text += piece["delta"]
        else:
            seams.append(piece)
            text = text if piece["mode"] == "continued" else ""
    assert final["output"] == text
    assert final["resumed"] == bool(seams)
    return text, seams


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
async def test_streams_outlive_their_worker_word_for_word(roles: Roles, sign: signal.Signals) -> None:
    """Rows 4 and 5."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name, **WORDY)
    await roles.ready()
    whole = (await roles.answer(prompt="a story")).finals[0]["output"]
    streams = await roles.ask_many(20, prompt="a story", stream=True)
    await eventually(lambda: all(len(stream.heard) > 5 for stream in streams), timeout=10)
    roles.send("w-1", sign)
    await roles.answered(streams)
    assert unwell(streams) == []
    told = [read(stream) for stream in streams]
    assert {text for text, _ in told} == {whole}
    seams = [(seam["from"], seam["to"], seam["mode"]) for _, seams in told for seam in seams]
    assert set(seams) == {("w-1", "w-2", "continued")}
    moved = [[a["outcome"] for a in s.finals[0]["attempts"]] for s in streams if s.attempts > 1]
    assert len(moved) == len(seams)
    assert {tuple(outcomes) for outcomes in moved} == {("uncertain", "ok")}


@pytest.mark.parametrize(("signals", "patience"), [([signal.SIGTERM, signal.SIGTERM], "30"), ([signal.SIGTERM], "0.3")])
async def test_a_worker_that_has_to_leave_at_once_gives_back_what_it_has(
    roles: Roles, signals: list[signal.Signals], patience: str
) -> None:
    """Row 10. A second signal, or more to do than it has time for."""
    roles.manager()
    roles.worker("w-1", **WORDY, BULLPEN_SIMULATED__DRAIN_TIMEOUT=patience)
    roles.worker("w-2", **WORDY)
    await roles.ready()
    asked = [*await roles.ask_many(10), *await roles.ask_many(10, stream=True)]
    await eventually(lambda: roles.beats["w-1"].inflight, timeout=5)
    for sign in signals:
        roles.send("w-1", sign)
        await eventually(lambda: roles.beats["w-1"].state in ("draining", "stopped"), timeout=5)
    await eventually(lambda: roles.ended("w-1") is not None, timeout=5)
    assert roles.ended("w-1") == 0
    assert unwell(await roles.answered(asked)) == []
    assert {question.finals[0]["worker_id"] for question in asked} == {"w-2"}


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_line_that_is_dead_one_way_costs_no_answer(
    roles: Roles, nats: NatsServer, direction: Direction
) -> None:
    """Row 45. The worker speaks and is not heard, or hears nothing."""
    async with Proxy(nats.port) as proxy:
        roles.manager()
        roles.worker("w-1", **SECOND, NATS_URL=f"nats://127.0.0.1:{proxy.port}")
        roles.worker("w-2", **SECOND)
        await roles.ready()
        before = await roles.ask_many(20)
        await eventually(lambda: roles.beats["w-1"].inflight, timeout=5)
        proxy.blackhole(direction)
        asked = [*before, *await roles.ask_many(20)]
        assert unwell(await roles.answered(asked)) == []
        assert max(question.took for question in asked) < 10
        await proxy.heal()

        async def both_answer() -> bool:
            answers = await roles.answered(await roles.ask_many(20))
            return {question.finals[0]["worker_id"] for question in answers} == {"w-1", "w-2"}

        await eventually(both_answer, timeout=30)
