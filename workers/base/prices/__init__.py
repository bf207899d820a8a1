"""What providers charge in public: a table of a certain day, for models whose config names no price.

A model is found by its exact name, or by its name without the date at its end (`gpt-5-mini-2025-08-07`); nothing that
merely looks alike. What is not in the table has no price, and unknown is told as unknown. A config's price wins, also
`price: null`. Contracts, discounts and taxes are nobody's business but yours: put your own prices into `config.yaml`.

`table.json` is made by `generate.py` from the package genai-prices (MIT licence); its head names the version.
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
        """The price of a provider's model. None: it is not known."""
        prices = self.providers.get(provider, {})
        return prices.get(model) or prices.get(_DATE.sub("", model))


@cache
def table() -> PriceTable:
    """The one that comes with this version."""
    return PriceTable.model_validate(json.loads(TABLE.read_text(encoding="utf-8")))


def priced(card: ModelCard, provider: str | None, *, told: bool) -> ModelCard:
    """The card with its provider's public price, if it has none of its own.

    `told`: its config says what it costs, or that nobody knows. `provider` None or `none`: nobody's prices are its own.
    """
    if told or card.price is not None or provider in (None, NONE):
        return card
    return card.model_copy(update={"price": table().find(str(provider), card.model_id)})
