"""Budgets across Managers: takes leases from the ledgers in a JetStream bucket, and pays requests out of them.

While a lease lasts, no request waits: leases are renewed in the background. A request waits briefly only when its
likely cost is more than the lease has left. Without JetStream a Manager goes on with what was left when it last saw the
ledger; a Manager that has never seen it spends nothing.
"""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from time import time

import structlog
from pydantic import ValidationError

from bus import Bus, BusError
from bus.kv import Bucket
from contracts import BudgetMetrics, BudgetState, BullpenError, ErrorCode, new_id, utc_now
from contracts import subjects as s
from manager.budgets.accounts import NOTHING, Account, Ledger, LocalBudget, Reservation, accounts, named
from manager.config import Budget
from manager.metrics import Metrics

log = structlog.get_logger(__name__)

BUCKET = "bullpen_budgets"
MAX_BYTES = 16 << 20
KEPT = 400 * 86_400.0
"""Seconds: longer than the longest window that ends."""
RENEW_EVERY = 2.0
WITHIN = 0.5
"""Seconds that one request waits for JetStream."""
LEFT_ALONE = 5.0
"""Seconds after such a wait in which no other request waits for JetStream."""
BACKGROUND_WITHIN = 2.0
RENEWED_AT_ONCE = 32
MOST_KNOWN = 100
MOST_AT_REST = 1000
"""Tenants without spending that are remembered for `bullpen budgets`."""


