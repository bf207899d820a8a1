"""A stream whose worker stalls or fails: what its reader gets, to the last piece."""

import pytest

from contracts import BullpenError, ErrorCode
from contracts import headers as h
from tests.fake_worker import Asked, FakeWorker, acting
from tests.ill_workers import DEAR, FREE, HANGS, WORDY, Attempts
from tests.mesh import SmallMesh
from tests.streams import check_stream


async def test_a_stream_whose_worker_stalls_goes_on_where_it_stopped(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    await mesh.worker("w-1", **HANGS, **FREE)
    await mesh.worker("w-2", **WORDY, **DEAR)
    await mesh.manager()
    text, final = check_stream(heard := await mesh.stream(prompt="tell me more", policy="cheapest"))
    [resumed] = [piece for piece in heard if piece and piece.get("type") == "resumed"]
    assert (resumed["from"], resumed["to"], resumed["mode"]) == ("w-1", "w-2", "continued")
    assert text == final["output"]
    assert final["resumed"]
    assert (final["completion_tokens"], final["finish_reason"]) == (40, "stop")
    assert [attempt["outcome"] for attempt in final["attempts"]] == ["failed", "ok"]
    first, second = await booked.outcomes("failed", "ok")
    assert (first.completion_tokens, second.completion_tokens) == (10, 30)
    assert text == (await mesh.ask(prompt="tell me more"))["output"]


async def test_the_limit_of_tokens_holds_for_the_whole_answer(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **HANGS, **FREE)
    await mesh.worker("w-2", **WORDY, **DEAR)
    await mesh.manager()
    text, final = check_stream(await mesh.stream(max_tokens=25, policy="cheapest"))
    assert (len(text.split()), final["completion_tokens"], final["finish_reason"]) == (25, 25, "length")


async def test_an_answer_that_was_all_delivered_needs_only_its_end(mesh: SmallMesh) -> None:
    await mesh.worker("w-1", **HANGS, **FREE)
    await mesh.worker("w-2", **WORDY, **DEAR)
    await mesh.manager()
    heard = await mesh.stream(max_tokens=10, policy="cheapest")  # it hangs with the last word out
    text, final = check_stream(heard)
    assert (len(text.split()), final["finish_reason"], final["output"]) == (10, "length", text)


async def test_json_is_never_continued_but_starts_anew(mesh: SmallMesh) -> None:
    async def half(asked: Asked) -> None:
        await asked.chunk('{"a": ')
        await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "cut off"))

    async def whole(asked: Asked) -> None:
        await asked.chunk('{"a": 1}')
        await asked.answer('{"a": 1}')

    turns = iter((half, whole))

    async def taking_turns(asked: Asked) -> None:
        await next(turns)(asked)

    async with FakeWorker(mesh.bus, "f-1", acting(taking_turns)) as one:
        await mesh.manager()
        async with FakeWorker(mesh.bus, "f-2", acting(taking_turns)) as two:
            await mesh.knows("f-1", "f-2")
            heard = await mesh.stream(response_format={"type": "json_object"})
    text, final = check_stream(heard)
    assert text == final["output"] == '{"a": 1}'
    assert [piece["mode"] for piece in heard if piece and piece.get("type") == "resumed"] == ["restarted"]
    assert not any(h.CONTINUE in asked.headers for asked in one.asked + two.asked)


async def test_a_piece_that_was_lost_on_the_way_comes_with_the_answer(mesh: SmallMesh) -> None:
    async def leaky(asked: Asked) -> None:
        await asked.chunk("one ")
        await asked.chunk("two ", lost=True)
        await asked.chunk("three")
        await asked.answer("one two three")

    async with FakeWorker(mesh.bus, "f-1", acting(leaky)):
        await mesh.manager()
        text, final = check_stream(await mesh.stream())
    assert text == final["output"] == "one two three"


@pytest.mark.parametrize("second_fails", [False, True])
async def test_who_reads_ends_with_the_text_of_the_answer_that_counts(mesh: SmallMesh, second_fails: bool) -> None:
    """The second one asked is less sure than the first, or fails in the middle: its text was shown in vain."""

    async def speaks(asked: Asked) -> None:
        if asked.headers[h.ATTEMPT] == "1":
            await asked.chunk("the first")
            await asked.answer("the first", confidence=0.5)
            return
        await asked.chunk("a worse one")
        if second_fails:
            await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, "no"))
        else:
            await asked.answer("a worse one", confidence=0.3)

    async with FakeWorker(mesh.bus, "f-1", acting(speaks)), FakeWorker(mesh.bus, "f-2", acting(speaks)):
        await mesh.manager()
        text, final = check_stream(await mesh.stream(min_confidence=0.9))
    assert (text, final["output"], final["confidence"]) == ("the first", "the first", 0.5)


async def test_a_stream_that_nobody_reads_any_more_is_stopped(mesh: SmallMesh) -> None:
    booked = await Attempts.of(mesh)
    await mesh.worker("w-1", tokens_per_second=50.0, output_tokens=2000)
    await mesh.manager()
    await mesh.bus.publish("infer.auto", b'{"prompt": "hi", "stream": true}', reply="_INBOX.nobody.is.here")
    [row] = await booked.outcomes("cancelled")
    assert row.completion_tokens is not None
    assert row.completion_tokens < 2000, "it was not stopped"
