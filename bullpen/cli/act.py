"""`drain` and `resume`: tell one worker or Manager what to do."""

import asyncio
from typing import Annotated

import typer

from bullpen.cli.running import connected, run
from bullpen.cli.show import as_json, clean, note
from client import Bullpen
from client.client import MANAGER_SERVICE, Order, Service
from contracts import BullpenError, ControlReply, ErrorCode, ManagerReply

LOOK_EVERY = 0.25

RoleId = Annotated[str, typer.Argument(metavar="ID", help="A worker or Manager, by its id")]
Json = Annotated[bool, typer.Option("--json", help="Print its reply as JSON")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it has nothing left to do")]

Reply = ControlReply | ManagerReply


def register(app: typer.Typer) -> None:
    app.command()(drain)
    app.command()(resume)


def drain(role_id: RoleId, *, wait: Wait = False, json: Json = False) -> None:
    """Let a worker or a Manager finish what it does and take nothing new.

    Examples:

      bullpen drain local-1

      bullpen drain manager-2 --wait
    """
    run(lambda: _tell(role_id, "drain", wait=wait, json=json))


def resume(role_id: RoleId, *, json: Json = False) -> None:
    """Let a drained worker or Manager take questions again.

    Examples:

      bullpen resume local-1
    """
    run(lambda: _tell(role_id, "resume", wait=False, json=json))


async def _tell(role_id: str, op: Order, *, wait: bool, json: bool) -> None:
    async with connected() as bullpen:
        role = await bullpen.find(role_id)
        reply = await _order(bullpen, role, op)
        last = await _idle(bullpen, role, reply) if wait and reply.ok else reply
    if json:
        as_json(last or reply)
    if not reply.ok:
        raise BullpenError(ErrorCode.INVALID_REQUEST, reply.message)
    if not json:
        typer.echo(clean(f"{role_id} {_how(last) if last else 'has left'}"))


async def _order(bullpen: Bullpen, role: Service, op: Order) -> Reply:
    obey = bullpen.control_manager if role.name == MANAGER_SERVICE else bullpen.control
    return await obey(role.id, op)


async def _idle(bullpen: Bullpen, role: Service, reply: Reply) -> Reply | None:
    """Its word when nothing is left to do there. None: it left before it could say that."""
    if left := _left(reply):
        note(f"waiting for {left} under way …")
    while _left(reply):
        await asyncio.sleep(LOOK_EVERY)
        try:
            reply = await _order(bullpen, role, "status")
        except BullpenError as error:
            if error.code is ErrorCode.NO_WORKER:
                return None
            if error.code is not ErrorCode.DEADLINE_EXCEEDED:  # it may have left in the middle of our question
                raise
    return reply


def _left(reply: Reply) -> int:
    """Requests that run or wait there."""
    if isinstance(reply, ManagerReply):
        return reply.inflight
    return reply.heartbeat.inflight + reply.heartbeat.queued if reply.heartbeat else 0


def _how(reply: Reply) -> str:
    if isinstance(reply, ManagerReply):
        return f"is {reply.state}, {reply.inflight} under way"
    beat = reply.heartbeat
    return f"is {beat.state}, {beat.inflight} running" if beat else "obeys"
