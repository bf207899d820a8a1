"""How much money is left: budgets, the ledgers that Managers share, and each Manager's part of them. Pure.

A ledger holds what was spent in a window (a day, a month) and the lease of each Manager. A lease is taken off what is
left, so all Managers together cannot promise more than there is. Before a request is sent, its likely cost is reserved
from the Manager's lease; when the request ends, its true cost is settled. So a budget is overshot by no more than the
requests under way cost above their estimates.

Time here is unix seconds: windows are hours, days and months of the calendar, in UTC.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256

from pydantic import BaseModel

from contracts import BudgetState
from manager.config import Budget

NOTHING = Decimal(0)
LEASED_FOR = 30.0
"""Seconds after which a lease that its Manager does not renew counts as spent."""
LINGERS = 60.0
"""Seconds after the end of a window in which late costs are still reported for it."""
HOLDERS_REMEMBERED = 100
"""Managers whose last report number a ledger keeps: the latest ones."""
SHARE = Decimal("0.2")
"""Part of the remaining money that one Manager may lease beyond its present need, so that the other Managers get
some.
"""


@dataclass(frozen=True, slots=True)
class Account:
    """One budget, for one tenant, in one window of time."""

    budget: Budget
    tenant: str
    window: str
    ends: float | None
    """Unix seconds; None: the window never ends."""

    @property
    def key(self) -> str:
        """The account's name in the JetStream bucket."""
        told = f"{self.budget.tenant}/{self.tenant}/{self.budget.model}/{self.budget.per}/{self.window}"
        return sha256(told.encode()).hexdigest()[:32]

    @property
    def told_tenant(self) -> str | None:
        """The tenant as users see it. None: the budget is of all tenants together; empty: of requests without a
        tenant.
        """
        return self.tenant if self.budget.tenant else None

    def __str__(self) -> str:
        of = [f"tenant {self.tenant!r}" if self.tenant else "requests without a tenant"] if self.budget.tenant else []
        of += [f"model {self.budget.model!r}"] if self.budget.model else []
        per = "" if self.budget.per == "total" else f" per {self.budget.per}"
        return f"the budget of {' and '.join(of) or 'the mesh'}, {self.budget.limit_usd} USD{per}"


def accounts(budgets: Sequence[Budget], tenant: str, model_id: str, now: float) -> Iterator[Account]:
    """The budgets that pay for a request of this tenant to this model."""
    for budget in budgets:
        if budget.model not in (None, model_id) or budget.tenant not in (None, "*", tenant):
            continue
        window, ends = window_of(budget.per, now)
        yield Account(budget, tenant if budget.tenant else "", window, ends)


def named(budgets: Sequence[Budget], now: float) -> Iterator[Account]:
    """The accounts that the config alone defines; those of single tenants are made when their first request comes."""
    for budget in budgets:
        if budget.tenant != "*":
            window, ends = window_of(budget.per, now)
            yield Account(budget, budget.tenant or "", window, ends)


def window_of(per: str, now: float) -> tuple[str, float | None]:
    """The name of the window that contains `now`, and its end in unix seconds."""
    at = datetime.fromtimestamp(now, UTC)
    match per:
        case "hour":
            start = at.replace(minute=0, second=0, microsecond=0)
            return f"{start:%Y-%m-%dT%H}", (start + timedelta(hours=1)).timestamp()
        case "day":
            start = at.replace(hour=0, minute=0, second=0, microsecond=0)
            return f"{start:%Y-%m-%d}", (start + timedelta(days=1)).timestamp()
        case "month":
            start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            return f"{start:%Y-%m}", (start + timedelta(days=32)).replace(day=1).timestamp()
        case _:
            return "total", None


class Lease(BaseModel):
    usd: Decimal
    until: float


class Ledger(BaseModel):
    """What all Managers know of one account."""

    spent: Decimal = NOTHING
    leases: dict[str, Lease] = {}
    written_off: dict[str, Decimal] = {}
    """Expired leases by holder, counted as spent until the holder reports what it did spend."""
    told: dict[str, int] = {}
    """The number of each holder's last report of spent money: a report that arrives twice counts once."""
    warned: bool = False
    """A Manager has warned that the budget is nearly spent."""

    def renewed(
        self, account: Account, holder: str, *, used: Decimal, need: Decimal, now: float, report: int = 0
    ) -> "Ledger":
        """The ledger after `holder` has spent `used` more and asks for a lease of `need`.

        A holder is one life of one Manager, and numbers its reports. It gets a little more than `need`, and less when
        less is left. Expired leases count as spent.
        """
        over = [name for name, lease in self.leases.items() if lease.until <= now and name != holder]
        leases = {name: lease for name, lease in self.leases.items() if name not in (*over, holder)}
        written_off = self.written_off | {name: self.leases[name].usd for name in over}
        spent = self.spent + used - written_off.pop(holder, NOTHING)
        spent += sum((self.leases[name].usd for name in over), NOTHING)
        left = account.budget.limit_usd - spent - sum((lease.usd for lease in leases.values()), NOTHING)
        granted = min(max(left, NOTHING), max(need, left * SHARE if need else NOTHING))
        if granted:
            leases[holder] = Lease(usd=granted, until=now + LEASED_FOR)
        warned = self.warned or self.is_nearly(account, spent)
        told = self._told(holder, report) if used else self.told
        return Ledger(spent=spent, leases=leases, written_off=written_off, told=told, warned=warned)

    def _told(self, holder: str, report: int) -> dict[str, int]:
        others = [(name, number) for name, number in self.told.items() if name != holder]
        return dict([*others, (holder, report)][-HOLDERS_REMEMBERED:])

    @staticmethod
    def is_nearly(account: Account, spent: Decimal) -> bool:
        return spent >= account.budget.limit_usd * Decimal(str(account.budget.warn_at))

    def lease_of(self, holder: str) -> Decimal:
        lease = self.leases.get(holder)
        return lease.usd if lease else NOTHING


