"""The worker without a model does exactly what its config says, twice the same."""

import asyncio
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from config.loader import load_config
from contracts import BullpenError, ErrorCode, InferenceRequest
from contracts.going_on import asked_to_go_on
from tests.support import eventually
from workers.base import Backend, Delta, Done, Job
from workers.base.interface.discovery import discover

FOLDER = discover()["simulated"]
PRICE = {"input_per_mtok": 1, "output_per_mtok": 2}


def simulated(**told: Any) -> Backend[Any]:
    cls = FOLDER.load()
    return cls(cls.config_class.model_validate({"latency_ms": 0, **told}))


def job(
    backend: Backend[Any], prompt: str = "Why?", prefix: str = "", max_tokens: int | None = None, **asked: Any
) -> Job:
    return Job(InferenceRequest(**{"prompt": prompt, **asked}), backend.models()[0], max_tokens, prefix)


async def text(backend: Backend[Any], prompt: str = "Why?", **asked: Any) -> str:
    return (await backend.infer(job(backend, prompt, **asked))).text


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds it would have waited, one figure for each time; nothing is waited for."""
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return waits


async def test_the_same_seed_and_question_get_the_same_words() -> None:
    assert await text(simulated()) == await text(simulated())
    assert await text(simulated()) != await text(simulated(seed=1))
    assert await text(simulated()) != await text(simulated(), "How?")


async def test_a_continuation_completes_the_answer_wherever_it_was_cut() -> None:
    backend = simulated(output_tokens=12)
    whole = await text(backend)
    prefixes = [" ".join(whole.split()[:count]) for count in range(13)]
    for count, prefix in enumerate(prefixes):
        rest = await backend.infer(job(backend, prefix=prefix))
        assert prefix + rest.text == whole
        assert rest.done.completion_tokens == 12 - count


async def test_a_continuation_completes_the_answer_also_when_it_was_cut_within_a_word() -> None:
    backend = simulated(output_tokens=12)
    whole = await text(backend)
    for at in range(len(whole) + 1):
        rest = await backend.infer(job(backend, prefix=whole[:at]))
        assert whole[:at] + rest.text == whole


@pytest.mark.parametrize("told", [{"output_tokens": 12}, {"story": "One day,\n\n  two\tfoxes – “no!” – went home.\n"}])
async def test_asked_in_words_it_goes_on_after_the_words_it_was_asked_for(told: dict[str, Any]) -> None:
    backend = simulated(**told)
    whole = await text(backend)
    for at in range(1, len(whole) + 1):
        begun = whole[:at].rstrip()
        anchor = begun[-10:].lstrip()
        request = asked_to_go_on(InferenceRequest(prompt="Why?"), begun, anchor, None)
        rest = await backend.infer(Job(request, backend.models()[0], None))
        assert rest.text == anchor + whole[len(begun) :]


async def test_a_continuation_has_the_tokens_that_are_left_and_hangs_after_words_of_its_own() -> None:
    backend = simulated(output_tokens=20, hang_after_tokens=4)
    words = (await text(simulated(output_tokens=20))).split()
    begun = job(backend, prefix=" ".join(words[:10]), max_tokens=3)
    rest = await backend.infer(begun)
    assert (rest.text.split(), rest.done.finish_reason, rest.done.completion_tokens) == (words[10:13], "length", 3)
    assert (await said_before_it_hangs(backend, 4, prefix=" ".join(words[:10]))).split() == words[10:14]


async def said_before_it_hangs(backend: Backend[Any], words: int, **asked: Any) -> str:
    """What it says until it hangs, which is at least so many words, and nothing for a moment afterwards."""
    told: list[Delta] = []

    async def listen() -> None:
        async with aclosing(backend.stream(job(backend, **asked))) as pieces:
            async for piece in pieces:
                assert isinstance(piece, Delta)
                told.append(piece)

    listening = asyncio.create_task(listen())
    await eventually(lambda: sum(delta.tokens for delta in told) >= words)
    ended, _ = await asyncio.wait({listening}, timeout=0.05)
    assert not ended
    listening.cancel()
    await asyncio.wait({listening})
    return "".join(delta.text for delta in told)


async def test_the_answer_of_another_model_is_completed_to_the_same_length() -> None:
    other, backend = simulated(seed=1, output_tokens=12), simulated(output_tokens=12)
    begun = (await text(other)).split()[:5]
    for end in ("", " "):
        prefix = " ".join(begun) + end
        whole = prefix + (await backend.infer(job(backend, prefix=prefix))).text
        assert whole.split() == [*begun, *(await text(backend)).split()[5:]]
        assert "  " not in whole
    assert (await backend.infer(job(backend, prefix="x " * 12))).text == ""


def test_a_model_of_which_nothing_is_said_can_go_on() -> None:
    cards = simulated(models=[{"name": "a"}, {"name": "b", "capabilities": ["chat", "stream"]}]).models()
    assert ["prefill" in card.capabilities for card in cards] == [True, False]


async def test_words_are_the_tokens_it_counts() -> None:
    backend = simulated(output_tokens=20)
    asked = job(backend, "one two three", context={"system": "four five"})
    *deltas, done = [piece async for piece in backend.stream(asked)]
    assert isinstance(done, Done)
    assert (done.finish_reason, done.prompt_tokens, done.completion_tokens) == ("stop", 5, 20)
    assert [len(d.text.split()) for d in deltas if isinstance(d, Delta)] == [8, 8, 4]
    assert [d.tokens for d in deltas if isinstance(d, Delta)] == [8, 8, 4]


async def test_the_limit_and_the_stop_sequence_are_kept() -> None:
    backend = simulated(output_tokens=20)
    whole = (await text(backend)).split()
    short = await backend.infer(job(backend, max_tokens=3))
    assert (short.text.split(), short.done.finish_reason, short.done.completion_tokens) == (whole[:3], "length", 3)
    stopped = await backend.infer(job(backend, stop=(f" {whole[5]} ", "nowhere", "")))
    assert stopped.text.split() == whole[: whole.index(whole[5])]
    assert stopped.done.finish_reason == "stop"
    assert await text(backend, stop=whole[0][:2]) == ""


@pytest.mark.parametrize("after", [0, 3, 8, 10, 20])
async def test_it_hangs_after_the_configured_words(after: int) -> None:
    backend = simulated(output_tokens=20, hang_after_tokens=after)
    assert len((await said_before_it_hangs(backend, after)).split()) == after


async def test_an_answer_shorter_than_the_hang_ends_as_usual() -> None:
    assert len((await text(simulated(output_tokens=5, hang_after_tokens=6))).split()) == 5


async def test_failures_come_at_the_configured_rate_and_the_same_in_every_run() -> None:
    async def run() -> list[bool]:
        backend = simulated(error_rate=0.3)
        return [await _fails(backend) for _ in range(200)]

    first = await run()
    assert first == await run()
    assert 30 < sum(first) < 90


async def _fails(backend: Backend[Any]) -> bool:
    try:
        await backend.infer(job(backend))
    except BullpenError as error:
        assert error.code is ErrorCode.UPSTREAM_ERROR
        return True
    return False


@pytest.mark.parametrize(
    ("told", "waits"),
    [
        ({"latency_ms": 50}, [0, 0, 0, 0.05]),
        ({"latency_ms": {"fixed": 50}, "ttft_ms": 20}, [0.02, 0, 0, 0.03]),
        ({"latency_ms": 50, "ttft_ms": 80}, [0.08, 0, 0, 0]),
        ({"latency_ms": 50, "ttft_ms": 20, "tokens_per_second": 4, "output_tokens": 3}, [0.02, 0.25, 0.25, 0.25]),
    ],
)
async def test_it_is_as_slow_as_configured(slept: list[float], told: dict[str, Any], waits: list[float]) -> None:
    await text(simulated(**{"output_tokens": 16, **told}))
    assert slept == pytest.approx(waits)


async def test_latency_and_length_can_be_drawn(slept: list[float]) -> None:
    backend = simulated(latency_ms={"lognormal": {"median": 200, "sigma": 0.5}}, output_tokens={"min": 2, "max": 6})
    lengths = {len((await text(backend, f"question {number}")).split()) for number in range(100)}
    assert lengths == {2, 3, 4, 5, 6}
    latencies = sorted(seconds for seconds in slept if seconds)
    assert 0.15 < latencies[len(latencies) // 2] < 0.27
    assert all(a < b for a, b in pairwise(latencies))
    long = simulated(output_tokens={"median": 100, "sigma": 0.5})
    assert len({len((await text(long, f"question {number}")).split()) for number in range(20)}) > 10


async def test_confidence_is_drawn_within_bounds() -> None:
    backend = simulated(confidence={"mean": 0.9, "sd": 0.3})
    drawn = [(await backend.infer(job(backend))).done.confidence for _ in range(100)]
    assert all(value is not None and 0 <= value <= 1 for value in drawn)
    assert len(set(drawn)) > 10


def test_a_price_is_every_models_unless_it_has_its_own() -> None:
    own = {"input_per_mtok": 5, "output_per_mtok": 6}
    cards = simulated(price=PRICE, models=[{"name": "a"}, {"name": "b", "price": own}]).models()
    assert [card.price and int(card.price.input_per_mtok) for card in cards] == [1, 5]
    assert simulated().models()[0].price is None
    assert [card.local for card in simulated(local=False).models()] == [False]


def test_it_says_that_it_is_simulated() -> None:
    assert simulated().simulated


@pytest.mark.parametrize(
    ("value", "median"),
    [("1000", None), ('{"fixed": 1000}', None), ('{"lognormal": {"median": 200, "sigma": 0.5}}', 200)],
)
def test_the_environment_sets_the_latency(value: str, median: float | None) -> None:
    path = Path(FOLDER.path / "config.yaml")
    config: Any = load_config(FOLDER.load().config_class, "simulated", path, {"BULLPEN_SIMULATED__LATENCY_MS": value})
    assert config.latency_ms.fixed == (None if median else 1000)
    assert (config.latency_ms.lognormal and config.latency_ms.lognormal.median) == median


@pytest.mark.parametrize(
    "told",
    [
        {"latency_ms": {}},
        {"latency_ms": {"fixed": 1, "lognormal": {"median": 1}}},
        {"latency_ms": -1},
        {"output_tokens": {"min": 3, "max": 2}},
        {"output_tokens": 0},
        {"error_rate": 1.5},
        {"text": "random"},
    ],
)
def test_nonsense_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        simulated(**told)
