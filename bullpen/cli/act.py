"""`drain` and `resume`: tell one worker what to do."""

from typing import Annotated, Literal

import typer

from bullpen.cli.running import connected, run
from bullpen.cli.show import as_json, clean
from contracts import BullpenError, ErrorCode

WorkerId = Annotated[str, typer.Argument(metavar="ID", help="The worker, as `bullpen workers` shows it")]
Json = Annotated[bool, typer.Option("--json", help="Print the worker's reply as JSON")]


def register(app: typer.Typer) -> None:
    app.command()(drain)
    app.command()(resume)


def drain(worker_id: WorkerId, *, json: Json = False) -> None:
    """Let a worker finish what it does and take nothing new.

    Examples:

      bullpen drain local-1
    """
    run(lambda: _tell(worker_id, "drain", json=json))


def resume(worker_id: WorkerId, *, json: Json = False) -> None:
    """Let a drained worker take questions again.

    Examples:

      bullpen resume local-1
    """
    run(lambda: _tell(worker_id, "resume", json=json))


async def _tell(worker_id: str, op: Literal["drain", "resume"], *, json: bool) -> None:
    async with connected() as bullpen:
        reply = await bullpen.control(worker_id, op)
    if json:
        as_json(reply)
    if not reply.ok:
        raise BullpenError(ErrorCode.INVALID_REQUEST, reply.message)
    if not json:
        beat = reply.heartbeat
        state = f" is {beat.state}, {beat.inflight} running" if beat else " obeys"
        typer.echo(clean(f"{reply.worker_id}{state}"))
