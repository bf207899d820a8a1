"""What befalls a worker, over real processes: killed or frozen in the middle of streams, told to leave at once, deaf in
one direction, cut off, killed by its question. Whoever asked is answered once, and whole.
"""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from contracts import InferenceRequest
from tests.books_stream import rows_in
from tests.diary import Diary
from tests.proxy import Direction, Proxy
from tests.roles import PROMPT, Question, Roles, unwell
from tests.servers import NatsServer
from tests.support import eventually
from workers.base import Job
from workers.simulated.backend import SimulatedBackend, SimulatedConfig

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

WORDS = 120
WORDY = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": f"{WORDS}"}
"""Six seconds, word by word."""
ENDLESS = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "2000"}
SECOND = {"BULLPEN_SIMULATED__LATENCY_MS": "1000"}


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


async def undisturbed(prompt: str) -> str:
    """What a `WORDY` worker says that nothing befalls."""
    backend = SimulatedBackend(SimulatedConfig(output_tokens=WORDS))
    return (await backend.infer(Job(InferenceRequest(prompt=prompt), backend.models()[0], None))).text


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
async def test_streams_outlive_their_worker_word_for_word(roles: Roles, sign: signal.Signals) -> None:
    """The other worker goes on where the one that was killed, or froze, stopped."""
    roles.manager(**PROMPT)
    for name in ("w-1", "w-2"):
        roles.worker(name, **WORDY)
    await roles.ready()
    streams = await roles.ask_many(20, prompt="a story", stream=True)
    await eventually(lambda: all(len(stream.heard) > 5 for stream in streams))
    roles.send("w-1", sign)
    await roles.answered(streams)
    assert unwell(streams) == []
    await eventually(lambda: all(stream.heard[-1] == {} for stream in streams))
    told = [read(stream) for stream in streams]
    assert {text for text, _ in told} == {await undisturbed("a story")}
    seams = [(seam["from"], seam["to"], seam["mode"]) for _, seams in told for seam in seams]
    assert set(seams) == {("w-1", "w-2", "continued")}
    moved = [[a["outcome"] for a in s.finals[0]["attempts"]] for s in streams if s.attempts > 1]
    assert len(moved) == len(seams)
    assert {tuple(outcomes) for outcomes in moved} == {("uncertain", "ok")}


@pytest.mark.parametrize(("signals", "patience"), [([signal.SIGTERM, signal.SIGTERM], "30"), ([signal.SIGTERM], "0.3")])
async def test_a_worker_that_has_to_leave_at_once_gives_back_what_it_has(
    roles: Roles, signals: list[signal.Signals], patience: str
) -> None:
    """Because of a second signal, or because it has more to do than time for it."""
    roles.manager()
    roles.worker("w-1", **WORDY, BULLPEN_SIMULATED__DRAIN_TIMEOUT=patience)
    roles.worker("w-2", **WORDY)
    await roles.ready()
    asked = [*await roles.ask_many(10), *await roles.ask_many(10, stream=True)]
    await roles.have(20, "w-1", "w-2")
    for sign in signals:
        roles.send("w-1", sign)
        await eventually(lambda: roles.beats["w-1"].state in ("draining", "stopped"))
    await eventually(lambda: roles.ended("w-1") is not None)
    assert roles.ended("w-1") == 0
    assert unwell(await roles.answered(asked)) == []
    assert {question.finals[0]["worker_id"] for question in asked} == {"w-2"}


@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_line_that_is_dead_one_way_costs_no_answer(
    roles: Roles, nats: NatsServer, direction: Direction
) -> None:
    """The worker speaks and is not heard, or hears nothing."""
    async with Proxy(nats.port) as proxy:
        roles.manager(**PROMPT)
        roles.worker("w-1", **SECOND, NATS_URL=f"nats://127.0.0.1:{proxy.port}")
        roles.worker("w-2", **SECOND)
        await roles.ready()
        before = await roles.ask_many(20)
        proxy.blackhole(direction)
        asked = [*before, *await roles.ask_many(20)]
        assert unwell(await roles.answered(asked)) == []
        assert any(a["worker_id"] == "w-1" and a["outcome"] != "ok" for q in asked for a in q.finals[0]["attempts"])
        await proxy.heal()

        async def both_answer() -> bool:
            answers = await roles.answered(await roles.ask_many(20))
            return {question.finals[0]["worker_id"] for question in answers} == {"w-1", "w-2"}

        await eventually(both_answer, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_worker_whose_connection_breaks_stops_what_others_do_now(
    roles: Roles, nats: NatsServer, stream: bool
) -> None:
    """It is back at once and well, but its question is somebody else's; what it had used is booked."""
    booked: list[Any] = []
    await roles.bus.subscribe_inline("telemetry.attempt", lambda message: booked.extend(rows_in(message)))
    async with Proxy(nats.port) as proxy:
        roles.manager()
        roles.worker("w-1", **ENDLESS, NATS_URL=f"nats://127.0.0.1:{proxy.port}")
        await roles.ready()
        asked = await roles.ask(stream=stream)
        await roles.have(1, "w-1")
        roles.worker("w-2", BULLPEN_SIMULATED__OUTPUT_TOKENS="100")
        await roles.ready()
        proxy.reset()
        await roles.answered([asked])
        await eventually(lambda: roles.beats["w-1"].inflight == 0)
    assert [attempt["outcome"] for attempt in asked.finals[0]["attempts"]] == ["uncertain", "ok"]

    def first() -> list[Any]:
        return [row for row in booked if row["attempt"] == 1 and row["task_id"] == asked.finals[0]["task_id"]]

    await eventually(lambda: any(row["completion_tokens"] for row in first()))
    assert {row["outcome"] for row in first()} == {"uncertain"}


async def test_a_question_that_kills_its_workers_kills_two_at_most(roles: Roles, tmp_path: Path) -> None:
    diary, workers = Diary(tmp_path), {"w-1", "w-2", "w-3"}
    roles.manager()
    diary.kept_by(roles, *workers)
    await roles.ready()
    assert (await roles.answer(prompt="die")).code == "poison_request"
    await eventually(lambda: len(workers & roles.running) == 1)
    (survivor,) = workers & roles.running
    assert (await roles.answer(prompt="live")).finals[0]["worker_id"] == survivor
    assert diary.written == ["die", "die", "live"]


async def test_a_worker_that_comes_and_dies_all_the_time_costs_no_answer(roles: Roles) -> None:
    """It lives just long enough to get questions."""
    roles.manager()
    roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="100")
    await roles.ready()
    asked: list[Question] = []

    async def ask() -> None:
        while True:
            asked.append(await roles.ask())
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    for _ in range(4):
        roles.worker("w-2", BULLPEN_SIMULATED__LATENCY_MS="20000")
        await roles.have(1, "w-2")
        roles.kill("w-2")
    asking.cancel()
    assert unwell(await roles.answered(asked)) == []
    tried = [attempt["worker_id"] for question in asked for attempt in question.finals[0]["attempts"]]
    assert "w-2" in tried
    assert {question.finals[0]["worker_id"] for question in asked} == {"w-1"}
