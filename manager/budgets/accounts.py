"""How much money is left: budgets, the ledgers that Managers share, and each Manager's part of them. Pure.

A ledger says what was spent in a window (a day, a month) and what each Manager holds on lease. Whoever takes a lease
takes it off what is left, so all of them together cannot promise more than there is. Before a request is sent what it
will probably cost is reserved from the lease, and when it ends what it did cost is settled: a budget is overshot by no
more than the requests under way cost above their estimates.

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
"""Seconds after which the lease of a Manager that renews it no more counts as spent: it may have been."""
LINGERS = 60.0
"""Seconds after its end in which a window may still be told of."""
HOLDERS_REMEMBERED = 100
"""Those that spent last, by what they told last."""
SHARE = Decimal("0.2")
"""Of what is left, that one Manager holds at most, beyond what it needs now: the others want some too."""


@dataclass(frozen=True, slots=True)
class Account:
    """One budget, for one tenant, in one window of time."""

    budget: Budget
    tenant: str
    window: str
    ends: float | None
    """Unix seconds; None: never."""

    @property
    def key(self) -> str:
        """Its name in the bucket."""
        told = f"{self.budget.tenant}/{self.tenant}/{self.budget.model}/{self.budget.per}/{self.window}"
        return sha256(told.encode()).hexdigest()[:32]

    @property
    def told_tenant(self) -> str | None:
        """None: the budget is of all tenants together; empty: of requests that name none."""
        return self.tenant if self.budget.tenant else None

    def __str__(self) -> str:
        of = [f"tenant {self.tenant!r}" if self.tenant else "requests without a tenant"] if self.budget.tenant else []
        of += [f"model {self.budget.model!r}"] if self.budget.model else []
        per = "" if self.budget.per == "total" else f" per {self.budget.per}"
        return f"the budget of {' and '.join(of) or 'the mesh'}, {self.budget.limit_usd} USD{per}"


def accounts(budgets: Sequence[Budget], tenant: str, model_id: str, now: float) -> Iterator[Account]:
    """The budgets from which a request of this tenant to this model is paid."""
    for budget in budgets:
        if budget.model not in (None, model_id) or budget.tenant not in (None, "*", tenant):
            continue
        window, ends = window_of(budget.per, now)
        yield Account(budget, tenant if budget.tenant else "", window, ends)


def named(budgets: Sequence[Budget], now: float) -> Iterator[Account]:
    """The accounts that are known beforehand; those of tenants on their own come with their requests."""
    for budget in budgets:
        if budget.tenant != "*":
            window, ends = window_of(budget.per, now)
            yield Account(budget, budget.tenant or "", window, ends)


def window_of(per: str, now: float) -> tuple[str, float | None]:
    """The name of the window of time that `now` lies in, and when it ends."""
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
    """Leases that ran out, by holder: taken for spent until it says what it did spend."""
    told: dict[str, int] = {}
    """The number of its last report of money spent, by holder: one told twice counts once."""
    warned: bool = False
    """Somebody has said already that it is nearly spent."""

    def renewed(
        self, account: Account, holder: str, *, used: Decimal, need: Decimal, now: float, report: int = 0
    ) -> "Ledger":
        """The ledger when `holder` has spent `used` more and wants a lease of `need`, or a little more.

        A holder is one life of one Manager, and numbers its reports. When less is left, it gets that. Leases that ran
        out count as spent.
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
    """Unix seconds: then the lease runs out."""
    used: Decimal = NOTHING
    """Settled since the ledger was last told."""
    reserved: Decimal = NOTHING
    unsure: dict[int, Decimal] = field(default_factory=dict)
    """What was told in reports, by their numbers, that the ledger may have or not: nobody acknowledged them."""
    ceiling: Decimal | None = None
    """What may be used and reserved while a report is under way; None: none is."""
    known: Ledger | None = None
    """As it was last seen."""

    def follow(self, budget: Budget) -> None:
        """Its budget has another limit, or warns earlier; nothing, if that budget is another one."""
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
        """What was reserved for a request is free again; it did cost `usd`."""
        self.reserved -= reserved
        self.used += usd

    def report(self, ledger: Ledger, holder: str, number: int, more: Decimal | None, now: float) -> Ledger:
        """The ledger with our word of what was used, and with a lease of what is reserved and `more`; None: of nothing.

        Until somebody says that the ledger has it, no more is promised than the old lease and the new one both allow.
        """
        heard = self.unsure.get(ledger.told.get(holder, 0), NOTHING)
        need = NOTHING if more is None else self.reserved + more
        after = ledger.renewed(self.account, holder, used=self.used - heard, need=need, now=now, report=number)
        self.unsure[number] = self.used
        self.ceiling = after.lease_of(holder) + self.used
        return after

    def may_have_warned(self, ledger: Ledger, holder: str) -> bool:
        """Whether the ledger says that it is nearly spent since a report of ours, and nobody told us so."""
        unheard = ledger.told.get(holder, 0) in self.unsure
        return unheard and ledger.warned and not (self.known and self.known.warned)

    def renewed(self, ledger: Ledger, holder: str, number: int) -> None:
        """The ledger has our report of this number, and holds our new lease."""
        self.used -= self.unsure[number]
        self.unsure.clear()
        self.ceiling = None
        self.lease = ledger.lease_of(holder)
        self.until = ledger.leases[holder].until if holder in ledger.leases else 0.0
        self.known = ledger

    def doubt(self) -> None:
        """Whether the ledger has our report, and what lease it holds then, nobody knows: it is asked before we pay."""
        if self.unsure:
            self.until = 0.0

    @property
    def rests(self) -> bool:
        """Whether it is one tenant's of many, and nothing is reserved, to be told, or held on lease."""
        busy = self.reserved or self.used or self.unsure or self.lease
        return self.account.budget.tenant == "*" and self.known is not None and not busy

    def is_over(self, now: float) -> bool:
        """Whether its window has ended, and with it all that was paid from it. `now`: unix seconds."""
        ends = self.account.ends
        return ends is not None and now > ends + LINGERS and not self.reserved

    @property
    def state(self) -> BudgetState:
        """For people."""
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
        """Whether a request may be paid while the ledger cannot be reached: from what was last known to be left.

        What others held on lease then is not ours.
        """
        if self.known is None:
            return False
        others = sum((lease.usd for name, lease in self.known.leases.items() if name != holder), NOTHING)
        left = self.account.budget.limit_usd - self.known.spent - others
        return left - self.used - self.reserved >= usd


@dataclass(slots=True)
class Reservation:
    """What was reserved for one request, in each of its shares."""

    usd: Decimal
    shares: tuple[LocalBudget, ...] = ()
    settled: Decimal | None = None
    """What it did cost, as far as was known when it was settled last."""

    def add(self, local: LocalBudget) -> None:
        local.reserve(self.usd)
        self.shares += (local,)

    def settle(self, usd: Decimal | None) -> None:
        """`usd`: what it did cost, as far as is known; None: as much as was reserved. May be said again, corrected."""
        cost = self.usd if usd is None else usd
        for local in self.shares:
            if self.settled is None:
                local.settle(self.usd, cost)
            else:
                local.settle(NOTHING, cost - self.settled)
        self.settled = cost
