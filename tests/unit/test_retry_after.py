"""How long a provider asks us to wait, wherever it says so."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from workers.base.provider.error_body import read_error
from workers.base.provider.errors import refusal
from workers.base.provider.retry_after import duration, in_words_ms, told_retry_after_ms

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
LATER = NOW + timedelta(seconds=9)


@pytest.mark.parametrize(
    ("headers", "ms"),
    [
        ({"Retry-After": "7"}, 7000),
        ({"retry-after": "0.5"}, 500),
        ({"Retry-After": format_datetime(LATER, usegmt=True)}, 9000),
        ({"Retry-After": LATER.isoformat()}, 9000),
        ({"Retry-After": "2m"}, 60_000),
        ({"Retry-After": "1.5s"}, 1500),
        ({"retry-after-ms": "250", "retry-after": "7"}, 250),
        ({"x-ms-retry-after-ms": "300"}, 300),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7000),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "20ms"}, 20),
        (
            {
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-requests": "9ms",
            },
            2000,
        ),
        ({"x-ratelimit-reset": str(int(LATER.timestamp()))}, 9000),
        ({"X-RateLimit-Reset": str(int(LATER.timestamp() * 1000))}, 9000),
        ({"ratelimit-reset": "5"}, 5000),
        ({"RateLimit": "limit=100, remaining=0, reset=12"}, 12_000),
        ({"RateLimit": '"default";r=0;t=3'}, 3000),
        ({"x-ratelimit-reset-tokens-minute": "11.4", "x-ratelimit-remaining-tokens-minute": "0"}, 11_400),
        ({"anthropic-ratelimit-requests-reset": "2026-11-30T12:00:09Z"}, 9000),
        ({"x-ratelimit-timeremaining": "4"}, 4000),
        ({"x-ratelimit-limit-requests": "100"}, None),
        ({}, None),
    ],
)
def test_a_wait_is_found_in_any_header(headers: dict[str, str], ms: int | None) -> None:
    assert told_retry_after_ms(headers, now=NOW) == ms


@pytest.mark.parametrize(
    ("body", "ms"),
    [
        ({"error": {"message": "slow down", "retry_after": 3}}, 3000),
        ({"error": {"retry_after_ms": 40}}, 40),
        ({"error": {"details": [{"@type": "RetryInfo", "retryDelay": "12s"}]}}, 12_000),
        ({"error": {"message": "no", "metadata": {"headers": {"X-RateLimit-Reset-Requests": "2s"}}}}, 2000),
        ({"error": {"message": "Rate limit reached. Please try again in 6m0.5s. Visit us."}}, 360_500),
        ({"error": {"message": "Please try again in 20ms"}}, 20),
        ({"message": "Please retry after 26 seconds."}, 26_000),
        ({"message": "Limit 6000, Used 5800, Requested 900. Try again in 7s"}, 7000),
        ({"message": "Try again in May"}, None),
        ({"message": "again in 99999999999 s"}, 99_999_999_999_000),
    ],
)
def test_a_wait_is_found_in_the_error_itself(body: object, ms: float | None) -> None:
    assert read_error(body).retry_after_ms == (None if ms is None else pytest.approx(ms))


def test_a_header_counts_more_than_words_and_both_are_bounded() -> None:
    body = read_error({"error": {"message": "try again in 1h"}})
    assert refusal(429, body, {"retry-after": "2"}).retry_after_ms == 2000
    assert refusal(429, body).retry_after_ms == 60_000
    assert refusal(429, read_error("no")).retry_after_ms == 1000
    assert refusal(500, body, {"retry-after": "2"}).retry_after_ms is None


@pytest.mark.parametrize("text", ["", "   ", "1 2 s", "6m0x", "s", "٣s", "1" * 400 + "s", "9" * 60 + "h"])
def test_odd_durations_are_never_negative(text: str) -> None:
    assert (duration(text, NOW) or 0.0) >= 0
    assert (in_words_ms(f"wait {text}") or 0.0) >= 0
