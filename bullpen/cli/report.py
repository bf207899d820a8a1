"""`report`: the books as one HTML page."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bullpen.cli.output import replacing
from bullpen.cli.reading import Json, Since, Tenant, Until, from_books
from bullpen.cli.running import usage
from bullpen.cli.show import as_json
from bullpen.report import ReportUnavailable, render
from telemetry.reading.figures import Period, figures

WITHIN = 120.0
DAYS = 30


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    *,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="Where to write the page; it is replaced")
    ] = Path("report.html"),
    json: Json = False,
) -> None:
    """The books as one HTML page: cost, tenants, models, latency, errors, grades.

    Of the last 30 days by default. The page is self-contained: send it, print it, keep it.

    Examples:

      bullpen report --since 7d

      bullpen report --since 2026-10-01T00:00Z --until 2026-11-01T00:00Z --out october.html

      bullpen report --tenant acme --out acme.html

      bullpen report --json | jq '.tenants'
    """
    end = until or datetime.now(UTC)
    period = Period(since=since or end - timedelta(days=DAYS), until=end)
    if period.since >= period.until:
        raise usage("the period ends before it begins", "--since must be earlier than --until")
    found = from_books(lambda store: figures(store, period, tenant), within=WITHIN)
    if json:
        as_json(found)
        return
    try:
        page = render(found)
    except ReportUnavailable as error:
        raise usage(str(error), "pip install 'bullpen-mesh[report]', or take the figures with --json") from None
    with replacing(out) as path:
        path.write_text(page, encoding="utf-8")
    typer.echo(f"wrote {out}")
