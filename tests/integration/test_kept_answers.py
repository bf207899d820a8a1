"""The answers that Managers keep by key: of all who come with one, one runs, also when that one fails or dies."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bus import Bus, BusSettings, Message, Subscription
from bus.kv import Bucket
from contracts import BullpenError, ErrorCode, InferenceRequest, InferenceResponse, new_id, parse_request, utc_now
from manager import idempotency
from manager.idempotency import BUCKET, LARGEST, Answers, Mine, Replay, entry_name
from tests.servers import NatsServer, PlainNats
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("patient_keys")


class Ledger:
    """What one Manager would know."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.answers = Answers(bus)
        self.mine: set[str] = set()
        self.looked_for: list[str] = []
        """The requests, of any Manager, that somebody asked for."""
        self.hears: Subscription
        self._opening = asyncio.create_task(self.answers.keep_open())

    @classmethod
    async def open(cls, name: str, url: str) -> "Ledger":
        ledger = cls(await Bus.connect(name, BusSettings(servers=(url,)), watchdog=False, patience=20))
        ledger.hears = await ledger.bus.subscribe("infer.status", ledger._say)
        return ledger

    async def close(self) -> None:
        self._opening.cancel()
        await self.bus.close()

    async def begin(
        self, request: InferenceRequest, *, seconds: float = 50.0, key: str = "key", request_id: str = ""
    ) -> Mine | Replay:
        deadline = asyncio.get_running_loop().time() + seconds
        request_id = request_id or new_id()
        self.mine.add(request_id)  # a Manager has a request from its first moment on
        entry = await self.answers.begin(key, request, request_id, deadline)
        if isinstance(entry, Replay):
            self.mine.discard(request_id)
        return entry

    async def first(self, request: InferenceRequest, *, key: str = "key") -> Mine:
        entry = await self.begin(request, key=key)
        assert isinstance(entry, Mine)
        return entry

    async def _say(self, message: Message) -> None:
        """That it has the request, while it does."""
        request_id = json.loads(message.data)["request_id"]
        self.looked_for.append(request_id)
        if request_id in self.mine:
            await self.bus.publish(message.reply, b"{}")


@pytest.fixture
async def ledgers(nats: NatsServer) -> AsyncIterator[list[Ledger]]:
    """Those of three Managers; each says of a request that it has it, while it does."""
    made = [await Ledger.open(f"m-{number}", nats.url) for number in range(3)]
    await eventually(lambda: all(ledger.answers.remembers for ledger in made))
    yield made
    for ledger in made:
        await ledger.close()


def asked(**changes: Any) -> InferenceRequest:
    return parse_request(json.dumps({"prompt": "hi", **changes}).encode())


def answer(output: str = "hello") -> InferenceResponse:
    return InferenceResponse(
        task_id="t",
        model_id="m",
        output=output,
        tokens_used=3,
        duration_ms=1.0,
        confidence=0.5,
        request_id=new_id(),
        backend="b",
        worker_id="w",
        prompt_tokens=1,
        completion_tokens=2,
        finish_reason="stop",
        confidence_source="prior",
        created_at=utc_now(),
    )


async def test_who_waits_takes_over_when_the_manager_is_gone(ledgers: list[Ledger]) -> None:
    one, other, third = ledgers
    first = await one.first(asked())
    waiting = asyncio.create_task(other.begin(asked()))
    await eventually(lambda: one.looked_for)
    assert not waiting.done()
    one.mine.clear()  # it is dead, or frozen: it says nothing any more
    taken = await waiting
    assert isinstance(taken, Mine)
    await one.answers.finish(first, answer("from the frozen one"))  # it wakes up while the second is at it
    with pytest.raises(BullpenError):
        await third.begin(asked(), seconds=0.2)
    await other.answers.finish(taken, answer("from the second"))
    await one.answers.finish(first, answer("from the frozen one"))  # or when the second has answered
    await one.answers.release(first)
    replay = await third.begin(asked())
    assert isinstance(replay, Replay)
    assert replay.answer.output == "from the second"


