"""Budgets: whatever several Managers do at the same time, they never promise more than there is."""

from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.budgets import merged
from config.loader import ConfigError, load_config
from contracts import BudgetState
from manager.budgets.accounts import LEASED_FOR, Account, Lease, Ledger, LocalBudget, Reservation, accounts, window_of
from manager.config import Budget, ManagerConfig

NOON = 1_795_435_200.0  # 2026-11-23 12:00 UTC
CENT = Decimal("0.01")
_reports = count(1)


def account(limit: str = "10", **more: object) -> Account:
    return Account(Budget.model_validate({"limit_usd": limit, **more}), "", "w", None)


def renew(
    purse: LocalBudget,
    ledger: Ledger,
    more: Decimal | None = None,
    now: float = NOON,
    manager: str = "m-1",
    *,
    heard: bool = True,
) -> Ledger:
    """`heard`: the Manager gets the ledger's word that it has the report."""
    number = next(_reports)
    after = purse.report(ledger, manager, number, more, now)
    if heard:
        purse.renewed(after, manager, number)
    else:
        purse.doubt()
    return after


def test_what_is_reserved_is_settled_with_what_it_did_cost() -> None:
    purse = LocalBudget(account())
    ledger = renew(purse, Ledger(), more=CENT)
    assert purse.can_pay(CENT, NOON) and purse.lease == 2  # a fifth of it, for those to come
    purse.reserve(CENT)
    Reservation(CENT, (purse,)).settle(Decimal("0.004"))
    assert purse.reserved == 0 and purse.used == Decimal("0.004")
    ledger = renew(purse, ledger, more=None)
    assert ledger.spent == Decimal("0.004") and not ledger.leases and purse.used == 0


def test_what_it_did_cost_may_be_known_better_later() -> None:
    purse = LocalBudget(account())
    reservation = Reservation(CENT)
    reservation.add(purse)
    reservation.settle(Decimal("0.001"))
    renew(purse, Ledger(), more=None)
    reservation.settle(Decimal("0.007"))
    assert purse.reserved == 0 and purse.used == Decimal("0.006")


def test_a_lease_that_was_not_renewed_cannot_pay_and_counts_as_spent() -> None:
    purse, other = LocalBudget(account()), LocalBudget(account())
    ledger = renew(purse, Ledger(), more=Decimal(4))
    later = NOON + LEASED_FOR
    assert not purse.can_pay(CENT, later)
    ledger = renew(other, ledger, more=CENT, now=later, manager="m-2")
    assert ledger.spent == 4 and list(ledger.leases) == ["m-2"]


def test_the_last_cents_can_be_leased() -> None:
    purse = LocalBudget(account("1"))
    ledger = Ledger(spent=Decimal("0.97"))
    ledger = renew(purse, ledger, more=Decimal("0.03"))
    assert purse.can_pay(Decimal("0.03"), NOON) and not purse.can_pay(Decimal("0.031"), NOON)


def test_what_is_told_again_because_nobody_acknowledged_it_counts_once() -> None:
    purse = LocalBudget(account(tenant="*"))
    purse.used = CENT
    ledger = renew(purse, Ledger(), heard=False)
    assert ledger.spent == CENT and purse.used == CENT, "it does not know"
    purse.used += CENT
    renew(purse, ledger, heard=False)  # nor did this one come there
    assert renew(purse, ledger, heard=False).spent == 2 * CENT
    purse.used -= 2 * CENT  # it did cost nothing, as is known late
    assert not purse.rests
    assert renew(purse, ledger, more=None).spent == 0
    assert purse.rests


def test_who_does_not_know_what_it_holds_on_lease_pays_nothing_out_of_it() -> None:
    purse = LocalBudget(account())
    ledger = renew(purse, Ledger(), more=CENT)
    purse.doubt()
    assert purse.can_pay(CENT, NOON), "no report is open"
    renew(purse, ledger, heard=False)
    assert not purse.can_pay(CENT, NOON)


def test_it_is_said_once_when_it_is_nearly_spent() -> None:
    purse = LocalBudget(account("1", warn_at=0.8))
    purse.used = Decimal("0.8")
    first = renew(purse, Ledger(), more=CENT)
    assert first.warned and renew(purse, first, more=CENT).warned


