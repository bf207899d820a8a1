"""`bullpen doctor`: every part of the mesh in one line, with a cure for each fault."""

from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from bullpen.cli.running import ERROR_REPLY, run, settings
from bullpen.cli.show import as_json, lines, show, table, text, words
from bullpen.doctor import Finding, examine
from bullpen.supervision.endpoints import resolve_database_url

STYLES = {"ok": "green", "off": "dim", "warn": "yellow", "fail": "bold red"}


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(*, json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False) -> None:
    """Check every part of the mesh and say what to do.

    Exit code 1 when something failed; a warning alone is 0.

    Examples:

      bullpen doctor

      bullpen doctor --json | jq '.[] | select(.state == "fail")'
    """
    findings: list[Finding] = []

    async def look() -> None:
        findings.extend([finding async for finding in examine(settings(), resolve_database_url())])

    run(look)
    if json:
        as_json(findings)
    else:
        show(table([words("") for _ in range(3)], map(_row, findings), heading=False))
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(ERROR_REPLY)


def _row(finding: Finding) -> list[RenderableType]:
    cure = [text(f"→ {finding.cure}", "bold")] if finding.cure else []
    return [Text(finding.state, style=STYLES[finding.state]), text(finding.part), lines(text(finding.detail), *cure)]
