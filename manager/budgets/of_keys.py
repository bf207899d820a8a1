"""Budgets that come with API keys: `bullpen keys create --budget 5/day` limits what the key's tenant may spend.

The gateways read the same JetStream bucket of keys; a Manager reads only the budgets in it.
"""

import structlog
from pydantic import ValidationError

from bus import Bus
from bus.bucket_copy import BucketCopy
from contracts import ApiKey
from contracts import subjects as s
from contracts.keys import tenant_budgets
from manager.budgets.ledger import BudgetLedger
from manager.config import Budget

log = structlog.get_logger(__name__)

MAX_BYTES = 64 << 20


class KeyBudgets:
    def __init__(self, bus: Bus, ledger: BudgetLedger) -> None:
        self._ledger = ledger
        self._copy = BucketCopy(bus, s.KEYS_BUCKET, max_bytes=MAX_BYTES, changed=self._read)

    async def keep(self) -> None:
        """Follows the bucket until cancelled."""
        await self._copy.keep()

    def _read(self) -> None:
        keys = []
        for value in self._copy.values.values():
            try:
                keys.append(ApiKey.model_validate_json(value))
            except ValidationError:
                log.warning("key_unreadable")
        limits = tenant_budgets(keys)
        self._ledger.take_keys(
            tuple(Budget(tenant=tenant, limit_usd=limit, per=per) for (tenant, per), limit in limits.items())
        )