def test_without_the_ledger_what_was_last_known_to_be_left_may_be_spent_but_not_what_others_held() -> None:
    purse = LocalBudget(account("1"))
    assert not purse.goes_on_alone(CENT, "m-1")
    renew(purse, Ledger(spent=Decimal("0.4"), leases={"m-2": Lease(usd=Decimal("0.1"), until=NOON + 10)}), more=CENT)
    assert purse.goes_on_alone(Decimal("0.5"), "m-1") and not purse.goes_on_alone(Decimal("0.51"), "m-1")


CENTS = st.sampled_from([5, 10, 40, 100, 300])
STEPS = ["ask", "end", "renew", "renew unheard", "tell", "hear", "die", "wait"]


class Managers:
    """Three of them and one ledger. `tell` is heard by the ledger at once, and by its Manager with `hear`."""

    def __init__(self) -> None:
        self.now, self.ledger, self.paid = NOON, Ledger(), Decimal(0)
        self.purses = {name: LocalBudget(account("4")) for name in "abc"}
        self.running: dict[str, list[Reservation]] = {name: [] for name in "abc"}
        self._lives = dict.fromkeys("abc", 0)
        self._told: dict[str, tuple[int, Ledger]] = {}

    def step(self, name: str, what: str, cents: int) -> None:
        usd, purse = cents * CENT, self.purses[name]
        match what:
            case "ask":
                if not purse.can_pay(usd, self.now):
                    self._renew(name, more=usd)
                if purse.can_pay(usd, self.now):
                    purse.reserve(usd)
                    self.running[name].append(Reservation(usd, (purse,)))
            case "end" if self.running[name]:
                reservation = self.running[name].pop()
                self.paid += reservation.usd
                reservation.settle(None)
            case "renew" | "renew unheard":
                self._renew(name, more=Decimal(0), heard=what == "renew")
            case "tell":
                self._hear(name)
                number = next(_reports)
                self.ledger = purse.report(self.ledger, self._life(name), number, Decimal(0), self.now)
                self._told[name] = number, self.ledger
            case "hear":
                self._hear(name)
            case "die":
                self.paid += sum((one.usd for one in self.running[name]), Decimal(0))
                self.running[name], self.purses[name] = [], LocalBudget(account("4"))
                self._lives[name] += 1
                self._told.pop(name, None)
            case "wait":
                self.now += cents / 10
                if cents / 10 < LEASED_FOR / 2:  # who lives renews in time
                    for other in "abc":
                        self._renew(other, more=Decimal(0))

    def _life(self, name: str) -> str:
        return f"{name}/{self._lives[name]}"

    def _renew(self, name: str, more: Decimal, *, heard: bool = True) -> None:
        self._hear(name)  # one at a time
        self.ledger = renew(self.purses[name], self.ledger, more, self.now, self._life(name), heard=heard)

    def _hear(self, name: str) -> None:
        if name in self._told:
            number, ledger = self._told.pop(name)
            self.purses[name].renewed(ledger, self._life(name), number)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(STEPS), CENTS), max_size=60))
def test_all_managers_together_never_promise_more_than_there_is(steps: list[tuple[str, str, int]]) -> None:
    """Each cost is as estimated here: then nothing is overshot, crashes included."""
    limit, all_of_them = Decimal(4), Managers()
    for step in steps:
        all_of_them.step(*step)
        purses, ledger = all_of_them.purses.values(), all_of_them.ledger
        under_way = sum((purse.reserved for purse in purses), Decimal(0))
        assert all_of_them.paid + under_way <= limit
        assert ledger.spent + sum((lease.usd for lease in ledger.leases.values()), Decimal(0)) <= limit + under_way
        assert all(purse.reserved >= 0 and purse.lease >= 0 for purse in purses)