class BudgetLedger:
    def __init__(
        self,
        bus: Bus,
        budgets: tuple[Budget, ...],
        manager_id: str,
        metrics: Metrics,
        clock: Callable[[], float] = time,
    ) -> None:
        self._bus = bus
        self._configured = budgets
        self._of_keys: tuple[Budget, ...] = ()
        self._budgets = budgets
        self._id = manager_id
        self._holder = f"{manager_id}/{new_id()}"
        """The holder of the leases: one life of one Manager. A restarted Manager does not own its predecessor's
        leases.
        """
        self._reports = count(1)
        self._metrics = metrics
        self._clock = clock
        self._bucket: Bucket | None = None
        self._local_budgets: dict[str, LocalBudget] = {}
        self._renewing: dict[str, asyncio.Lock] = {}
        self._away_until = 0.0
        """Whether JetStream may be asked, by our clock."""

    async def reserve(self, tenant: str, model_id: str, usd: Decimal | None) -> Reservation | None:
        """Reserves the likely cost of a request. Returns None when no budget concerns it. Raises `budget_exceeded`.

        A model that costs nothing, or whose price is unknown, is never stopped.
        """
        if not self._budgets or not usd:
            return None
        reservation = Reservation(usd)
        try:
            for account in accounts(self._budgets, tenant, model_id, self._clock()):
                local = self._local_budgets.setdefault(account.key, LocalBudget(account))
                if not await self._can_pay(local, usd):
                    raise self._exceeded(account)
                reservation.add(local)  # at once: others ask for the same money while we wait for the next local
        except BaseException:
            reservation.settle(NOTHING)
            raise
        return reservation if reservation.shares else None

    async def states(self) -> list[BudgetState]:
        """What is spent of every budget; of single tenants, those that this Manager has seen."""
        now = self._clock()
        for account in named(self._budgets, now):
            self._local_budgets.setdefault(account.key, LocalBudget(account))
        unknown = [local for local in self._local_budgets.values() if local.known is None or local.rests]
        await asyncio.gather(*(self._renew_quietly(local, NOTHING, WITHIN) for local in unknown))
        lasting = [p for p in self._local_budgets.values() if p.account.ends is None or p.account.ends > now]
        return [local.state for local in lasting if local.account.budget in self._budgets]

    def known_states(self, tenants: int) -> list[BudgetState]:
        """What this Manager knows of the budgets, without asking JetStream; of single tenants, the first `tenants`."""
        now = self._clock()
        for account in named(self._budgets, now):
            self._local_budgets.setdefault(account.key, LocalBudget(account))
        lasting = [p for p in self._local_budgets.values() if p.account.ends is None or p.account.ends > now]
        current = [local for local in lasting if local.account.budget in self._budgets]
        own = [local.state for local in current if local.account.budget.tenant != "*"]
        others = [local.state for local in current if local.account.budget.tenant == "*"]
        return [*own[:MOST_KNOWN], *others[:tenants]]

    def reconfigure(self, budgets: tuple[Budget, ...]) -> None:
        """Takes over changed limits: the next request that such a budget pays for asks the ledger how much is left."""
        self._configured = budgets
        self._take()

    def take_keys(self, budgets: tuple[Budget, ...]) -> None:
        """Takes over the budgets of API keys. Where the config has a budget for the same tenant, the smaller limit
        counts.
        """
        if budgets != self._of_keys:
            self._of_keys = budgets
            self._take()

    def _take(self) -> None:
        strictest: dict[tuple[str | None, str | None, str], Budget] = {}
        for budget in (*self._configured, *self._of_keys):
            at = (budget.tenant, budget.model, budget.per)
            if at not in strictest or budget.limit_usd < strictest[at].limit_usd:
                strictest[at] = budget
        budgets = self._budgets = tuple(strictest.values())
        for local in self._local_budgets.values():
            for budget in budgets:
                local.follow(budget)

    async def keep(self) -> None:
        """Renews leases before they are needed, and gives back those that are not; until cancelled."""
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await self._renew_all()

    async def _renew_all(self) -> None:
        """Renews several ledgers at a time. An idle tenant's lease is given back, and its account costs nothing
        more.
        """
        turns = asyncio.Semaphore(RENEWED_AT_ONCE)

        async def renew(local: LocalBudget) -> None:
            async with turns:
                await self._renew_quietly(local, local.used)

        await asyncio.gather(*(renew(local) for local in self._local_budgets.values() if not local.rests))
        self._forget(self._clock())

    def _forget(self, now: float) -> None:
        """Drops accounts whose window is over, and, when there are very many, the idle tenants that asked first."""
        over = [key for key, local in self._local_budgets.items() if local.is_over(now)]
        rest = [key for key, local in self._local_budgets.items() if local.rests]
        for key in (*over, *rest[: max(0, len(rest) - MOST_AT_REST)]):
            if key not in self._renewing or not self._renewing[key].locked():
                self._local_budgets.pop(key, None)
                self._renewing.pop(key, None)

    async def close(self) -> None:
        """Reports what was spent, and gives all leases back."""
        for local in self._local_budgets.values():
            await self._renew_quietly(local, None)

    async def _can_pay(self, local: LocalBudget, usd: Decimal) -> bool:
        if local.can_pay(usd, self._clock()):
            return True
        async with self._renewing.setdefault(local.account.key, asyncio.Lock()):
            if local.can_pay(usd, self._clock()):
                return True  # somebody else renewed it meanwhile
            if self._clock() < self._away_until:
                return local.goes_on_alone(usd, self._holder)
            try:
                await self._renew(local, usd, WITHIN)
            except BusError as error:
                self._away_until = self._clock() + LEFT_ALONE
                log.warning("budget_unknown", budget=str(local.account), error=str(error))
                return local.goes_on_alone(usd, self._holder)
        return local.can_pay(usd, self._clock())

    async def _renew_quietly(self, local: LocalBudget, more: Decimal | None, within: float | None = None) -> None:
        try:
            async with self._renewing.setdefault(local.account.key, asyncio.Lock()):
                await self._renew(local, more, within or BACKGROUND_WITHIN)
        except BusError as error:
            log.debug("budget_not_told", budget=str(local.account), error=str(error))

    async def _renew(self, local: LocalBudget, more: Decimal | None, within: float) -> None:
        """Reports what was spent, and takes a lease of a little more than what is reserved plus `more`.

        `more` None: gives the lease back. Raises `BusError`.
        """
        if self._bucket is None:
            self._bucket = await Bucket.open(self._bus, BUCKET, max_age_s=KEPT, max_bytes=MAX_BYTES)
        account, number = local.account, next(self._reports)

        def renewed(value: bytes) -> tuple[bytes, tuple[bool, Ledger]]:
            before = _read(value)
            is_known = before.warned and not local.may_have_warned(before, self._holder)
            after = local.report(before, self._holder, number, more, self._clock())
            return after.model_dump_json().encode(), (is_known, after)

        try:
            is_known, after = await self._bucket.update(account.key, renewed, within=within)
        except BaseException:
            local.doubt()
            raise
        local.renewed(after, self._holder, number)
        self._away_until = 0.0
        if after.warned and not is_known:
            self._warn(account, after)

    def _warn(self, account: Account, ledger: Ledger) -> None:
        log.warning("budget_nearly_spent", budget=str(account), spent_usd=str(ledger.spent))
        told = BudgetMetrics(
            source=self._id,
            created_at=utc_now(),
            tenant=account.told_tenant,
            model_id=account.budget.model,
            window=account.window,
            limit_usd=account.budget.limit_usd,
            spent_usd=ledger.spent,
        )
        self._metrics.tell(s.METRICS_BUDGET, told)

    def _exceeded(self, account: Account) -> BullpenError:
        ends = account.ends
        wait_ms = None if ends is None else max(0, round((ends - self._clock()) * 1000))
        return BullpenError(ErrorCode.BUDGET_EXCEEDED, f"{account} has not enough left", retry_after_ms=wait_ms)


def _read(value: bytes) -> Ledger:
    """Writes the ledger. Raises `BusError` when another Manager has written it meanwhile."""
    if not value:
        return Ledger()
    try:
        return Ledger.model_validate_json(value)
    except ValidationError as error:
        raise BusError(f"the ledger in bucket {BUCKET} is not one: {error.errors()[0]['msg']}") from None
