"""Makes a new `table.json`: `uv run --with genai-prices python -m workers.base.prices.generate`.

Takes models with a plain price per million tokens, or with a second price above a certain prompt length. Models whose
price depends on the hour, or is per item, are left out: a price for them would be a guess.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from typing import Any

from workers.base.prices import TABLE

PACKAGE = "genai-prices"
LEFT_OUT = (
    "aws",
    "azure",
    "cloudflare",
    "cursor",
    "databricks",
    "github-copilot",
    "huggingface",
    "novita",
    "openrouter",
    "quicksilverpro",
)
"""Providers that are left out: they sell others' models under their own conditions."""
NAMES = {
    "input_mtok": "input_per_mtok",
    "output_mtok": "output_per_mtok",
    "cache_read_mtok": "cached_input_per_mtok",
    "cache_write_mtok": "cache_write_per_mtok",
}
NEEDED = {"input_per_mtok", "output_per_mtok"}

Json = dict[str, Any]


def main() -> None:
    now = datetime.now(UTC)
    snapshot = import_module("genai_prices.data_snapshot").get_snapshot()
    listed = {
        provider.id: dict(sorted(_prices(provider, now)))
        for provider in snapshot.providers
        if not provider.id.startswith(LEFT_OUT)
    }
    providers = {name: prices for name, prices in listed.items() if prices}
    document = {
        "source": f"https://github.com/pydantic/{PACKAGE}",
        "version": version(PACKAGE),
        "licence": "MIT, Copyright Pydantic Services Inc.",
        "dated": now.date().isoformat(),
        "unit": "US dollars per million tokens",
        "providers": dict(sorted(providers.items())),
    }
    TABLE.write_text(json.dumps(document, indent=0, default=str) + "\n", encoding="utf-8")
    print(f"{TABLE}: {sum(map(len, providers.values()))} models of {len(providers)} providers")


def _prices(provider: Any, now: datetime) -> Iterator[tuple[str, Json]]:
    for model in provider.models:
        price = _price(_current(model.prices, now))
        if price is not None:
            for name in {model.id, *_names(model.match)}:
                yield name, price


def _current(prices: Any, now: datetime) -> Any:
    """The latest of the prices that have started by now; None when they depend on the hour."""
    if not isinstance(prices, list):
        return prices
    current = None
    for one in prices:
        start = getattr(one.constraint, "start_date", None)
        if one.constraint is not None and start is None:
            return None
        if start is None or start <= now.date():
            current = one.prices
    return current


def _price(prices: Any) -> Json | None:
    told = {ours: value for theirs, ours in NAMES.items() if (value := getattr(prices, theirs, None)) is not None}
    if not told.keys() >= NEEDED:
        return None
    tiers = {name: value.tiers for name, value in told.items() if hasattr(value, "tiers")}
    price = {name: str(getattr(value, "base", value)) for name, value in told.items()}
    starts = {tier.start for steps in tiers.values() for tier in steps}
    if len(starts) > 1:
        return None
    if starts:
        long = {name: str(tiers[name][0].price) if tiers.get(name) else price[name] for name in told}
        return {**price, "long_prompts": {"above_prompt_tokens": starts.pop(), **long}}
    return price


def _names(match: Any) -> Iterator[str]:
    """The exact names of a model."""
    equals = getattr(match, "equals", None)
    if isinstance(equals, str):
        yield equals
    for clause in getattr(match, "or_", None) or ():
        yield from _names(clause)


if __name__ == "__main__":
    main()
