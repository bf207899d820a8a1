"""Seamless streams over real processes: their worker is killed or frozen in the middle, and the reader has one text.

The number in a docstring is the row of our fault matrix.
"""

import signal
from pathlib import Path

import pytest

from tests.roles import PROMPT, Question, Roles, unwell
from tests.scenarios.test_worker_faults import read
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(120)]

STORY = """\
It was late. “We should go,” said the old man, and nobody said a word.

1. The river ran below the hill, black and slow.
2. The river ran below the hill, black and slow.

    for night in range(3):
        wait("ha ha ha ha")

Naïve or not – in the morning they were gone, all of them, and the door was open 🚪."""
READING = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__STORY": STORY}
NO_PREFILL = {"BULLPEN_SIMULATED__MODELS": '[{"name": "simulated", "capabilities": ["chat", "stream"]}]'}


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("able", [{}, NO_PREFILL], ids=["prefill", "anchor"])
async def test_what_is_read_is_the_text_of_an_undisturbed_stream(
    tmp_path: Path, nats: NatsServer, sign: signal.Signals, able: dict[str, str]
) -> None:
    """Rows 4 and 5."""
    async with Roles(tmp_path, nats.url) as roles:
        roles.manager(**PROMPT)
        for name in ("w-1", "w-2"):
            roles.worker(name, **READING, **able)
        await roles.ready()
        streams = await roles.ask_many(10, stream=True, continuation="seamless")
        await eventually(lambda: all(len(stream.heard) > 12 for stream in streams), timeout=20)
        roles.send("w-1", sign)
        await roles.answered(streams, within=40)
    assert unwell(streams) == []
    told = [read(stream) for stream in streams]
    assert {text for text, _ in told} == {STORY}
    seams = {(seam["from"], seam["to"], seam["mode"]) for _, seams in told for seam in seams}
    assert seams == {("w-1", "w-2", "continued")}
    assert {tokens_of(stream) for stream in streams} == {len(STORY.split())}


def tokens_of(stream: Question) -> int:
    return int(stream.finals[0]["completion_tokens"])
