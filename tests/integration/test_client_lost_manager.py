"""A Manager that took a question and fell silent: asked for, given up on, and not asked twice at the same time."""

import asyncio
import json

import pytest

from bus import Message
from client import Bullpen, BullpenError, RequestFailed, watch
from contracts import Chunk, ErrorCode, FinalResponse, Resumed
from contracts import subjects as s
from tests.client import cancelled, text_of
from tests.fake_manager import FakeManager
from tests.support import eventually


class Lossy:
    """Takes the first questions and forgets them; later ones are answered, and no Manager is lost any more."""

    def __init__(self, manager: FakeManager, patch: pytest.MonkeyPatch, forgets: int = 1, says: str = "Lon") -> None:
        self._manager = manager
        self._patch = patch
        self._forgets = forgets
        self._says = says
        manager.script = self

    async def __call__(self, message: Message, task_id: str) -> None:
        if len(self._manager.requests) > self._forgets:
            self._patch.setattr(watch, "REPLY_WITHIN", 30.0)
            await self._manager.answer(message, task_id)
        elif json.loads(message.data).get("stream") and self._says:
            await self._manager.chunks(message, task_id, self._says)


@pytest.mark.usefixtures("impatient")
async def test_a_question_whose_manager_is_lost_goes_out_again_as_it_was(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch, forgets=2)
    answer = await bp.ask("Where?", task_id="mine")
    assert (answer.output, answer.task_id) == ("Paris", "mine")
    first, *again = [message for message, _ in manager.requests]
    assert len(again) >= 2
    assert {message.data for message in again} == {first.data}
    assert json.loads(first.data)["idempotency_key"]
    assert await cancelled(manager, bp) == ["mine"], "one that was given up on may still be at it"


@pytest.mark.usefixtures("impatient", "trusting")
async def test_a_manager_that_has_the_task_is_waited_for(manager: FakeManager, bp: Bullpen) -> None:
    async def slowly(message: Message, task_id: str) -> None:
        await eventually(lambda: manager.asked_for.count(task_id) >= 3)
        await manager.answer(message, task_id)

    manager.script = slowly
    assert (await bp.ask("hi")).output == "Paris"
    assert await text_of(bp) == "Paris"
    assert len(manager.requests) == 2
    assert await cancelled(manager, bp) == []


async def test_an_answer_in_good_time_costs_no_question(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "QUIET", 30.0)
    await bp.ask("hi")
    await text_of(bp)
    assert manager.asked_for == []


