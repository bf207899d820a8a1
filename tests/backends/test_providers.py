"""The same behaviour from every backend that asks a provider over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from contracts import BullpenError, ErrorCode, InferenceRequest, Outcome
from tests.backends.providers import PROVIDERS, WORDS, Failure, Provider, configured, given_up
from tests.support import eventually
from workers.base import Backend, Delta, Done, Job
from workers.base.interface.discovery import discover
from workers.base.provider.overlap_trimmer import ENOUGH

HISTORY = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
IMAGE = "data:image/png;base64,iVBORw0KGgo="
MOMENTS = {
    "before the headers": Failure(mute=True),
    "before the first token": Failure(hang_after=0),
    "in the middle": Failure(hang_after=2),
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-planted-canary")


@pytest.fixture(params=sorted(PROVIDERS))
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    async with PROVIDERS[request.param]() as provider:
        yield provider


@pytest.fixture
async def backend(provider: Provider) -> AsyncIterator[Backend[Any]]:
    cls = discover()[provider.backend].load()
    backend = cls(configured(cls.config_class, provider.config()))
    await backend.start(lambda _: None)
    yield backend
    await backend.close()


def job(backend: Backend[Any], prefix: str = "", max_tokens: int | None = 50, **asked: Any) -> Job:
    request = InferenceRequest(**{"prompt": "What is the capital of France?", **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


async def test_an_answer_is_pieces_then_one_end(backend: Backend[Any]) -> None:
    pieces = [piece async for piece in backend.stream(job(backend))]
    *deltas, done = pieces
    assert [d.text for d in deltas if isinstance(d, Delta)] == WORDS
    assert isinstance(done, Done)
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("stop", 7, 4)


async def test_what_was_asked_reaches_the_provider(provider: Provider, backend: Backend[Any]) -> None:
    asked = job(
        backend,
        context={
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        },
        temperature=0.7,
        stop=("END",),
        seed=42,
        top_p=0.5,
    )
    await backend.infer(asked)
    told = str(provider.received[-1])
    seed = ("42",) if provider.has_seed else ()
    for wanted in ("Be brief.", "Hi", "Ho", "What is the capital of France?", "0.7", "END", *seed, "0.5", "50"):
        assert wanted in told, wanted


async def test_an_image_reaches_the_provider(provider: Provider, backend: Backend[Any]) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    request = InferenceRequest.model_validate_json(json.dumps({"messages": [{"role": "user", "content": content}]}))
    await backend.infer(Job(request, backend.models()[0], 50))
    assert "iVBORw0KGgo=" in str(provider.received[-1])
    assert "What is this?" in str(provider.received[-1])


async def test_tool_calls_come_back_whole(provider: Provider, backend: Backend[Any]) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
    done = (await backend.infer(job(backend, tools=(tool,)))).done
    assert "add" in str(provider.received[-1])
    assert done.finish_reason == "tool_calls"
    assert [call["function"]["name"] for call in done.tool_calls] == ["add"]
    assert done.tool_calls[0]["function"]["arguments"].replace(" ", "") == '{"a":1}'


async def test_a_tool_call_is_a_token_of_the_answer(backend: Backend[Any]) -> None:
    """So that its time counts from its first piece, and the silence between tokens applies after it."""
    tool = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}
    *deltas, _ = [piece async for piece in backend.stream(job(backend, tools=(tool,)))]
    assert sum(delta.tokens for delta in deltas if isinstance(delta, Delta)) >= 1


@pytest.mark.parametrize("repeats", [False, True], ids=["going on", "repeating"])
@pytest.mark.parametrize("prefix", ["The capital", "The capital ", "The capital is", "The capital is Paris."])
async def test_the_seam_of_an_answer_is_not_seen(
    provider: Provider, backend: Backend[Any], prefix: str, repeats: bool
) -> None:
    """Also where the provider repeats the start, as far as that cannot be what the answer says."""
    provider.failure = Failure(repeats=repeats)
    answer = await backend.infer(job(backend, prefix=prefix))
    assert provider.begun(provider.received[-1]) == prefix.rstrip()
    seen = repeats and len(prefix.rstrip()) < ENOUGH
    assert prefix + answer.text == (prefix if seen else "") + "".join(WORDS)
    assert answer.done.completion_tokens == 4


async def test_text_that_only_begins_like_the_start_is_passed_on_at_the_end(
    provider: Provider, backend: Backend[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.backends.providers.WORDS", ["The ", "capital "])
    answer = await backend.infer(job(backend, prefix="The capital of France"))
    assert answer.text == "The capital "


async def test_thoughts_are_signs_of_progress(provider: Provider, backend: Backend[Any]) -> None:
    """Not shown and not counted, but whoever waits for the first token knows that something moves."""
    provider.thoughts = 3
    *pieces, done = [piece async for piece in backend.stream(job(backend))]
    assert [(piece.text, piece.tokens) for piece in pieces[:3] if isinstance(piece, Delta)] == [("", 0)] * 3
    assert [piece.text for piece in pieces[3:] if isinstance(piece, Delta)] == WORDS
    assert isinstance(done, Done)


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (400, ErrorCode.INVALID_REQUEST, "model"),
        (401, ErrorCode.UPSTREAM_AUTH, "account"),
        (402, ErrorCode.UPSTREAM_AUTH, "model"),
        (403, ErrorCode.UPSTREAM_AUTH, "model"),
        (404, ErrorCode.NO_SUCH_MODEL, "model"),
        (409, ErrorCode.UPSTREAM_ERROR, "model"),
        (413, ErrorCode.PAYLOAD_TOO_LARGE, "model"),
        (422, ErrorCode.INVALID_REQUEST, "model"),
        (429, ErrorCode.RATE_LIMITED, "model"),
        (500, ErrorCode.UPSTREAM_ERROR, "model"),
        (503, ErrorCode.UPSTREAM_ERROR, "model"),
    ],
)
async def test_a_refusal_says_what_to_do_and_whose_fault_it_is_and_is_asked_once(
    provider: Provider, backend: Backend[Any], status: int, code: ErrorCode, fault: str
) -> None:
    provider.failure = Failure(status=status)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert (caught.value.code, caught.value.fault) == (code, fault)
    assert "sk-planted-canary" not in str(caught.value)
    assert len(provider.received) == 1  # one retry layer only, and it is not the SDK


async def test_a_request_of_which_no_question_can_be_made_is_at_fault_itself(
    provider: Provider, backend: Backend[Any]
) -> None:
    """Not the provider, which was never asked."""
    if provider.backend == "openai":
        pytest.skip("its API takes what a request brings as it is")
    asked = job(backend)
    broken = replace(asked, request=asked.request.model_copy(update={"tools": ("no tool",)}))
    with pytest.raises(BullpenError) as caught:
        await backend.infer(broken)
    assert (caught.value.code, caught.value.fault) == (ErrorCode.INVALID_REQUEST, "request")
    assert not provider.received


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("7", 7000, 7000), ("1e9", 60_000, 60_000), ("-1", 0, 0), ("soon", 1000, 1000), ("date", 20_000, 40_000)],
)
async def test_a_rate_limit_says_for_how_long(
    provider: Provider, backend: Backend[Any], header: str, low: int, high: int
) -> None:
    value = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True) if header == "date" else header
    provider.failure = Failure(status=429, headers={"Retry-After": value})
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.retry_after_ms is not None
    assert low <= caught.value.retry_after_ms <= high


async def test_half_an_answer_is_an_error(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(truncate=True)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    "garbage", ["<html>It works!</html>", "data: {nonsense\n\n", '{"x": ', "\0\0\0", "data: []\n\n"]
)
async def test_garbage_is_an_error(provider: Provider, backend: Backend[Any], garbage: str) -> None:
    provider.failure = Failure(garbage=garbage)
    with pytest.raises(BullpenError) as caught:
        await backend.infer(job(backend))
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


@pytest.mark.parametrize("after", [0, 2])
async def test_silence_is_an_error_and_the_call_is_closed(
    provider: Provider, backend: Backend[Any], after: int
) -> None:
    provider.failure = Failure(hang_after=after)
    error = await given_up(provider, backend, job(backend))
    assert "silent" in error.message
    await eventually(provider.closed.is_set)  # the stand-in would speak again after 30 s


async def test_leaving_the_stream_closes_the_call_at_once(provider: Provider, backend: Backend[Any]) -> None:
    provider.failure = Failure(hang_after=2)
    async with aclosing(backend.stream(job(backend))) as pieces:
        await anext(pieces)
    await eventually(provider.closed.is_set)  # not when the provider has been silent for too long


@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancelling_closes_the_call_at_once(provider: Provider, backend: Backend[Any], moment: str) -> None:
    provider.failure = MOMENTS[moment]
    asking = asyncio.create_task(backend.infer(job(backend)))
    await eventually(lambda: provider.received and (provider.sent or not provider.failure.hang_after))
    asking.cancel()
    await asyncio.wait({asking})
    await eventually(provider.closed.is_set)  # not when the provider has been silent for too long


async def test_answers_side_by_side_do_not_mix(provider: Provider, backend: Backend[Any]) -> None:
    answers = await asyncio.gather(*(backend.infer(job(backend)) for _ in range(10)))
    assert {answer.text for answer in answers} == {"".join(WORDS)}


async def test_health_reports_a_revoked_key(provider: Provider, backend: Backend[Any]) -> None:
    await backend.health()
    provider.failure = Failure(status=401)
    with pytest.raises(BullpenError) as caught:
        await backend.health()
    assert caught.value.code is ErrorCode.UPSTREAM_AUTH


@pytest.mark.parametrize("name", sorted(PROVIDERS))
async def test_a_server_that_does_not_answer_is_an_error(name: str) -> None:
    async with PROVIDERS[name]() as provider:
        cls = discover()[name].load()
        backend = cls(configured(cls.config_class, provider.config()))
        await backend.start(lambda _: None)
        asked = job(backend)
    with pytest.raises(BullpenError, match="not reachable") as caught:
        await backend.infer(asked)
    assert caught.value.fault == "worker"
    with pytest.raises(BullpenError, match="not reachable"):
        await backend.health()
    await backend.close()
