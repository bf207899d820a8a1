"""The NATS server dies, freezes, is away for long, or keeps nothing: over real processes.

Callers here are bare ones, one message and one inbox, unless it says that our client asks.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from bus import Bus, BusError, BusSettings, connection
from bus.backoff import Backoff
from client import Bullpen
from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, Resumed
from contracts import headers as h
from tests.books_stream import booked, make_stream
from tests.diary import Diary
from tests.proxy import Proxy
from tests.roles import Roles, roles_on_a_server, unwell
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

UNHURRIED = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "40"}
"""An answer takes two seconds, and comes word by word."""
LONG = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "20", "BULLPEN_SIMULATED__OUTPUT_TOKENS": "120"}
"""Six seconds: longer than anybody needs to come back."""
AWAY = 5.0
SOME = 10
"""Of forty questions at two workers, one of which may have had no processor just then."""


async def freeze(nats: NatsServer) -> None:
    """Returns when it really stands still: it may have been busy."""
    assert nats.process is not None
    nats.send(signal.SIGSTOP)
    threads = [psutil.Process(thread.id) for thread in psutil.Process(nats.process.pid).threads()]
    await eventually(lambda: all(thread.status() == psutil.STATUS_STOPPED for thread in threads))


class Reader:
    """Reads one stream to its end."""

    def __init__(self, bullpen: Bullpen) -> None:
        self.text = ""
        self.has_begun = False
        self.reading = asyncio.create_task(self._read(bullpen))

    async def _read(self, bullpen: Bullpen) -> bool:
        """Whether what came is the answer."""
        async for event in bullpen.stream("a story"):
            self.has_begun = True
            match event:
                case Chunk(delta=delta):
                    self.text += delta
                case Resumed(mode="restarted"):
                    self.text = ""
                case FinalResponse(output=output):
                    return self.text == output
        return False


async def test_nats_killed_under_load_costs_no_answer(roles: Roles, nats: NatsServer) -> None:
    """What was under way is answered over the next connection, and not done again; our client's streams are whole."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name, **LONG)
    await roles.ready()
    async with Bullpen.connect(nats.url) as bullpen:
        asked = await roles.ask_many(40)
        readers = [Reader(bullpen) for _ in range(10)]
        await roles.have(40, "w-1", "w-2")
        await eventually(lambda: all(reader.has_begun for reader in readers))
        nats.kill()
        await nats.start()
        await roles.serves_again(within=40)
        assert unwell(await roles.answered(asked)) == []
        assert sum(question.attempts == 1 for question in asked) >= SOME
        assert all(await asyncio.gather(*(reader.reading for reader in readers)))


@asynccontextmanager
async def heard_of_an_answer(url: str) -> AsyncIterator[asyncio.Event]:
    """Set when an answer was sent, also to a caller that is away: then the Manager books it."""
    bus, sent = await Bus.connect("another", BusSettings(servers=(url,)), watchdog=False), asyncio.Event()
    try:
        await bus.subscribe_inline("telemetry.response", lambda message: sent.set())
        await bus.flush(20)
        yield sent
    finally:
        await bus.close()


