"""Requests and tokens per minute of one key, and which tenant's budget its own is."""

from decimal import Decimal
from typing import Any

import pytest

from contracts import ApiKey, KeyBudget, utc_now
from contracts.keys import tenant_budgets
from gateway.keys.limits import Limits


def test_a_minutes_worth_may_come_at_once_and_then_as_it_grows() -> None:
    limits = Limits(rpm=2, tpm=None)
    assert [limits.admit(1, 0.0), limits.admit(1, 0.0)] == [0, 0]
    assert limits.admit(1, 0.0) == pytest.approx(30.0)
    assert limits.admit(1, 31.0) == 0


def test_tokens_count_when_the_answer_is_there() -> None:
    limits = Limits(rpm=None, tpm=100)
    assert limits.admit(1, 0.0) == 0
    limits.used(160, 0.0)
    assert limits.admit(1, 0.0) == pytest.approx(61 * 0.6)
    assert limits.admit(1, 40.0) == 0


def test_what_is_refused_takes_nothing() -> None:
    limits = Limits(rpm=1, tpm=1)
    limits.used(1, 0.0)
    assert limits.admit(1, 0.0) > 0
    assert limits.admit(1, 60.0) == 0


def test_more_than_the_limit_at_once_needs_a_full_minute() -> None:
    limits = Limits(rpm=2, tpm=None)
    assert limits.admit(5, 0.0) == 0
    assert limits.admit(1, 0.0) == pytest.approx(120.0)


def test_without_limits_nothing_waits() -> None:
    assert Limits(None, None).admit(10_000, 0.0) == 0


def test_the_strictest_budget_of_a_tenants_keys_counts() -> None:
    def key(tenant: str, limit: int, per: Any = "day", **fields: Any) -> ApiKey:
        budget = KeyBudget(limit_usd=Decimal(limit), per=per)
        return ApiKey(key_id="k", tenant=tenant, created_at=utc_now(), budget=budget, **fields)

    keys = [key("a", 5), key("a", 3), key("a", 1, revoked_at=utc_now()), key("a", 9, "month"), key("b", 7)]
    assert tenant_budgets(keys) == {("a", "day"): 3, ("a", "month"): 9, ("b", "day"): 7}
