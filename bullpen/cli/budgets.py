"""`budgets`: the spending of each budget, from the Managers."""

from typing import Any

import typer

from bullpen.cli.reading import Json
from bullpen.cli.running import connected, run
from bullpen.cli.show import UNKNOWN, as_json, figures, money, note, show, table, text, words
from contracts import BudgetState

HARDLY_ANY_LEFT = 0.8
"""The share of a budget from which on it is shown in yellow."""


def register(app: typer.Typer) -> None:
    app.command()(budgets)


def budgets(*, json: Json = False) -> None:
    """How much of each budget is spent in its current window of time.

    They are in `manager/config.yaml`. Of `tenant: "*"` those tenants are shown that have asked since a Manager started.

    Examples:

      bullpen budgets

      bullpen budgets --json | jq '.[] | select(.spent_usd > 0.8 * .limit_usd)'
    """
    run(lambda: _list(json=json))


async def _list(*, json: bool) -> None:
    async with connected() as bullpen:
        found = await bullpen.budgets()
    if json:
        as_json(found)
    elif found:
        columns = [*map(words, ("TENANT", "MODEL", "PER")), *map(figures, ("SPENT", "LIMIT", "SHARE")), words("UNTIL")]
        show(table(columns, [_row(one) for one in found]))
    else:
        note("there are no budgets: `budgets` in manager/config.yaml makes some")


def _row(one: BudgetState) -> list[Any]:
    share = None if one.spent_usd is None else float(one.spent_usd / one.limit_usd)
    style = "" if share is None or share < HARDLY_ANY_LEFT else "red" if share >= 1 else "yellow"
    return [
        text("all together" if one.tenant is None else one.tenant or "(none named)"),
        text(one.model_id or "any"),
        text(one.per),
        text(UNKNOWN if one.spent_usd is None else money(one.spent_usd), style),
        text(money(one.limit_usd)),
        text(UNKNOWN if share is None else f"{share:.0%}", style),
        text(f"{one.ends_at:%Y-%m-%d %H:%M} UTC" if one.ends_at else UNKNOWN),
    ]