@pytest.mark.usefixtures("impatient", "trusting")
async def test_an_error_is_final(manager: FakeManager, bp: Bullpen) -> None:
    manager.script = lambda message, task_id: manager.fail(
        message, task_id, BullpenError(ErrorCode.NO_WORKER, "nobody is able")
    )
    with pytest.raises(RequestFailed, match="nobody is able"):
        await bp.ask("hi")
    assert len(manager.requests) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_stream_starts_over_at_another_manager(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch)
    events = [event async for event in bp.stream("hi")]
    assert [type(event) for event in events] == [Chunk, Resumed, Chunk, Chunk, Chunk, FinalResponse]
    pieces = [event for event in events if not isinstance(event, FinalResponse)]
    assert [event.seq for event in pieces] == [0, 1, 2, 3, 4]
    assert isinstance(pieces[1], Resumed)
    assert pieces[1].mode == "restarted"
    assert "".join(event.delta for event in pieces[2:] if isinstance(event, Chunk)) == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_seamless_stream_never_starts_over(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch)
    events = bp.stream("hi", continuation="seamless")
    assert isinstance(await anext(events), Chunk)
    with pytest.raises(RequestFailed, match="would join"):
        await anext(events)
    assert len(manager.requests) == 1
    Lossy(manager, monkeypatch, forgets=2, says="")
    assert await text_of(bp, continuation="seamless") == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_stream_of_which_nothing_had_come_says_nothing_of_it(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lossy(manager, monkeypatch, says="")
    events = [event async for event in bp.stream("hi")]
    assert [type(event) for event in events] == [Chunk, Chunk, Chunk, FinalResponse]


@pytest.mark.usefixtures("impatient")
async def test_a_lost_manager_that_comes_back_may_answer_but_neither_fail_nor_mix(
    manager: FakeManager, bp: Bullpen
) -> None:
    async def back_from_the_dead(message: Message, task_id: str) -> None:
        if len(manager.requests) == 1:
            return
        first, request = manager.requests[0]
        if request.get("stream"):
            await manager.chunks(first, task_id, "mixed up")
            await manager.answer(message, task_id)
            return
        await manager.fail(first, task_id, BullpenError(ErrorCode.NO_WORKER, "I was away"))
        await manager.answer(first, task_id)
        await manager.silence(message, task_id)

    manager.script = back_from_the_dead
    assert (await bp.ask("hi", task_id="mine")).output == "Paris"
    await eventually(lambda: manager.cancelled == ["mine"])
    manager.requests.clear()
    assert await text_of(bp) == "Paris"


@pytest.mark.usefixtures("impatient")
async def test_a_question_that_loses_every_manager_is_given_up(
    manager: FakeManager, bp: Bullpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MOST_SENDS", 3)
    Lossy(manager, monkeypatch, forgets=100)
    with pytest.raises(RequestFailed, match="3 times a Manager took the request and fell silent"):
        await bp.ask("hi")
    assert len(manager.requests) == 3


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("forgets", [0, 1])
async def test_a_manager_that_is_just_being_restarted_is_waited_for(
    nats_server: str, bp: Bullpen, forgets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WITHOUT_MANAGER", 60.0)
    if forgets:
        dying = await FakeManager.start(nats_server)
        dying.script = dying.silence
    asking = asyncio.create_task(bp.ask("hi"))
    if forgets:
        await eventually(lambda: dying.requests)
        await dying.bus.close()
    await asyncio.sleep(0.3)
    assert not asking.done()
    manager = await FakeManager.start(nats_server)
    assert (await asking).output == "Paris"
    await manager.bus.close()


@pytest.mark.usefixtures("impatient")
async def test_a_manager_that_never_heard_of_this_question_is_waited_for(nats_server: str, bp: Bullpen) -> None:
    """One of an older version, which does not listen on `infer.status`: asked once more, then trusted."""
    heard: list[Message] = []
    old = await FakeManager.connect(nats_server)

    async def take(message: Message) -> None:
        heard.append(message)

    await old.bus.subscribe(s.INFER_AUTO, take, queue=s.INFER_QUEUE)
    await old.bus.flush(30)
    asking = asyncio.create_task(bp.ask("hi", task_id="mine"))
    await eventually(lambda: len(heard) == 2)
    await asyncio.sleep(0.5)
    await old.answer(heard[0], "mine")
    assert (await asking).output == "Paris"
    assert len(heard) == 2
    await old.bus.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", [False, True])
async def test_a_question_that_is_called_off_or_expired_asks_no_more(
    manager: FakeManager, bp: Bullpen, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.script = Lossy(manager, monkeypatch, forgets=100) if lost else manager.silence
    with pytest.raises(RequestFailed, match="no answer within"):
        await bp.ask("hi", task_id="expired", deadline_ms=300)
    asking = asyncio.create_task(bp.ask("hi", task_id="called off"))
    await eventually(lambda: len([r for _, r in manager.requests if r["task_id"] == "called off"]) > lost)
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(lambda: manager.cancelled == ["expired", "called off"])
    await manager.bus.flush(30)
    asked, sent = len(manager.asked_for), len(manager.requests)
    await asyncio.sleep(0.5)  # several times as long as until it would ask again
    assert (len(manager.asked_for), len(manager.requests)) == (asked, sent)