@pytest.mark.parametrize("connected", [True, False])
async def test_a_silent_manager_that_is_connected_is_asked_more_often(
    ledgers: list[Ledger], connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be busy, or frozen for a moment: its request would run twice."""
    monkeypatch.setattr(idempotency, "STATUS_WITHIN", 0.5)
    monkeypatch.setattr(idempotency, "TIMES_FROZEN", 5 if connected else 1000)
    one, other, _ = ledgers
    await one.first(asked())
    one.mine.clear()  # it says nothing any more
    if not connected:
        await one.bus.close()
    heard: list[bytes] = []
    await other.bus.subscribe_inline("infer.status", lambda message: heard.append(message.data))
    assert isinstance(await other.begin(asked()), Mine)
    assert not connected or len(heard) >= 5


async def test_after_a_failure_exactly_one_waiting_request_runs(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked())
    waiting = [asyncio.create_task(ledger.begin(asked())) for ledger in ledgers for _ in range(5)]
    await eventually(lambda: len(ledgers[0].looked_for) >= len(waiting))
    await ledgers[0].answers.release(first)
    done, _ = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    assert [isinstance(task.result(), Mine) for task in done] == [True]
    mine = done.pop().result()
    assert isinstance(mine, Mine)
    await ledgers[0].answers.finish(mine, answer())
    rest = await asyncio.gather(*waiting)
    assert sum(isinstance(entry, Replay) for entry in rest) == 14


async def test_who_waits_is_told_at_its_own_deadline(ledgers: list[Ledger]) -> None:
    await ledgers[0].begin(asked())
    with pytest.raises(BullpenError) as told:
        await ledgers[1].begin(asked(), seconds=0.5)
    assert (told.value.code, told.value.retryable) == (ErrorCode.CONFLICT, True)


async def test_who_made_the_entry_and_did_not_hear_so_does_not_wait_for_itself(ledgers: list[Ledger]) -> None:
    """The server went away between the entry and its word."""
    one, other, _ = ledgers
    made = await one.first(asked())
    again = await one.begin(asked(), request_id=made.request_id)
    assert again == made
    waiting = asyncio.create_task(other.begin(asked()))
    await one.answers.finish(made, answer("once"))
    replay = await waiting
    assert isinstance(replay, Replay) and replay.answer.output == "once"


async def test_an_answer_that_is_too_large_is_not_kept(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked())
    await ledgers[0].answers.finish(first, answer("x" * LARGEST))
    assert isinstance(await ledgers[1].begin(asked()), Mine)


async def test_keys_survive_the_server(ledgers: list[Ledger], nats: NatsServer) -> None:
    first = await ledgers[0].first(asked())
    await ledgers[0].answers.finish(first, answer())
    nats.kill()
    await nats.start()
    await eventually(lambda: all(ledger.bus.is_connected and ledger.bus.reconnects for ledger in ledgers))
    assert isinstance(await ledgers[1].begin(asked()), Replay)


async def test_fifty_at_once_over_three_ledgers_are_one_run_and_49_replays(ledgers: list[Ledger]) -> None:
    async def ask(ledger: Ledger) -> Mine | Replay:
        entry = await ledger.begin(asked())
        if isinstance(entry, Mine):
            await ledger.answers.finish(entry, answer())
        return entry

    entries = await asyncio.gather(*(ask(ledgers[number % 3]) for number in range(50)))
    mine = [entry for entry in entries if isinstance(entry, Mine)]
    assert len(mine) == 1
    assert mine[0].revision


async def test_one_request_per_key_runs_at_a_time_whatever_fails_or_dies(ledgers: list[Ledger]) -> None:
    """For three keys at the same time, whose requests fail and die in different orders."""
    await asyncio.gather(*(_one_at_a_time(ledgers, seed) for seed in (1, 2, 3)))


async def _one_at_a_time(ledgers: list[Ledger], seed: int) -> None:
    chance = random.Random(seed)
    fates = ["fails", "dies", "fails", "dies"]
    chance.shuffle(fates)
    running: list[str] = []

    async def a_while() -> None:
        await asyncio.sleep(chance.random() / 10)

    async def ask(ledger: Ledger) -> str:
        await a_while()
        entry = await ledger.begin(asked(), key=f"key-{seed}")
        if isinstance(entry, Replay):
            return entry.answer.output
        running.append(entry.request_id)
        assert len(running) == 1
        await a_while()
        running.remove(entry.request_id)
        fate = fates.pop() if fates else "answers"
        if fate == "answers":
            await ledger.answers.finish(entry, answer(entry.request_id))
        elif fate == "fails":
            await ledger.answers.release(entry)
        ledger.mine.discard(entry.request_id)
        return entry.request_id if fate == "answers" else fate

    told = await asyncio.gather(*(ask(ledger) for ledger in ledgers for _ in range(8)))
    assert sorted(one for one in told if one in ("fails", "dies")) == ["dies", "dies", "fails", "fails"]
    assert len({one for one in told if one not in ("fails", "dies")}) == 1


async def test_nothing_of_the_key_or_the_prompt_is_in_the_bucket(ledgers: list[Ledger]) -> None:
    entry = await ledgers[0].begin(asked(prompt="a secret question"), key="a-secret-key")
    assert isinstance(entry, Mine)
    await ledgers[0].answers.finish(entry, answer())
    stored = await ledgers[0].bus.nats.jetstream().get_last_msg(f"KV_{BUCKET}", f"$KV.{BUCKET}.{entry.name}")
    text = f"{stored.subject} {stored.headers} {stored.data!r}"
    assert "secret" not in text


async def test_a_task_that_no_manager_confirms_is_not_running(ledgers: list[Ledger]) -> None:
    first = await ledgers[0].first(asked())
    for ledger in ledgers:
        await ledger.hears.stop()
    taken = await ledgers[1].first(asked())
    assert taken.revision
    assert first.revision
    assert taken.revision > first.revision
    assert ledgers[1].answers.remembers


@pytest.mark.parametrize("left", [b"", b"of another version"])
async def test_an_entry_that_was_deleted_or_cannot_be_read_is_made_anew(ledgers: list[Ledger], left: bytes) -> None:
    await ledgers[0].bus.nats.jetstream().publish(f"$KV.{BUCKET}.{entry_name('key', '')}", left)
    first = await ledgers[0].first(asked())
    assert first.revision
    await ledgers[0].answers.finish(first, answer())
    assert isinstance(await ledgers[1].begin(asked()), Replay)
    assert ledgers[0].answers.remembers


async def test_a_bucket_that_was_lost_is_made_again(ledgers: list[Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "AWAY", 0.1)
    ledger = ledgers[0]
    await ledger.bus.nats.jetstream().delete_stream(f"KV_{BUCKET}")
    assert (await ledger.first(asked())).revision is None
    assert not ledger.answers.remembers
    await eventually(lambda: ledger.answers.remembers)
    assert (await ledger.first(asked())).revision


async def test_without_jetstream_keys_are_best_effort_which_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "AWAY", 0.01)
    server = PlainNats(tmp_path)
    await server.start()
    tries: list[str] = []
    make = Bucket.open

    async def counted(bus: Bus, name: str, **limits: Any) -> Bucket:
        tries.append(name)
        return await make(bus, name, **limits)

    monkeypatch.setattr(Bucket, "open", counted)
    with capture_logs() as logs:
        ledger = await Ledger.open("m-1", server.url)
        entries = [await ledger.first(asked()) for _ in range(3)]
        await eventually(lambda: len(tries) > 3)
    assert [entry.revision for entry in entries] == [None] * 3
    assert [line["event"] for line in logs].count("idempotency_keys_best_effort") == 1
    await ledger.close()
    server.kill()


async def test_when_it_is_not_known_whose_the_entry_is_the_answer_is_kept_if_it_is_ours(
    ledgers: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = ledgers
    with monkeypatch.context() as hurry:
        hurry.setattr(idempotency, "WITHIN", 0.0)  # the entry is made, but its acknowledgement comes too late
        first = await one.first(asked())
        await eventually(lambda: _stored(third.bus, first.name))
        late = await other.first(asked())
    assert (first.revision, late.revision) == (None, None)
    await one.answers.finish(first, answer("from the one that the entry names"))
    await other.answers.finish(late, answer("from another one"))
    await other.answers.release(late)
    replay = await third.begin(asked())
    assert isinstance(replay, Replay)
    assert replay.answer.output == "from the one that the entry names"


async def _stored(bus: Bus, name: str) -> bool:
    bucket = await Bucket.open(bus, BUCKET, max_age_s=1, max_bytes=1)  # as it is: there already
    return await bucket.get(name, within=10) is not None


async def test_a_frozen_server_delays_no_request(
    ledgers: list[Ledger], nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await ledgers[0].first(asked())
    for name in ("WITHIN", "FINISH_WITHIN"):
        monkeypatch.setattr(idempotency, name, 0.3)
    monkeypatch.setattr(Subscription, "stop", _never)  # it waits for the server
    nats.send(signal.SIGSTOP)
    await eventually(lambda: _runs_without(ledgers[2]))  # a stopped process stops soon, not at once
    with monkeypatch.context() as watched:
        watched.setattr(Bucket, "put", _no_write)  # it would take as long as one may wait for JetStream
        for _ in range(50):
            await ledgers[2].first(asked(), key="new")
    await ledgers[0].answers.finish(first, answer())
    nats.send(signal.SIGCONT)


async def test_a_request_that_runs_is_not_taken_over_because_the_server_stood_still(
    ledgers: list[Ledger], nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, _ = ledgers
    first = await one.first(asked())
    waiting = asyncio.create_task(other.begin(asked()))
    await eventually(lambda: one.looked_for)
    monkeypatch.setattr(idempotency, "WITHIN", 0.1)
    monkeypatch.setattr(idempotency, "STATUS_WITHIN", 0.3)
    nats.send(signal.SIGSTOP)
    await asyncio.sleep(idempotency.LOOK_EVERY + 3 * idempotency.STATUS_WITHIN)
    nats.send(signal.SIGCONT)
    so_far = len(one.looked_for)
    await eventually(lambda: len(one.looked_for) > so_far)
    assert not waiting.done()
    await one.answers.finish(first, answer())
    assert isinstance(await waiting, Replay)


async def _no_write(bucket: Bucket, key: str, value: bytes, *, after: int, within: float) -> None:
    raise AssertionError("JetStream was asked again")


async def _never(subscription: Subscription) -> None:
    await asyncio.Event().wait()


async def _runs_without(ledger: Ledger) -> bool:
    return (await ledger.first(asked(), key=new_id())).revision is None


async def test_an_answer_that_the_server_would_not_take_is_not_kept(tmp_path: Path) -> None:
    server = PlainNats(tmp_path, f'max_payload: 64KB\njetstream {{store_dir: "{tmp_path}"}}\n')
    await server.start()
    ledger = await Ledger.open("m-1", server.url)
    await eventually(lambda: ledger.answers.remembers)
    await ledger.answers.finish(await ledger.first(asked()), answer("x" * 70_000))
    assert (await ledger.first(asked())).revision
    await ledger.close()
    server.kill()
