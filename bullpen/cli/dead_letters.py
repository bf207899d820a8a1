"""`dead-letters` and `rebook`: events that could not be booked."""

from typing import Annotated

import typer

from bullpen.cli.reading import Json, from_books
from bullpen.cli.running import ERROR_REPLY
from bullpen.cli.show import ago, as_json, note, one_line, show, table, text, words
from telemetry.recording.rebooking import KeptLetter, kept_letters
from telemetry.recording.rebooking import rebook as rebook_one
from telemetry.store import Store

REBOOK_WITHIN = 30.0
SHOWN_CHARACTERS = 120


def register(app: typer.Typer) -> None:
    app.command("dead-letters")(dead_letters)
    app.command()(rebook)


def dead_letters(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the oldest first")] = 20,
    json: Json = False,
) -> None:
    """Events that could not be booked, and why.

    Their words are not shown. `bullpen rebook` tries them again.

    Examples:

      bullpen dead-letters

      bullpen dead-letters --json | jq '.[].reason'
    """

    async def look(store: Store) -> list[KeptLetter]:
        return [letter async for letter in kept_letters(store, most=limit)]

    found = from_books(look)
    if json:
        as_json([_told(letter) for letter in found])
    elif found:
        columns = list(map(words, ("WHEN", "SUBJECT", "SIZE", "WHY")))
        show(
            table(
                columns,
                [
                    [
                        text(ago(letter.created_at)),
                        text(letter.subject),
                        text(f"{len(letter.data)} B"),
                        text(one_line(letter.reason, SHOWN_CHARACTERS)),
                    ]
                    for letter in found
                ],
            )
        )
    else:
        note("there are none")


def rebook() -> None:
    """Book the dead letters that can be booked now.

    This version may be able to read them, or the reason has passed. What is booked leaves `dead_letters` in the
    same transaction; the rest stays. Needs the owner of the tables.

    Examples:

      bullpen rebook
    """

    async def again(store: Store) -> tuple[int, list[str]]:
        results = [await rebook_one(store, letter) async for letter in kept_letters(store)]
        return results.count(""), [reason for reason in results if reason]

    booked, reasons = from_books(again, within=REBOOK_WITHIN)
    typer.echo(f"booked {booked}, {len(reasons)} stay in dead_letters")
    for reason in sorted(set(reasons)):
        typer.echo(f"  {reasons.count(reason)}: {one_line(reason, SHOWN_CHARACTERS)}")
    if reasons:
        raise typer.Exit(ERROR_REPLY)


def _told(letter: KeptLetter) -> dict[str, object]:
    """The fields of a dead letter without prompts or answers."""
    return {
        "stream_seq": letter.stream_seq,
        "created_at": letter.created_at,
        "subject": letter.subject,
        "bytes": len(letter.data),
        "reason": letter.reason,
    }