async def test_a_bare_caller_that_is_back_later_than_the_manager_is_answered(
    tmp_path: Path, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is broken when the answer is sent. It is back soon after; callers have some seconds for that."""
    monkeypatch.setattr(connection, "RECONNECT", Backoff(0.1, 0.1))
    async with Proxy(nats.port) as line, Roles(tmp_path, nats.url, f"nats://127.0.0.1:{line.port}") as roles:
        roles.manager()
        roles.worker("w-1", **UNHURRIED)
        await roles.ready()
        question = await roles.ask()
        await roles.have(1, "w-1")
        async with heard_of_an_answer(nats.url) as sent:
            line.refuse()
            line.reset()
            await sent.wait()
            assert question.finals == []
            await line.heal()
            assert unwell(await roles.answered([question])) == []


async def test_what_expired_on_its_way_is_not_computed(tmp_path: Path, nats: NatsServer) -> None:
    """All is delivered in the end, too late or not, as after a pause of the server that nobody took for its death."""
    diary = Diary(tmp_path)
    async with Proxy(nats.port) as line, Roles(tmp_path, nats.url, f"nats://127.0.0.1:{line.port}") as roles:
        roles.manager()
        diary.kept_by(roles, "w-1", "w-2")
        await roles.ready()
        line.to_server.delay = 1.0
        soon = {h.DEADLINE: str(round(time.time() * 1000) + 300)}
        expired = [await roles.ask(subject, soon, prompt="late") for subject in ("infer.auto", "infer.diary") * 5]
        patient = await roles.ask_many(10, prompt="in time")
        assert unwell(await roles.answered(patient)) == []
        assert {question.code for question in await roles.answered(expired)} == {"deadline_exceeded"}
        assert set(diary.written) == {"in time"}


async def test_nats_frozen_for_long_costs_no_answer(roles: Roles, nats: NatsServer) -> None:
    """Everybody took the server for dead: what was under way is answered, as is what our client asked."""
    roles.manager()
    for name in ("w-1", "w-2"):
        roles.worker(name, BULLPEN_SIMULATED__LATENCY_MS="3000")
    await roles.ready()
    async with Bullpen.connect(nats.url) as bullpen:
        under_way = await roles.ask_many(20)
        await roles.have(20, "w-1", "w-2")
        await freeze(nats)
        try:
            patient = [asyncio.create_task(bullpen.ask("in time")) for _ in range(5)]
            with pytest.raises(BullpenError) as caught:
                await bullpen.ask("too late", deadline_ms=1000)
            assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
            for name in roles.running:
                await eventually(partial(says, roles, name, "bus_deaf"))
        finally:
            nats.send(signal.SIGCONT)
        assert unwell(await roles.answered(under_way)) == []
        assert all(answer.output for answer in await asyncio.gather(*patient))


def says(roles: Roles, name: str, event: str) -> bool:
    """Whether a role has logged that."""
    return event in roles.log(name)


async def test_nats_away_for_long_is_waited_for_and_callers_are_told(roles: Roles, nats: NatsServer) -> None:
    """How long makes no difference once the pauses between tries have stopped growing."""
    roles.manager()
    roles.worker("w-1")
    await roles.ready()
    pids = {name: roles.pid(name) for name in roles.running}
    async with Bullpen.connect(nats.url) as bullpen:
        nats.kill()
        began = time.monotonic()
        async with asyncio.timeout(30):  # not the two minutes that a question usually has
            with pytest.raises(BullpenError) as caught:
                await bullpen.ask("anybody?", deadline_ms=1000)
        assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
        assert "NATS" in str(caught.value)
        with pytest.raises(BusError, match="NATS"):
            async with Bullpen.connect(nats.url):
                pass
        patient = asyncio.create_task(bullpen.ask("are you back?"))
        await asyncio.sleep(AWAY - (time.monotonic() - began))
        await nats.start()
        assert (await patient).output
    await roles.serves_again(within=40)
    assert {name: roles.pid(name) for name in roles.running} == pids


async def test_without_jetstream_everything_is_answered(tmp_path: Path) -> None:
    """A bare server as a stranger starts it: no JetStream, no system events. Nobody waits for either."""
    async with roles_on_a_server(tmp_path) as roles:
        roles.manager()
        roles.worker("w-1")
        await roles.ready()
        everybody = [
            *await roles.ask_many(50),
            *await roles.ask_many(10, stream=True),
            *await roles.ask_many(10, "infer.simulated"),
            *[await roles.ask(idempotency_key=f"key-{number % 5}") for number in range(10)],
        ]
        assert unwell(await roles.answered(everybody)) == []
        await eventually(lambda: "telemetry_waits" in roles.log("m-1"))
        assert roles.log("m-1").count("telemetry_waits") < len(everybody) / 10, "told again and again"


async def test_a_full_stream_costs_no_answer_and_no_booking(roles: Roles) -> None:
    """Also while there is no stream at all."""
    roles.manager()
    roles.worker("w-1")
    await roles.ready()
    assert unwell(await roles.answered(await roles.ask_many(20))) == []
    await make_stream(roles.bus, max_bytes=4096)
    everybody = [*await roles.ask_many(30), *await roles.ask_many(10, stream=True)]
    assert unwell(await roles.answered(everybody)) == []
    await eventually(lambda: "telemetry_waits" in roles.log("m-1"))
    assert not await booked(roles.bus, 60)
    await make_stream(roles.bus, "UPDATE", max_bytes=1 << 20)
    await eventually(lambda: booked(roles.bus, 60), timeout=60)
