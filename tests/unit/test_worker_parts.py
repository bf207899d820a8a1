"""The small parts of a worker: places, confidence, provider errors."""

import asyncio
from functools import partial
from math import log

import pytest

from contracts import BullpenError, ErrorCode
from tests.support import eventually
from workers.base.engines.admission import Admission
from workers.base.provider.errors import blamed, first_line, from_status
from workers.base.provider.retry_after import retry_after_ms
from workers.base.runtime.confidence import UNKNOWN, Confidence
from workers.base.runtime.final_event_cache import FinalEventCache


class Places:
    """Holds places in an `Admission` until told to let go, and remembers who got one."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.got: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ask(self, name: str, priority: str = "interactive") -> None:
        self._tasks[name] = asyncio.create_task(self._hold(name, priority))

    async def _hold(self, name: str, priority: str) -> None:
        async with self.admission.place("batch" if priority == "batch" else "interactive"):
            self.got.append(name)
            await asyncio.Event().wait()

    async def refusal(self, name: str) -> ErrorCode:
        with pytest.raises(BullpenError) as refused:
            await self._tasks.pop(name)
        return refused.value.code

    def last_is(self, name: str) -> bool:
        return self.got[-1:] == [name]

    async def leave(self, name: str) -> None:
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)

    async def close(self) -> None:
        for name in list(self._tasks):
            await self.leave(name)


async def test_places_are_given_in_order_interactive_first() -> None:
    places = Places(Admission(1, 10))
    for name, priority in (("a", "batch"), ("b", "batch"), ("c", "interactive"), ("d", "interactive")):
        places.ask(name, priority)
        await asyncio.sleep(0)
    for name in "acd":
        await eventually(partial(places.last_is, name))
        await places.leave(name)
    await eventually(lambda: places.got == ["a", "c", "d", "b"])
    await places.close()
    assert (places.admission.inflight, places.admission.queued) == (0, 0)


async def test_beyond_the_queue_it_says_overloaded_at_once() -> None:
    places = Places(Admission(1, 1))
    places.ask("a")
    places.ask("b")
    await eventually(lambda: places.admission.queued == 1)
    with pytest.raises(BullpenError) as caught:
        async with places.admission.place("interactive"):
            pass
    assert caught.value.code is ErrorCode.OVERLOADED
    await places.close()


async def test_who_gives_up_waiting_does_not_take_a_place_along() -> None:
    places = Places(Admission(1, 5))
    for name in "abc":
        places.ask(name)
        await asyncio.sleep(0)
    await places.leave("b")
    await places.leave("a")
    await eventually(lambda: places.got == ["a", "c"])
    await places.close()
    assert places.admission.inflight == 0


async def test_a_place_given_in_the_instant_of_giving_up_is_passed_on() -> None:
    places = Places(Admission(1, 5))
    for name in "abc":
        places.ask(name)
        await asyncio.sleep(0)
    tasks = [places._tasks.pop(name) for name in "ab"]
    for task in tasks:
        task.cancel()  # a leaves, which gives b the place, in the same instant as b gives up
    await asyncio.gather(*tasks, return_exceptions=True)
    await eventually(lambda: places.got == ["a", "c"])
    await places.close()
    assert places.admission.inflight == 0


async def test_who_waits_can_be_sent_away_and_who_computes_stays() -> None:
    places = Places(Admission(capacity=1, queue_limit=2))
    for name in ("first", "second", "third"):
        places.ask(name)
    await eventually(lambda: places.admission.queued == 2)
    places.admission.send_away(BullpenError(ErrorCode.NO_WORKER, "no room"))
    assert [await places.refusal(name) for name in ("second", "third")] == [ErrorCode.NO_WORKER] * 2
    assert (places.admission.inflight, places.admission.queued) == (1, 0)
    await places.leave("first")
    assert places.admission.has_room


def test_confidence_is_the_geometric_mean_of_the_tokens() -> None:
    value, source = Confidence().of([log(0.9), log(0.4)])
    assert source == "logprobs"
    assert value == pytest.approx(0.6)


def test_without_probabilities_it_is_the_running_average_and_says_so() -> None:
    confidence = Confidence()
    assert confidence.of([]) == (UNKNOWN, "prior")
    for _ in range(200):
        confidence.of([log(0.9)])
    value, source = confidence.of([])
    assert source == "prior"
    assert value == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(
    ("headers", "milliseconds"),
    [
        ({"retry-after": "2"}, 2000),
        ({"Retry-After": "0.5"}, 500),
        ({"retry-after-ms": "250", "retry-after": "9"}, 250),
        ({"retry-after": "nan"}, 1000),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "99999999999999999999"}, 60_000),
        ({"retry-after": "soon"}, 1000),
        ({}, 1000),
    ],
)
def test_how_long_a_provider_asks_us_to_wait(headers: dict[str, str], milliseconds: int) -> None:
    assert retry_after_ms(headers) == milliseconds


def test_a_providers_text_is_cut_to_its_first_line() -> None:
    assert first_line("\n one \n two") == "one"
    assert len(first_line("x" * 5000)) <= 201
    assert from_status(418, "").code is ErrorCode.UPSTREAM_ERROR


@pytest.mark.parametrize(
    ("status", "text", "tokens"),
    [
        (
            400,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9021 tokens.",
            9021,
        ),
        (
            400,
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4500 in the "
            "messages, 500 in the completion).",
            5000,
        ),
        (400, "prompt is too long: 214315 tokens > 200000 maximum", 214315),
        (400, "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 1200000),
        (400, "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it", 5000),
        (400, "the request exceeds the available context size, try increasing it", 0),
        (400, "temperature: must be below 2", None),
        (500, "maximum context length", None),
    ],
)
def test_the_error_for_a_too_long_prompt_has_its_tokens(status: int, text: str, tokens: int | None) -> None:
    error = from_status(status, text)
    assert error.prompt_tokens == tokens
    if tokens is not None:
        assert (error.code, error.field) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "prompt")
        assert (error.fault, error.status, error.retryable) == ("model", 400, False)
        assert BullpenError.from_detail(error.detail()).prompt_tokens == tokens


@pytest.mark.parametrize(
    ("code", "asked", "fault"),
    [
        (ErrorCode.INVALID_REQUEST, False, "request"),
        (ErrorCode.INVALID_REQUEST, True, "model"),
        (ErrorCode.NO_SUCH_MODEL, False, "model"),
        (ErrorCode.CONTEXT_LENGTH_EXCEEDED, True, "model"),
        (ErrorCode.RATE_LIMITED, False, "account"),
        (ErrorCode.RATE_LIMITED, True, "model"),
        (ErrorCode.UPSTREAM_AUTH, True, "model"),
        (ErrorCode.UPSTREAM_ERROR, True, "model"),
        (ErrorCode.OVERLOADED, False, "worker"),
        (ErrorCode.NO_WORKER, False, "worker"),
        (ErrorCode.NO_WORKER, True, "worker"),
        (ErrorCode.DRAINING, False, "worker"),
        (ErrorCode.CANCELLED, True, "request"),
        (ErrorCode.DEADLINE_EXCEEDED, True, "request"),
        (ErrorCode.INTERNAL, True, "ours"),
    ],
)
def test_every_failure_says_whose_fault_it_is(code: ErrorCode, asked: bool, fault: str) -> None:
    assert blamed(BullpenError(code, "no"), asked=asked).fault == fault
    assert blamed(BullpenError(code, "no", fault="account"), asked=asked).fault == "account", "who knows it says so"


def test_the_last_words_of_the_last_seconds_can_be_said_again() -> None:
    words = FinalEventCache()
    words.keep(("r1", 1), "_INBOX.a", b"one", 100.0)
    words.keep(("r2", 1), "_INBOX.b", b"two", 110.0)
    assert [word.body for word in words.since(105.0)] == [b"two"]
    said = words.of(("r1", 1))
    assert said is not None
    assert (said.inbox, said.body) == ("_INBOX.a", b"one")
    words.keep(("r3", 1), "_INBOX.c", b"three", 116.0)
    assert words.of(("r1", 1)) is None


def test_many_last_words_do_not_fill_the_memory() -> None:
    words = FinalEventCache()
    for number in range(40):
        words.keep((f"r{number}", 1), "_INBOX.a", b"x" * (1 << 20), 100.0)
    assert sum(words.of((f"r{number}", 1)) is not None for number in range(40)) == 16
