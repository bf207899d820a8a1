"""The table of public prices: who has its price from it and who does not, and what `bullpen prices` makes of it."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts import ModelCard, Price
from tests.cli import invoke
from workers.anthropic.backend import AnthropicBackend, AnthropicConfig
from workers.base.interface.config import BackendConfig, ModelConfig
from workers.base.interface.discovery import BackendFolder, discover
from workers.base.prices import priced, table
from workers.openai.backend import OpenAIBackend, OpenAIConfig

PUBLIC = table()
MINI = PUBLIC.providers["openai"]["gpt-5-mini"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "sk-test")
        monkeypatch.delenv(f"{name}_BASE_URL", raising=False)


def test_the_table_names_its_source_its_day_and_its_licence() -> None:
    assert PUBLIC.source.startswith("https://github.com/pydantic/genai-prices")
    assert PUBLIC.version
    assert "MIT" in PUBLIC.licence
    assert PUBLIC.unit == "US dollars per million tokens"
    assert sum(map(len, PUBLIC.providers.values())) > 500


def test_prices_are_exact() -> None:
    assert (
        Price(input_per_mtok=Decimal("0.25"), output_per_mtok=Decimal("2"), cached_input_per_mtok=Decimal("0.025"))
        == MINI
    )
    assert MINI.cost(1, 1) == Decimal("0.00000225")


def test_prices_of_long_prompts_are_kept() -> None:
    price = PUBLIC.find("google", "gemini-2.5-pro")
    assert price is not None
    assert price.long_prompts is not None
    assert (price.long_prompts.above_prompt_tokens, price.long_prompts.input_per_mtok) == (200_000, Decimal("2.5"))


@pytest.mark.parametrize("name", ["gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5-mini-20991231"])
def test_a_model_is_found_by_its_name_with_or_without_a_date(name: str) -> None:
    assert PUBLIC.find("openai", name) == MINI


@pytest.mark.parametrize("name", ["gpt-5-mini-turbo", "gpt-5-min", "GPT-5-MINI", "openai/gpt-5-mini", "", "-20250807"])
def test_what_only_looks_alike_has_no_price(name: str) -> None:
    assert PUBLIC.find("openai", name) is None
    assert PUBLIC.find("nobody", "gpt-5-mini") is None


def card(price: Price | None = None) -> ModelCard:
    return ModelCard(model_id="gpt-5-mini", context_window=1, price=price, local=False)


def test_a_config_s_word_wins() -> None:
    own = Price(input_per_mtok=Decimal(9), output_per_mtok=Decimal(9))
    assert priced(card(), "openai", told=False).price == MINI
    assert priced(card(own), "openai", told=True).price == own
    assert priced(card(), "openai", told=True).price is None, "`price: null` says that nobody knows"
    assert priced(card(), "none", told=False).price is None
    assert priced(card(), None, told=False).price is None


@pytest.mark.parametrize(
    ("told", "price"),
    [
        ({}, MINI),
        ({"base_url": "https://eu.api.openai.com/v1"}, MINI),
        ({"base_url": "http://127.0.0.1:8000/v1"}, None),
        ({"base_url": "http://127.0.0.1:8000/v1", "price_list": "openai"}, MINI),
        ({"price_list": "none"}, None),
    ],
)
async def test_only_the_provider_itself_has_its_prices(told: dict[str, Any], price: Price | None) -> None:
    """A server of one's own that calls its model gpt-5-mini is not OpenAI."""
    backend = OpenAIBackend(OpenAIConfig(models=(ModelConfig(name="gpt-5-mini"),), **told))
    assert backend.models()[0].price == price
    await backend.close()


async def test_a_price_of_null_is_unknown() -> None:
    models = [{"name": "claude-haiku-4-5", "price": None}, {"name": "claude-opus-5-5"}, {"name": "claude-of-mine"}]
    backend = AnthropicBackend(AnthropicConfig.model_validate({"models": models}))
    unknown, known, mine = (card.price for card in backend.models())
    assert unknown is None
    assert known == PUBLIC.find("anthropic", "claude-opus-5-5")
    assert mine is None
    await backend.close()


def test_a_list_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="there are no prices of opnai: known are"):
        BackendConfig(price_list="opnai")


def folder(path: Path, text: str) -> BackendFolder:
    (path / "config.yaml").write_text(text)
    return BackendFolder("openai", path, discover()["openai"].module)


def test_what_differs_is_named_and_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
models:
  - {name: gpt-5-mini, price: {input_per_mtok: 0.24, output_per_mtok: 2}}
  - {name: gpt-5-nano}
  - {name: of-mine, price: {input_per_mtok: 1, output_per_mtok: 1}}
  - {name: never-heard-of}
"""
    monkeypatch.setattr("bullpen.cli.prices.discover", lambda: {"openai": folder(tmp_path, text)})
    told = invoke("prices", "--check", "--json")
    assert told.code == 1
    assert "gpt-5-mini in workers/openai/config.yaml costs $0.24 in, $2 out, in public $0.25 in, $2 out" in told.err
    origins = {row["model_id"]: row["origin"] for row in told.json()["prices"]}
    assert origins == {"gpt-5-mini": "config", "gpt-5-nano": "table", "of-mine": "config", "never-heard-of": "unknown"}
    assert told.err.count("gpt-") == 1


def test_the_whole_table_can_be_searched() -> None:
    shown = invoke("prices", "haiku-4-5", "--all").out
    assert "claude-haiku-4-5" in shown
    assert "gpt" not in shown
