"""Requests and tokens per minute: no sliding minute has more, whatever comes; and what providers say of theirs."""

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, InferenceRequest, ModelCard
from workers.base.interface.backend import Job, Usage
from workers.base.interface.config import BackendConfig
from workers.base.rate_limits.account import BELIEVED, Ledger, Used
from workers.base.rate_limits.limits import Hold, Limits, Window
from workers.base.rate_limits.provider_limits import ProviderLimits

CARD = ModelCard(model_id="m", context_window=8192, local=False)


def limits(rpm: int | None = None, tpm: int | None = None) -> Limits:
    return Limits(BackendConfig(requests_per_minute=rpm, tokens_per_minute=tpm))


def job(prompt: str = "hello", max_tokens: int | None = 100) -> Job:
    return Job(InferenceRequest(prompt=prompt), CARD, max_tokens)


def refusal(ours: Limits, wanted: Job, now: float) -> BullpenError:
    with pytest.raises(BullpenError) as caught:
        ours.hold(ours.need(wanted), now)
    return caught.value


def begun(ours: Limits, wanted: Job, now: float) -> Hold:
    hold = ours.need(wanted)
    ours.hold(hold, now)
    ours.begin(hold, now)
    return hold


def in_any_minute(events: list[tuple[float, int]]) -> int:
    """The most that any sliding minute has of what was counted at these times."""
    most = total = 0
    window: deque[tuple[float, int]] = deque()
    for at, amount in sorted(events):
        window.append((at, amount))
        total += amount
        while window[0][0] <= at - 60.0:
            total -= window.popleft()[1]
        most = max(most, total)
    return most


@pytest.mark.parametrize("seed", range(8))
def test_no_sliding_minute_has_more_than_60_requests_or_10000_tokens(seed: int) -> None:
    """Five minutes under pressure: somebody asks every 50 ms, answers last up to 20 s and may be cut short or fail."""
    rng, ours = random.Random(seed), limits(60, 10_000)
    starts: list[tuple[float, int]] = []
    ends: list[tuple[float, int]] = []
    running: list[tuple[float, Hold, int, int]] = []
    now = 0.0
    while now < 300:
        now += rng.expovariate(20)
        for ended in [one for one in running if one[0] <= now]:
            running.remove(ended)
            _, hold, told_in, out = ended
            ours.settle(hold, Usage(told_in, out), now)
            ends.append((now, told_in + out))
        wanted = job("x" * rng.randint(1, 4000), rng.choice((50, 300, 1000)))
        assert wanted.max_tokens is not None
        hold = ours.need(wanted)
        try:
            ours.hold(hold, now)
        except BullpenError as error:
            assert error.retry_after_ms is not None
            assert error.retry_after_ms > 0
            continue
        ours.begin(hold, now)
        starts.append((now, 1))
        running.append((now + rng.uniform(0.1, 20), hold, hold.estimate, rng.randint(0, wanted.max_tokens)))
    assert in_any_minute(starts) <= 60
    assert in_any_minute(ends) <= 10_000
    assert sum(tokens for _, tokens in ends) > 20_000, "they are used, not only kept"


def test_it_says_when_there_will_be_room() -> None:
    ours = limits(rpm=2)
    for at in (0.0, 10.0):
        ours.settle(begun(ours, job(), at), Usage(5, 5), at + 1)
    told = refusal(ours, job(), 20.0)
    assert (told.code, told.retry_after_ms) == (ErrorCode.RATE_LIMITED, 40_500)
    assert "2 requests a minute" in told.message
    begun(ours, job(), 60.6)


def test_what_was_held_and_not_used_is_free_again() -> None:
    ours = limits(tpm=1000)
    hold = begun(ours, job(max_tokens=900), 0.0)
    refusal(ours, job(max_tokens=900), 1.0)
    ours.settle(hold, Usage(10, 20), 2.0)
    begun(ours, job(max_tokens=900), 3.0)


def test_what_never_began_counts_for_nothing() -> None:
    ours = limits(1, 1000)
    hold = ours.need(job())
    ours.hold(hold, 0.0)
    ours.settle(hold, Usage(0, 0), 1.0)
    rate = ours.rate(1.0)
    assert rate is not None
    assert (rate.rpm_left, rate.tpm_left) == (1, 1000)


def test_a_request_above_the_limit_fails_without_a_retry() -> None:
    told = refusal(limits(tpm=1000), job(max_tokens=1000), 0.0)
    assert (told.retryable, told.field) == (False, "max_tokens")


def test_answers_without_a_limit_of_their_own_are_expected_to_be_as_long_as_the_last_ones() -> None:
    ours = limits(tpm=100_000)
    first = ours.need(job(max_tokens=None)).tokens
    ours.settle(begun(ours, job(max_tokens=None), 0.0), Usage(5, 4000), 1.0)
    assert ours.need(job(max_tokens=None)).tokens > 2 * 4000 > first