@dataclass(slots=True)
class LocalBudget:
    """One Manager's part of one account."""

    account: Account
    lease: Decimal = NOTHING
    until: float = 0.0
    """Unix seconds at which the lease expires."""
    used: Decimal = NOTHING
    """US dollars settled since the last report that the ledger acknowledged."""
    reserved: Decimal = NOTHING
    unsure: dict[int, Decimal] = field(default_factory=dict)
    """US dollars by report number, for reports that the ledger has not acknowledged: it may have them or not."""
    ceiling: Decimal | None = None
    """US dollars that may be used and reserved while a report is under way; None: no report is."""
    known: Ledger | None = None
    """The ledger as this Manager saw it last."""

    def follow(self, budget: Budget) -> None:
        """Takes over a changed limit or warning of this account's budget. Ignores any other budget."""
        old = self.account.budget
        same = (budget.tenant, budget.model, budget.per) == (old.tenant, old.model, old.per)
        if same and budget != old:
            self.account = replace(self.account, budget=budget)
            self.until = 0.0

    def can_pay(self, usd: Decimal, now: float) -> bool:
        lease = self.lease if self.ceiling is None else min(self.lease, self.ceiling)
        return now < self.until and lease - self.used - self.reserved >= usd

    def reserve(self, usd: Decimal) -> None:
        self.reserved += usd

    def settle(self, reserved: Decimal, usd: Decimal) -> None:
        """Frees what was reserved for a request, and counts `usd` as used."""
        self.reserved -= reserved
        self.used += usd

    def report(self, ledger: Ledger, holder: str, number: int, more: Decimal | None, now: float) -> Ledger:
        """The ledger with a report of what was used, and with a lease of what is reserved plus `more` (None: without a
        lease).

        Until the ledger acknowledges the report, no more is promised than the old lease and the new one both allow.
        """
        heard = self.unsure.get(ledger.told.get(holder, 0), NOTHING)
        need = NOTHING if more is None else self.reserved + more
        after = ledger.renewed(self.account, holder, used=self.used - heard, need=need, now=now, report=number)
        self.unsure[number] = self.used
        self.ceiling = after.lease_of(holder) + self.used
        return after

    def may_have_warned(self, ledger: Ledger, holder: str) -> bool:
        """Whether the ledger was marked as nearly spent by a report of ours that was never acknowledged."""
        unheard = ledger.told.get(holder, 0) in self.unsure
        return unheard and ledger.warned and not (self.known and self.known.warned)

    def renewed(self, ledger: Ledger, holder: str, number: int) -> None:
        """The ledger has acknowledged this report and holds our new lease."""
        self.used -= self.unsure[number]
        self.unsure.clear()
        self.ceiling = None
        self.lease = ledger.lease_of(holder)
        self.until = ledger.leases[holder].until if holder in ledger.leases else 0.0
        self.known = ledger

    def doubt(self) -> None:
        """A report was not acknowledged, so our lease is unknown: the ledger is asked before the next request is
        paid.
        """
        if self.unsure:
            self.until = 0.0

    @property
    def rests(self) -> bool:
        """Whether this is one of many tenants' accounts and holds nothing: no reservation, no unreported cost, no
        lease.
        """
        busy = self.reserved or self.used or self.unsure or self.lease
        return self.account.budget.tenant == "*" and self.known is not None and not busy

    def is_over(self, now: float) -> bool:
        """Whether the window has ended, and every request that was paid from it. `now`: unix seconds."""
        ends = self.account.ends
        return ends is not None and now > ends + LINGERS and not self.reserved

    @property
    def state(self) -> BudgetState:
        """The account as `bullpen budgets` and the page show it."""
        account = self.account
        return BudgetState(
            tenant=account.told_tenant,
            model_id=account.budget.model,
            per=account.budget.per,
            window=account.window,
            ends_at=None if account.ends is None else datetime.fromtimestamp(account.ends, UTC),
            limit_usd=account.budget.limit_usd,
            spent_usd=None if self.known is None else self.known.spent + self.used,
        )

    def goes_on_alone(self, usd: Decimal, holder: str) -> bool:
        """Whether a request may be paid while the ledger cannot be reached, by what was left when it was last seen.

        Leases that other Managers held then are not available.
        """
        if self.known is None:
            return False
        others = sum((lease.usd for name, lease in self.known.leases.items() if name != holder), NOTHING)
        left = self.account.budget.limit_usd - self.known.spent - others
        return left - self.used - self.reserved >= usd


@dataclass(slots=True)
class Reservation:
    """What was reserved for one request, in each account that pays for it."""

    usd: Decimal
    shares: tuple[LocalBudget, ...] = ()
    settled: Decimal | None = None
    """US dollars that the request cost, as of the last settlement."""

    def add(self, local: LocalBudget) -> None:
        local.reserve(self.usd)
        self.shares += (local,)

    def settle(self, usd: Decimal | None) -> None:
        """Settles the request at `usd`, its cost as far as it is known; None: at what was reserved. May be called again
        with a corrected cost.
        """
        cost = self.usd if usd is None else usd
        for local in self.shares:
            if self.settled is None:
                local.settle(self.usd, cost)
            else:
                local.settle(NOTHING, cost - self.settled)
        self.settled = cost
