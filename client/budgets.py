"""Budgets as several Managers tell them."""

from collections.abc import Iterable
from decimal import Decimal

from contracts import BudgetState


def merged(told: Iterable[BudgetState]) -> list[BudgetState]:
    """Each budget once, as whoever knows of the most spending says; nearest to its limit first, the unknown last.

    Of equals by name, whichever Manager was heard first.
    """
    best: dict[tuple[str | None, str | None, str, str], BudgetState] = {}
    for state in told:
        key = (state.tenant, state.model_id, state.per, state.window)
        if key not in best or _spent(state) > _spent(best[key]):
            best[key] = state
    return sorted(best.values(), key=_urgency)


def _urgency(state: BudgetState) -> tuple[Decimal, str, str]:
    return -_spent(state) / state.limit_usd, state.tenant or "", state.model_id or ""


def _spent(state: BudgetState) -> Decimal:
    return Decimal(-1) if state.spent_usd is None else state.spent_usd
