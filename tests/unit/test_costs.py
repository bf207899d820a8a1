"""What things cost: exact to the last digit, or unknown. Never a guess, and never a part for the whole."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bus import Message
from bus.delivered import Delivered
from contracts import (
    Answer,
    BullpenError,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceRequest,
    ModelCard,
    Outcome,
    PartialUsage,
    Price,
    Progress,
    utc_now,
)
from manager.request.attempt import FREE, Attempt
from manager.request.events import CalledOff, Gone, Overdue, read_event
from manager.request.recording import attempt_record
from manager.request.retry_policy import Ask
from manager.request.state import RequestState
from manager.routing.filters import RejectReason
from manager.routing.query import Choice, RoutingQuery
from tests.unit.test_ranking import CHEAP, choose, worker
from workers.base import Delta, Done, Job, Usage
from workers.base.provider.chat import plausible
from workers.base.provider.errors import from_status, unreachable
from workers.base.runtime.call import Call
from workers.base.runtime.execution import Execution
from workers.base.runtime.reply_channel import CallerChannel

PRICE = Price(input_per_mtok=Decimal("2.5"), cached_input_per_mtok=Decimal("1.25"), output_per_mtok=Decimal(10))
NOW = datetime(2026, 1, 1, tzinfo=UTC)

prices = st.decimals(0, 999, places=9, allow_nan=False)
counts = st.integers(0, 2**31 - 1)
told_usage = st.builds(PartialUsage, prompt_tokens=st.none() | counts, completion_tokens=st.none() | counts)


# The price


def test_cached_input_has_its_own_price() -> None:
    assert PRICE.cost(2006, 300, 1920) == Decimal("0.005615")  # 86 × 2.5 + 1920 × 1.25 + 300 × 10, per million
    assert PRICE.model_copy(update={"cached_input_per_mtok": None}).cost(2006, 300, 1920) == Decimal("0.008015")


def test_writing_to_the_cache_costs_its_own_price_in_place_of_the_input_price() -> None:
    price = Price.model_validate({"input_per_mtok": 4, "cache_write_per_mtok": 5, "output_per_mtok": 20})
    assert price.cost(18_014, 10, 0, 18_011) == Decimal("0.090267")  # 3 × 4 + 18011 × 5 + 10 × 20


def test_a_long_prompt_makes_the_whole_request_dearer() -> None:
    long = {"above_prompt_tokens": 200_000, "input_per_mtok": 2.5, "cached_input_per_mtok": 0.25, "output_per_mtok": 15}
    told = {"input_per_mtok": 1.25, "cached_input_per_mtok": 0.125, "output_per_mtok": 10, "long_prompts": long}
    price = Price.model_validate(told)
    assert price.cost(200_000, 100) == Decimal("0.251")
    assert price.cost(200_001, 100, 1) == Decimal("0.50150025")  # 200000 × 2.5 + 1 × 0.25 + 100 × 15
    assert Price.model_validate_json(price.to_bytes()) == price


def test_the_smallest_amounts_are_exact() -> None:
    nano = Price(input_per_mtok=Decimal("0.05"), output_per_mtok=Decimal("0.4"))
    assert nano.cost(3, 0) == Decimal("0.00000015")
    assert sum((nano.cost(1, 1) for _ in range(10_000)), Decimal(0)) == Decimal("0.0045")


def test_a_price_is_the_same_at_both_ends_of_the_wire() -> None:
    with pytest.raises(ValidationError, match="15 digits"):
        Price(input_per_mtok=Decimal("0.1234567890123456"), output_per_mtok=Decimal(0))


@given(prices, prices, st.none() | prices)
def test_whatever_price_may_be_said_is_read_unchanged(one: Decimal, other: Decimal, cached: Decimal | None) -> None:
    price = Price(input_per_mtok=one, output_per_mtok=other, cached_input_per_mtok=cached)
    assert Price.model_validate_json(price.to_bytes()) == price


# What providers tell


@pytest.mark.parametrize(
    ("told", "answered", "known"),
    [
        (Usage(10, 5, 4, 2, 6), True, Usage(10, 5, 4, 2, 6)),
        (Usage(10, 0), False, Usage(10, 0)),
        (Usage(10, 0), True, Usage(10)),
        (Usage(0, 5, 0), True, Usage(None, 5)),
        (Usage(10, 5, 11), True, Usage(None, 5)),
        (Usage(10, 5, 5, None, 6), True, Usage(None, 5)),
        (Usage(10, 5, None, 6), True, Usage(10)),
        (Usage(), True, Usage()),
    ],
)
def test_what_cannot_be_true_is_unknown(told: Usage, answered: bool, known: Usage) -> None:
    assert plausible(told, answered=answered) == known
    assert (known.cost(PRICE) is None) == (None in (known.prompt_tokens, known.completion_tokens))


# In the worker


async def script(
    pieces: tuple[Delta | Done, ...], error: BullpenError | None, hangs: Callable[[], object] | None
) -> AsyncGenerator[Delta | Done, None]:
    """What a backend says before it fails, or says nothing more and calls `hangs`."""
    for piece in pieces:
        yield piece
    if hangs is not None:
        hangs()
        await asyncio.Event().wait()
    if error is not None:
        raise error


async def execution(
    *pieces: Delta | Done, price: Price | None = PRICE, error: BullpenError | None = None, hang: bool = False
) -> Execution:
    one = Execution(Call.read(Message(subject="infer.x", data=b"hello", reply="", headers={})))
    card = ModelCard(model_id="m", context_window=100, price=price, local=False)
    assert isinstance(one.call.request, InferenceRequest)
    one.job = Job(one.call.request, card, max_tokens=None)
    loop = asyncio.get_running_loop()
    stop = partial(loop.call_soon, one.stop, BullpenError(ErrorCode.CANCELLED, "enough"))
    backend = Mock(stream=lambda job: script(pieces, error, stop if hang else None))
    work = loop.create_task(one.compute(backend, one.job, CallerChannel(Mock(streaming=False))))
    with suppress(BullpenError):
        await one.within(600, work)
    return one


async def test_an_answer_costs_what_its_provider_counted() -> None:
    one = await execution(Delta("Paris"), Done("stop", 2006, 300, cached_tokens=1920, reasoning_tokens=256))
    assert one.usage == PartialUsage(
        prompt_tokens=2006,
        completion_tokens=300,
        cached_tokens=1920,
        reasoning_tokens=256,
        cost_usd=Decimal("0.005615"),
    )


@pytest.mark.parametrize("done", [Done("stop", None, None), Done("stop", 10, None), Done("stop", None, 10)])
async def test_unreported_usage_costs_an_unknown_amount_not_zero(done: Done) -> None:
    assert (await execution(Delta("Paris", tokens=3), done)).cost is None


async def test_a_cut_off_answer_costs_the_usage_reported_so_far() -> None:
    told = Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=40)
    for error, hang in ((None, False), (None, True), (unreachable("there", OSError()), False)):
        one = await execution(Delta("a", usage=Usage(100, 1)), Delta("b", tokens=3, usage=told), error=error, hang=hang)
        assert one.usage.cost_usd == PRICE.cost(100, 7, 40)
        assert one.usage.completion_tokens == 7


async def test_what_a_silent_provider_bills_for_half_an_answer_is_unknown() -> None:
    one = await execution(Delta("a", tokens=2), hang=True)
    assert one.usage == PartialUsage(completion_tokens=2)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_provider_that_refuses_bills_nothing(status: int) -> None:
    assert (await execution(error=from_status(status, "no"))).cost == 0
    assert (await execution(error=from_status(status, "no"), price=None)).cost == 0
    assert (await execution(Delta("a"), error=from_status(status, "no"))).cost is None


async def test_what_a_lost_connection_has_cost_is_unknown() -> None:
    assert (await execution(error=unreachable("there", OSError()))).cost is None


# In the Manager


def asked() -> RoutingQuery:
    """Ten tokens."""
    return RoutingQuery.of(InferenceRequest(prompt="x" * 36))


def attempt(*, price: Price | None = PRICE, local: bool = True, number: int = 1) -> Attempt:
    one = worker(f"w{number}", price=price, local=local)
    return Attempt(number, Choice(one, one.heartbeat.models[0]), 100.0, NOW, asked())


def answer(prompt: int | None, completion: int, cost: Decimal | None, **more: Any) -> FinalResponse:
    return FinalResponse(
        task_id="t",
        model_id="m",
        output="Paris",
        tokens_used=(prompt or 0) + completion,
        duration_ms=1.0,
        confidence=0.9,
        request_id="r",
        backend="b",
        worker_id="w1",
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_usd=cost,
        finish_reason="stop",
        confidence_source="prior",
        created_at=utc_now(),
        **more,
    )


@given(prices, prices, prices, counts, counts, st.data())
def test_no_digit_is_lost_between_worker_and_books(
    one: Decimal, other: Decimal, cached_price: Decimal, prompt: int, completion: int, data: st.DataObject
) -> None:
    price = Price(input_per_mtok=one, output_per_mtok=other, cached_input_per_mtok=cached_price)
    cached = data.draw(st.integers(0, prompt))
    cost = price.cost(prompt, completion, cached)
    heard = read_event(answer(prompt, completion, cost, cached_tokens=cached).to_bytes())
    assert isinstance(heard, FinalResponse)
    tried = attempt(price=price)
    tried.on(heard, 101.0)
    record = type(attempt_record(tried, "r", "t")).model_validate_json(attempt_record(tried, "r", "t").to_bytes())
    assert (record.cost_usd, record.price) == (cost, price)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (prompt, completion, cached)


def test_a_worker_that_reckons_otherwise_is_believed() -> None:
    one = attempt()
    one.on(answer(10, 5, Decimal("0.5")), 101.0)
    assert one.cost == Decimal("0.5")


def test_what_a_silent_attempt_cost_is_unknown_and_guessed_for_limits_only() -> None:
    one = attempt(price=CHEAP)
    one.on(Progress(tokens=50, phase="decode"), 101.0)
    one.on(Gone("disconnected"), 102.0)
    assert (one.outcome, one.cost, one.likely_cost) == (Outcome.UNCERTAIN, None, CHEAP.cost(10, 50))
    assert attempt_record(one, "r", "t").cost_usd is None


def test_a_provider_that_was_never_called_costs_nothing() -> None:
    one = attempt(local=False)
    one.on(Gone("disconnected"), 102.0)
    assert one.cost == 0
    allowed = attempt(local=False)
    allowed.go_given = True
    allowed.on(Gone("disconnected"), 102.0)
    assert allowed.cost is None


def test_a_refusal_is_free_and_one_after_it_had_begun_is_a_failure() -> None:
    left = BullpenError(ErrorCode.NO_WORKER, "w is leaving").detail()
    unbegun, begun = attempt(number=1), attempt(number=2)
    unbegun.on(ErrorReply(error=left), 101.0)
    assert (unbegun.outcome, unbegun.usage) == (Outcome.REFUSED, FREE)
    begun.on(ErrorReply(error=left, usage=PartialUsage(completion_tokens=7)), 101.0)
    assert (begun.outcome, begun.usage.cost_usd) == (Outcome.FAILED, None)


def test_the_caller_hears_what_was_used_also_when_the_answer_cannot_be_sent() -> None:
    told = PartialUsage.of(answer(10, 5, Decimal("0.5"), cached_tokens=3, reasoning_tokens=2))
    assert told == PartialUsage(
        prompt_tokens=10, completion_tokens=5, cached_tokens=3, reasoning_tokens=2, cost_usd=Decimal("0.5")
    )


# All attempts of a request


def inflight(*attempts: Attempt) -> RequestState:
    request = InferenceRequest(prompt="hello")
    reply = Mock(first_chunk_at=None, was_resumed=False, delivered=Delivered())
    return RequestState(
        request=request,
        key=None,
        body=b"",
        headers={},
        task_id="t",
        request_id="r",
        reply=reply,
        asked=RoutingQuery.of(request),
        arrived=100.0,
        deadline=200.0,
        attempts=list(attempts),
    )


def reply_of(code: ErrorCode, told: PartialUsage | None) -> ErrorReply:
    return ErrorReply(error=BullpenError(code, "no").detail(), usage=told)


ENDINGS = st.sampled_from(
    [
        *("answered", "unpriced answer", "told", "stalled", "died", "never claimed", "cancelled"),
        *("hedged", "late answer", "late error", "refused", "running"),
    ]
)


def end(one: Attempt, how: str, told: PartialUsage, code: ErrorCode) -> None:
    """Brings an attempt to one of the ends that a Manager knows."""
    cost = PRICE.cost(told.prompt_tokens or 0, told.completion_tokens or 0)
    told = told.model_copy(update={"cost_usd": cost if told.prompt_tokens else None})
    given = answer(told.prompt_tokens, told.completion_tokens or 0, told.cost_usd)
    stopped = BullpenError(ErrorCode.CANCELLED, "stopped")
    one.go_given = how not in ("never claimed", "refused")
    if how not in ("never claimed", "refused", "died"):
        one.on(Progress(tokens=told.completion_tokens or 0, phase="decode"), 100.5)
    match how:
        case "answered":
            one.on(given, 101.0)
        case "unpriced answer":
            one.on(answer(None, 5, None), 101.0)
        case "told":
            one.on(reply_of(code, told), 101.0)
        case "refused":
            one.on(reply_of(ErrorCode.OVERLOADED, None), 101.0)
        case "stalled" | "never claimed":
            one.on(Overdue(), 101.0)
        case "died":
            one.on(Gone("gone"), 101.0)
        case "cancelled":
            one.on(CalledOff(stopped), 101.0)
            one.on(reply_of(ErrorCode.CANCELLED, told), 102.0)
        case "hedged":
            one.on(CalledOff(stopped, beaten=True), 101.0)
        case "late answer" | "late error":
            one.on(Overdue(), 101.0)
            one.on(given if how == "late answer" else reply_of(code, told), 102.0)


@given(st.lists(st.tuples(ENDINGS, told_usage, st.sampled_from(ErrorCode), st.booleans()), max_size=6))
def test_however_its_attempts_end_a_request_costs_their_sum_or_an_unknown_amount(
    endings: list[tuple[str, PartialUsage, ErrorCode, bool]],
) -> None:
    attempts = []
    for number, (how, told, code, local) in enumerate(endings, 1):
        attempts.append(one := attempt(number=number, local=local))
        end(one, how, told, code)
    asked = inflight(*attempts)
    costs = [attempt_record(one, "r", "t").cost_usd for one in attempts]
    known = [cost for cost in costs if cost is not None]
    assert asked.cost == (sum(known, Decimal(0)) if len(known) == len(costs) else None)
    for one, cost in zip(attempts, costs, strict=True):
        if one.usage.cost_usd is None:
            assert cost is None


@given(st.lists(st.tuples(ENDINGS, told_usage), min_size=1, max_size=4), told_usage)
def test_a_cost_that_was_known_stays_whatever_is_said_afterwards(
    endings: list[tuple[str, PartialUsage]], told: PartialUsage
) -> None:
    """The books may fill in what was unknown; a number is final."""
    for number, (how, used_before) in enumerate(endings, 1):
        one = attempt(number=number, local=False)
        end(one, how, used_before, ErrorCode.UPSTREAM_ERROR)
        before = one.cost
        late = answer(told.prompt_tokens, told.completion_tokens or 0, None)
        if one.go_given or how == "refused":  # who was not allowed to begin has nothing to tell
            one.on(late, 102.0)
            assert before is None or one.cost == before


def test_what_was_spent_on_earlier_attempts_counts_against_the_ceiling() -> None:
    one = attempt(price=CHEAP)
    one.on(answer(1000, 1000, CHEAP.cost(1000, 1000)), 101.0)
    assert inflight(one).query(Ask(), 101.0, ahead=0, has_queued=False).spent == Decimal("0.00006")


def test_a_price_that_is_the_ceiling_itself_is_not_above_it() -> None:
    """0.3 is less than three tenths as a binary fraction."""
    flat = Price(input_per_mtok=Decimal(150_000), output_per_mtok=Decimal(0))
    assert choose(worker("w", price=flat), max_tokens=1, max_cost_usd=0.3).winner is not None  # two tokens in
    assert choose(worker("w", price=flat), max_tokens=1, max_cost_usd=0.29).reason is RejectReason.BUDGET


def test_the_answer_names_the_cost_of_all_attempts() -> None:
    first, second = attempt(number=1), attempt(number=2)
    told = PartialUsage(prompt_tokens=10, completion_tokens=1, cost_usd=PRICE.cost(10, 1))
    first.on(reply_of(ErrorCode.UPSTREAM_ERROR, told), 101.0)
    last = answer(10, 5, PRICE.cost(10, 5))
    second.on(last, 102.0)
    response: Answer = inflight(first, second).finished(last, second, 102.0)
    assert response.cost_usd == PRICE.cost(20, 6)
