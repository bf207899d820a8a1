"""`bullpen embed`: the vectors of texts."""

import sys
from typing import Annotated

import typer

from bullpen.cli.prompt import from_stdin
from bullpen.cli.running import connected, run, tell, usage
from bullpen.cli.show import UNKNOWN, as_json, duration, money, note
from client import BullpenError, EmbedOptions, RequestFailed
from contracts import EmbeddingResponse, ErrorReply, Policy

SHOWN = 4
"""Numbers of a vector that are shown in a table."""


def register(app: typer.Typer) -> None:
    app.command()(embed)


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT…", help="Left out or -: each line of standard input is one")
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Only workers that serve this model")] = None,
    backend: Annotated[str | None, typer.Option(help="Only workers of this backend")] = None,
    policy: Annotated[Policy | None, typer.Option(help="How candidates are weighed (if not said: balanced)")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Numbers of each vector")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="For all attempts together (if not said: 120000)")
    ] = None,
    task_id: Annotated[str | None, typer.Option(help="A name of your own for this task")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole response (or error) as JSON")] = False,
) -> None:
    """Get the vectors of texts, all of one model.

    Exit codes: 0 answered, 1 an error reply, 2 wrong usage, 3 the mesh cannot be reached.

    Examples:

      bullpen embed "What is the capital of France?"

      bullpen embed --model nomic-embed-text --json "Paris" "Rome" | jq .embeddings

      bullpen embed --json - < chunks.txt
    """
    options = EmbedOptions(
        model=model,
        backend=backend,
        policy=policy,
        dimensions=dimensions,
        deadline_ms=deadline_ms,
        task_id=task_id,
    )
    wanted = _texts(texts or ["-"])
    run(lambda: _print(wanted, options, json=json))


def _texts(told: list[str]) -> list[str]:
    if told != ["-"]:
        return told
    if sys.stdin.isatty():
        raise usage("there is no text", 'bullpen embed "What is the capital of France?"')
    lines = [line for line in from_stdin().splitlines() if line.strip()]
    if not lines:
        raise usage("the text is empty")
    return lines


async def _print(texts: list[str], options: EmbedOptions, *, json: bool) -> None:
    async with connected() as bullpen:
        try:
            response = await bullpen.embed(texts, **options)
        except BullpenError as error:
            if not json:
                raise
            as_json(error.reply if isinstance(error, RequestFailed) else ErrorReply(error=error.detail()))
            tell(error)
            raise typer.Exit(1) from None
    if json:
        as_json(response)
        return
    for vector in response.vectors:
        numbers = " ".join(f"{number:.4f}" for number in vector[:SHOWN])
        typer.echo(f"{numbers} … ({len(vector)} numbers)" if len(vector) > SHOWN else numbers)
    note(_footer(response))


def _footer(response: EmbeddingResponse) -> str:
    facts = [
        response.model_id + (" (simulated)" if response.simulated else ""),
        response.worker_id,
        f"{UNKNOWN if response.prompt_tokens is None else response.prompt_tokens} tokens",
        money(response.cost_usd),
        duration(response.duration_ms),
    ]
    if len(response.attempts) > 1:
        facts.append(f"{len(response.attempts)} attempts")
    return " · ".join(facts)