def test_what_is_promised_while_a_report_is_under_way_fits_both_the_old_lease_and_the_new() -> None:
    purse, number = LocalBudget(account("1")), next(_reports)
    ledger = renew(purse, Ledger(), more=Decimal("0.6"))
    purse.used = Decimal("0.1")
    ledger = purse.report(ledger, "m-1", number, Decimal("0.2"), NOON)
    assert ledger.lease_of("m-1") == Decimal("0.2"), "what it gave back others may have now"
    assert purse.can_pay(Decimal("0.2"), NOON) and not purse.can_pay(Decimal("0.21"), NOON)
    purse.renewed(ledger, "m-1", number)
    assert purse.can_pay(Decimal("0.2"), NOON) and not purse.can_pay(Decimal("0.21"), NOON)


@pytest.mark.parametrize(
    ("per", "name", "seconds"),
    [
        ("hour", "2026-11-23T12", 3600),
        ("day", "2026-11-23", 43200),
        ("month", "2026-11", 7.5 * 86400),
        ("total", "total", None),
    ],
)
def test_windows_are_those_of_the_calendar(per: str, name: str, seconds: float | None) -> None:
    window, ends = window_of(per, NOON)
    assert window == name
    assert (None if ends is None else ends - NOON) == seconds


def test_which_budgets_pay_a_request() -> None:
    budgets = [
        Budget(limit_usd=Decimal(1)),
        Budget(tenant="*", limit_usd=Decimal(2)),
        Budget(tenant="acme", limit_usd=Decimal(3)),
        Budget(model="gpt", limit_usd=Decimal(4)),
        Budget(tenant="acme", model="gpt", limit_usd=Decimal(5), per="month"),
    ]
    paying = [str(a) for a in accounts(budgets, "acme", "gpt", NOON)]
    assert paying == [
        "the budget of the mesh, 1 USD per day",
        "the budget of tenant 'acme', 2 USD per day",
        "the budget of tenant 'acme', 3 USD per day",
        "the budget of model 'gpt', 4 USD per day",
        "the budget of tenant 'acme' and model 'gpt', 5 USD per month",
    ]
    assert len({a.key for a in accounts(budgets, "acme", "gpt", NOON)}) == 5
    assert [a.budget.limit_usd for a in accounts(budgets, "other", "m", NOON)] == [1, 2]


def test_a_budget_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("budgets:\n  - {tenant: acme, limit_usd: 5}\n  - {tenant: other, limit_usd: -1}\n")
    with pytest.raises(ConfigError, match=r"config.yaml:3: budgets.1.limit_usd"):
        load_config(ManagerConfig, "manager", path, {})


def state(spent: str | None, limit: str = "1", tenant: str | None = None) -> BudgetState:
    usd = None if spent is None else Decimal(spent)
    return BudgetState(
        tenant=tenant, model_id=None, per="day", window="w", ends_at=None, limit_usd=Decimal(limit), spent_usd=usd
    )


def test_of_what_managers_say_of_a_budget_the_most_counts() -> None:
    told = [state(None, tenant="a"), state("0.2"), state("0.4"), state(None), state("0.3"), state("3", "10", "b")]
    assert merged(told) == [state("0.4"), state("3", "10", "b"), state(None, tenant="a")]


# Whose budget it is


def test_a_budget_of_all_is_told_from_that_of_requests_without_a_tenant() -> None:
    budgets = [Budget.model_validate({"limit_usd": 1, **one}) for one in ({}, {"tenant": "*"}, {"tenant": "acme"})]
    told = {one.told_tenant for one in accounts(budgets, "", "m", NOON)}
    assert told == {None, ""}
    assert {one.told_tenant for one in accounts(budgets, "acme", "m", NOON)} == {None, "acme"}
    without = next(one for one in accounts(budgets, "", "m", NOON) if one.told_tenant == "")
    assert "requests without a tenant" in str(without)


def test_a_tenant_that_spends_nothing_any_more_rests() -> None:
    purse = LocalBudget(account(tenant="*"))
    assert not purse.rests, "it was never asked what is left"
    ledger = renew(purse, Ledger(), CENT)
    assert not purse.rests, "it holds a lease"
    purse.reserve(CENT)
    purse.settle(CENT, CENT)
    ledger = renew(purse, ledger, None)
    assert purse.rests
    named = LocalBudget(account(tenant="acme"))
    renew(named, ledger, Decimal(0))
    assert not named.rests, "there are few of those in the config"