def test_prompts_that_have_more_tokens_than_they_look_are_learned() -> None:
    ours = limits(tpm=100_000)
    wanted = job("字" * 400, max_tokens=1)
    before = ours.need(wanted)
    ours.settle(begun(ours, wanted, 0.0), Usage(before.estimate * 3, 1), 1.0)
    assert ours.need(wanted).tokens >= before.estimate * 3


def test_without_limits_the_heartbeat_has_no_rate() -> None:
    assert limits().rate(0.0) is None


def test_the_rate_shows_what_is_left() -> None:
    ours = limits(60, 10_000)
    ours.settle(begun(ours, job(), 0.0), Usage(100, 200), 1.0)
    rate = ours.rate(2.0)
    assert rate is not None
    assert (rate.rpm_limit, rate.rpm_left, rate.tpm_limit, rate.tpm_left) == (60, 59, 10_000, 9700)


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(1, 50)), max_size=60))
def test_a_window_counts_as_simple_arithmetic_does(events: list[tuple[float, int]]) -> None:
    window, now = Window(1000), 0.0
    seen: list[tuple[float, int]] = []
    for pause, amount in events:
        now += pause / 10
        window.count(amount, now)
        seen.append((now, amount))
        assert window.used(now) == sum(amount for at, amount in seen if at > now - 60.5)


# Providers


OPENAI = {
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-reset-requests": "1m2.5s",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6ms",
}


def test_what_a_provider_says_is_left_counts_until_it_has_more() -> None:
    ours = limits()
    ours.of("m").hear({**OPENAI, "x-ratelimit-reset-requests": "20s"}, 0.0)
    assert refusal(ours, job(), 1.0).retry_after_ms == 19_000
    rate = ours.rate(1.0, ["m"])
    assert rate is not None
    assert (rate.rpm_left, rate.rpm_limit) == (0, None)
    begun(ours, job(), 20.1)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (OPENAI, 60.0),  # later than that is asked again sooner
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "250ms"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7"}, 7.0),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "30s"}, 0.0),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "30s"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, 0.0),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2000-01-01T00:00:00Z",
            },
            0.0,
        ),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2999-01-01T00:00:00Z"},
            60.0,
        ),
        ({}, 0.0),
    ],
)
def test_headers_of_providers(headers: dict[str, str], seconds: float) -> None:
    told = ProviderLimits()
    told.hear(headers, 100.0)
    assert told.rest(10, 100.0) == pytest.approx(seconds)


def test_a_provider_that_wants_to_be_left_alone_is() -> None:
    ours = limits()
    ours.refused("m", 5000, 0.0)
    told = refusal(ours, job(), 1.0)
    assert (told.retry_after_ms, told.fault) == (4000, "model")
    rate = ours.rate(1.0, ["m"])
    assert rate is not None
    assert (rate.rpm_left, rate.resets_in_ms) == (0, 4000)
    begun(ours, job(), 5.1)


def test_a_provider_s_limit_of_one_model_leaves_the_others_alone() -> None:
    ours = limits()
    assert ours.refused("other", 45_000, 0.0) == 45_000
    assert ours.rate(1.0, ["other", "m"]) is None, "a Manager would pass over the whole worker"
    begun(ours, job(), 1.0)


def test_an_account_without_money_rests_as_a_whole() -> None:
    ours = limits()
    ours.refused("other", 45_000, 0.0, whole_account=True)
    told = refusal(ours, job(), 1.0)
    assert (told.retry_after_ms, told.fault) == (44_000, "account")
    rate = ours.rate(1.0, ["other", "m"])
    assert rate is not None
    assert rate.rpm_left == 0


def test_a_provider_s_headers_say_how_long_when_its_refusal_does_not() -> None:
    ours = limits()
    ours.of("m").hear({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "45s"}, 0.0)
    assert ours.refused("m", 1000, 0.0) == 45_000


# Shared accounts


def used(at: float, **changes: Any) -> Used:
    return Used(at=at, **changes)


def test_an_account_counts_what_others_used_and_hold() -> None:
    ledger = Ledger(
        holders={
            "a": used(100.0, requests=((95, 3),), tokens=((95, 300), (30, 999)), requests_held=1, tokens_held=50),
            "b": used(100.0, requests=((99, 2),), tokens=((99, 20),)),
        }
    )
    assert ledger.elsewhere("b", 100.0) == (4, 350)
    assert ledger.elsewhere("c", 100.0) == (6, 370)
    assert ledger.elsewhere("c", 100.0 + BELIEVED + 1) == (0, 0), "who holds for ever is dead"
    assert set(ledger.told("c", used(400.0), 400.0).holders) == {"c"}
