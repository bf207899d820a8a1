"""`prices`: the table of public prices, the prices in the configs, and the differences."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table

from bullpen.cli.reading import Json
from bullpen.cli.show import UNKNOWN, as_json, figures, names, note, problem, show, table, text, words
from config.loader import ConfigError
from contracts import OpenModel, Price
from workers.base.interface.config import ModelConfig
from workers.base.interface.discovery import BackendFolder, discover
from workers.base.prices import PriceTable
from workers.base.prices import table as public_prices

DIFFERS = 1
OLD = 90
"""Days after which the table counts as old."""


class Row(OpenModel):
    model_id: str
    where: str
    """A model's price at a worker's folder, or at a provider of the table."""
    price: Price | None
    origin: str
    """Where the price is from: `config`, `table` or `unknown`."""
    public: Price | None = None
    """The price in the table; None: the table has no price for this model there."""

    @property
    def differs(self) -> bool:
        return self.origin == "config" and self.public is not None and self.price != self.public


def register(app: typer.Typer) -> None:
    app.command()(prices)


def prices(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only those with this in their name")] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="The whole table, not only what is configured")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 where a config and the table differ")] = False,
    json: Json = False,
) -> None:
    """Public prices of models, and whether the configs agree.

    Prices are US dollars per million tokens. A config's own price wins; without one, a provider that is asked itself
    has its price from the table that comes with this version. What neither knows is unknown, and never guessed.

    Examples:

      bullpen prices

      bullpen prices claude --all

      bullpen prices --check || echo "look at the configs"
    """
    public = public_prices()
    try:
        found = list(_whole(public) if everything else _configured(public))
    except ConfigError as error:
        problem(str(error))
        raise typer.Exit(DIFFERS) from None
    rows = [row for row in found if model is None or model.lower() in row.model_id.lower()]
    if json:
        as_json({"source": public.source, "version": public.version, "dated": public.dated.isoformat(), "prices": rows})
    elif rows:
        show(_table(rows))
        licence = public.licence.partition(",")[0]
        note(f"table of {public.dated} from {public.source} {public.version} ({licence} licence)")
    else:
        note("no such model; `bullpen prices --all` shows the whole table")
    if check:
        _check(rows, public, datetime.now(UTC).date())


def _check(rows: Sequence[Row], public: PriceTable, today: date) -> None:
    """Prints the differences, and exits with 1 if there are any; an old table is only mentioned."""
    if (age := (today - public.dated).days) > OLD:
        problem(f"the table of public prices is {age} days old", "a newer version of Bullpen has a newer one")
    wrong = [row for row in rows if row.differs]
    for row in wrong:
        ours, theirs = _short(row.price), _short(row.public)
        problem(
            f"{row.model_id} in workers/{row.where}/config.yaml costs {ours}, in public {theirs}",
            "correct the file, or delete its price to have the public one; yours may be right: a contract's",
        )
    if wrong:
        raise typer.Exit(DIFFERS)


def _configured(public: PriceTable) -> Iterator[Row]:
    """The models that Bullpen's own and installed folders would serve."""
    for folder in discover().values():
        try:
            yield from _of(folder, public)
        except ImportError as error:
            note(f"{folder.name} is left out: {error}")


def _of(folder: BackendFolder, public: PriceTable) -> Iterator[Row]:
    config, provider = folder.config(), folder.load().price_list
    provider = config.price_list or provider
    named: tuple[ModelConfig, ...] = (*config.models, *getattr(config, "default_models", ()))
    for model in named:
        found = None if provider is None else public.find(provider, model.name)
        configured = "price" in model.model_fields_set
        price = model.price if configured else found
        origin = "unknown" if price is None else "config" if configured else "table"
        yield Row(model_id=model.name, where=folder.name, price=price, origin=origin, public=found)


def _whole(public: PriceTable) -> Iterator[Row]:
    for provider, models in public.providers.items():
        for name, price in models.items():
            yield Row(model_id=name, where=provider, price=price, origin="table", public=price)


def _table(rows: Sequence[Row]) -> Table:
    columns = [names("MODEL"), words("AT"), *map(figures, ("INPUT", "CACHED", "WRITTEN", "OUTPUT")), words("FROM")]
    return table(columns, [list(_cells(row)) for row in rows])


def _cells(row: Row) -> Iterator[RenderableType]:
    price = row.price
    yield text(row.model_id)
    yield text(row.where)
    if price is None:
        yield from [UNKNOWN] * 4
    else:
        rates = (price.input_per_mtok, price.cached_input_per_mtok, price.cache_write_per_mtok, price.output_per_mtok)
        yield from map(_exact, rates)
    origin = f"{row.origin}, not as in public" if row.differs else row.origin
    long = price.long_prompts if price is not None else None
    yield text(f"{origin}; more from {long.above_prompt_tokens // 1000}k tokens on" if long else origin)


def _exact(usd: Decimal | None) -> str:
    """A price to its last digit; a missing price is that of the input."""
    return "as input" if usd is None else f"${usd.normalize():f}"


def _short(price: Price | None) -> str:
    if price is None:
        return "an unknown price"
    return f"{_exact(price.input_per_mtok)} in, {_exact(price.output_per_mtok)} out"
