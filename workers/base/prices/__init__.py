"""Public prices of providers: a table of a certain day, for models whose config has no price.

A model is found by its exact name, or by its name without the date at its end (`gpt-5-mini-2025-08-07`), never by
similarity. A model that the table lacks has no price, and is shown as unknown. A price in the config comes first, even
`price: null`. The table knows no contracts, discounts or taxes: put your own prices into `config.yaml`.

`generate.py` makes `table.json` from the package genai-prices (MIT licence); the head of the table names its version.
"""

import json
import re
from datetime import date
from functools import cache
from pathlib import Path

from contracts import ModelCard, OpenModel, Price

TABLE = Path(__file__).parent / "table.json"
NONE = "none"
_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


class PriceTable(OpenModel):
    source: str
    version: str
    licence: str
    dated: date
    unit: str
    providers: dict[str, dict[str, Price]]

    def find(self, provider: str, model: str) -> Price | None:
        """The price of a provider's model. None: unknown."""
        prices = self.providers.get(provider, {})
        return prices.get(model) or prices.get(_DATE.sub("", model))


@cache
def table() -> PriceTable:
    """The table that comes with this version of Bullpen."""
    return PriceTable.model_validate(json.loads(TABLE.read_text(encoding="utf-8")))


def priced(card: ModelCard, provider: str | None, *, told: bool) -> ModelCard:
    """The card with its provider's public price, if it has no price of its own.

    `told`: the config has a price, or says that it is unknown. `provider` None or `none`: no public prices apply.
    """
    if told or card.price is not None or provider in (None, NONE):
        return card
    return card.model_copy(update={"price": table().find(str(provider), card.model_id)})
