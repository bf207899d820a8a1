"""What becomes of the stream with which a server answers."""

import json
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode, Outcome
from tests.backends.openai.stand_in import Scripted, Start, chunk, job
from tests.backends.providers import Failure, Json


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos_token", "stop")],
)
async def test_why_it_ended(provider: Scripted, reason: str, finish: str, start: Start) -> None:
    provider.script = [chunk({"content": "Hm."}), chunk({}, reason)]
    backend = await start()
    assert (await backend.infer(job(backend))).done.finish_reason == finish


@pytest.mark.parametrize("reason", ["error", "abort", None])
async def test_an_ending_that_is_a_failure(provider: Scripted, reason: str | None, start: Start) -> None:
    provider.script = [chunk({"content": "Hm."}), chunk({}, reason)]
    backend = await start()
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.outcome is Outcome.TRUNCATED


async def test_a_refusal_is_passed_on_as_one(provider: Scripted, start: Start) -> None:
    provider.script = [chunk({"refusal": "I can't"}), chunk({"refusal": " do that."}), chunk({}, "stop")]
    backend = await start()
    answer = await backend.infer(job(backend))
    assert (answer.text, answer.done.finish_reason) == ("I can't do that.", "content_filter")


async def test_calls_that_come_in_pieces_and_interleaved(provider: Scripted, start: Start) -> None:
    def piece(index: int, arguments: str, **more: Any) -> Json:
        return chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments, **more}}]})

    provider.script = [piece(0, "", name="add"), piece(1, "{", name="sub"), piece(0, '{"a":1}'), piece(1, "}")]
    provider.script.append(chunk({}, "stop"))  # some servers do not say `tool_calls`
    backend = await start()
    done = (await backend.infer(job(backend))).done
    assert done.finish_reason == "tool_calls"
    assert [call["function"] for call in done.tool_calls] == [
        {"name": "add", "arguments": '{"a":1}'},
        {"name": "sub", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(429, ErrorCode.RATE_LIMITED), (401, ErrorCode.UPSTREAM_AUTH), ("server_error", ErrorCode.UPSTREAM_ERROR)],
)
async def test_an_error_in_the_middle_says_what_to_do(
    provider: Scripted, code: Any, meaning: ErrorCode, start: Start
) -> None:
    provider.script = [chunk({"content": "Hm."}), {"error": {"message": "slow down", "code": code}}]
    backend = await start()
    with pytest.raises(BullpenError, match="slow down") as caught:
        await backend.infer(job(backend))
    assert caught.value.code is meaning


async def test_an_account_without_money_is_not_one_model_s_limit(provider: Scripted, start: Start) -> None:
    backend = await start()
    for code, fault in (("insufficient_quota", "account"), ("rate_limit_exceeded", "model")):
        provider.failure = Failure(status=429, body=json.dumps({"error": {"message": "no", "code": code}}))
        with pytest.raises(BullpenError) as caught:
            await backend.infer(job(backend))
        assert caught.value.fault == fault
