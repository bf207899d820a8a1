"""The state of budgets, merged from the reports of several Managers."""

from collections.abc import Iterable
from decimal import Decimal

from contracts import BudgetState


def merged(states: Iterable[BudgetState]) -> list[BudgetState]:
    """Lists each budget once, as the Manager that knows of the most spending reports it; those nearest to their limit
    come first.

    Budgets whose spending is unknown come last. When Managers agree, the first report counts.
    """
    best: dict[tuple[str | None, str | None, str, str], BudgetState] = {}
    for state in states:
        key = (state.tenant, state.model_id, state.per, state.window)
        if key not in best or _spent(state) > _spent(best[key]):
            best[key] = state
    return sorted(best.values(), key=_urgency)


def _urgency(state: BudgetState) -> tuple[Decimal, str, str]:
    return -_spent(state) / state.limit_usd, state.tenant or "", state.model_id or ""


def _spent(state: BudgetState) -> Decimal:
    return Decimal(-1) if state.spent_usd is None else state.spent_usd
