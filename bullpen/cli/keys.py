"""`keys create|list|revoke|rotate`: API keys for the gateway."""

import re
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, cast

import typer

from bullpen.cli.reading import Json
from bullpen.cli.running import connected, run, usage
from bullpen.cli.show import UNKNOWN, as_json, money, note, show, table, text, words
from contracts import ApiKey, KeyBudget, KeyRole, utc_now
from contracts.envelope import TENANT_CHARACTERS
from contracts.keys import Window
from gateway.keys.office import KeyOffice

HELP = """API keys of the gateway: create, list, revoke, rotate.

    Each says who asks, what they may, and whose budget pays. A secret is shown once, and kept nowhere.

    Examples:

      bullpen keys create --tenant acme --budget 5/day

      bullpen keys list
    """
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WINDOWS = ("hour", "day", "month", "total")
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `bullpen keys list` shows it")]


HELP = """API keys of the gateway. A secret is shown once, and kept nowhere.

Examples:

  bullpen keys create --tenant acme --budget 5/day

  bullpen keys list

  bullpen keys revoke KEY_ID
"""


def register(app: typer.Typer) -> None:
    keys = typer.Typer(no_args_is_help=True, help=HELP)
    keys.command()(create)
    keys.command(name="list")(list_)
    keys.command()(revoke)
    keys.command()(rotate)
    app.add_typer(keys, name="keys")


def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whose requests it makes: bills and budgets go by it")],
    budget: Annotated[
        str | None, typer.Option(metavar="USD/WINDOW", help="What the tenant may spend: 5/day, 100/month, 20/total")
    ] = None,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests per minute")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens per minute")] = None,
    models: Annotated[str | None, typer.Option(help="Names it may ask for, with * and ?, comma-separated")] = None,
    expires: Annotated[str | None, typer.Option(metavar="AFTER", help="30d, 12h, 4w (default: never)")] = None,
    role: Annotated[
        KeyRole, typer.Option(help="On the live page: tenant sees its own requests, viewer all, operator may also act")
    ] = "tenant",
    json: Json = False,
) -> None:
    """Make a key. Its secret is shown now, and never again.

    Examples:

      bullpen keys create --tenant acme

      bullpen keys create --tenant acme --budget 5/day --rpm 60 --models 'gpt-*,auto' --expires 30d

      bullpen keys create --tenant ops --role operator
    """
    if not 0 < len(tenant) <= TENANT_CHARACTERS:
        raise usage(f"--tenant should have 1 to {TENANT_CHARACTERS} characters")
    options: dict[str, Any] = {
        "rpm": rpm,
        "tpm": tpm,
        "models": tuple(name.strip() for name in (models or "").split(",") if name.strip()),
        "expires_at": _time(expires, "--expires"),
        "budget": _budget(budget),
        "role": role,
    }

    async def make() -> None:
        async with connected() as bullpen:
            made, secret = await (await KeyOffice.open(bullpen.bus)).create(tenant, **options)
        _tell(made, secret, json=json)

    run(make)


def list_(*, json: Json = False) -> None:
    """Every key, without its secret, which only its owner has.

    Examples:

      bullpen keys list

      bullpen keys list --json | jq '.[] | select(.revoked_at == null)'
    """

    async def look() -> None:
        async with connected() as bullpen:
            found = await (await KeyOffice.open(bullpen.bus)).keys()
        if json:
            as_json(found)
        elif found:
            columns = [*map(words, ("KEY", "TENANT", "ROLE", "STATE", "MODELS", "LIMITS", "CREATED", "EXPIRES"))]
            show(table(columns, [_row(key) for key in found]))
        else:
            note("there are no keys: `bullpen keys create --tenant NAME` makes one")

    run(look)


def revoke(key_id: KeyId, *, json: Json = False) -> None:
    """End a key: every gateway refuses it within a second.

    Examples:

      bullpen keys revoke key-8f3a61c09d
    """

    async def end() -> None:
        async with connected() as bullpen:
            revoked = await (await KeyOffice.open(bullpen.bus)).revoke(key_id)
        if json:
            as_json(revoked)
        else:
            typer.echo(f"{key_id} of {revoked.tenant} is revoked")

    run(end)


def rotate(
    key_id: KeyId,
    *,
    overlap: Annotated[
        str | None, typer.Option(metavar="AFTER", help="How long the old one still works: 1h, 2d (default: not at all)")
    ] = None,
    json: Json = False,
) -> None:
    """Make a new key that may do the same, and end the old one.

    Examples:

      bullpen keys rotate key-8f3a61c09d --overlap 1d
    """
    until = _time(overlap, "--overlap")

    async def change() -> None:
        async with connected() as bullpen:
            made, secret = await (await KeyOffice.open(bullpen.bus)).rotate(key_id, until)
        _tell(made, secret, json=json)

    run(change)


def _tell(key: ApiKey, secret: str, *, json: bool) -> None:
    if json:
        as_json({**key.model_dump(mode="json", by_alias=True), "secret": secret})
    else:
        typer.echo(secret)
        note(f"{key.key_id} of {key.tenant}; the secret above is shown this once")


def _row(key: ApiKey) -> list[Any]:
    expired = key.expires_at is not None and key.expires_at <= utc_now()
    limits = [f"{key.rpm} rpm" if key.rpm else "", f"{key.tpm} tpm" if key.tpm else ""]
    limits += [f"{money(key.budget.limit_usd)}/{key.budget.per}"] if key.budget else []
    return [
        text(key.key_id),
        text(key.tenant),
        text(key.role),
        text("revoked" if key.revoked_at else "expired" if expired else "open"),
        text(", ".join(key.models) or "all"),
        text(", ".join(filter(None, limits)) or UNKNOWN),
        text(f"{key.created_at:%Y-%m-%d %H:%M}"),
        text(f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else UNKNOWN),
    ]


def _time(after: str | None, option: str) -> datetime | None:
    """The time when so much time has passed."""
    if after is None:
        return None
    found = re.fullmatch(r"(\d{1,5})([mhdw])", after)
    if found is None or not int(found[1]):
        raise usage(f"{option} {after!r}: write a number and m, h, d or w, as 30d")
    return utc_now() + timedelta(**{UNITS[found[2]]: int(found[1])})


def _budget(told: str | None) -> KeyBudget | None:
    if told is None:
        return None
    amount, _, per = told.partition("/")
    try:
        limit = Decimal(amount)
    except InvalidOperation:
        limit = Decimal(0)
    if not limit.is_finite() or limit <= 0 or per not in WINDOWS:
        raise usage(f"--budget {told!r}: write US dollars and hour, day, month or total, as 5/day")
    return KeyBudget(limit_usd=limit, per=cast("Window", per))
