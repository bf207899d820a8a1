"""`drain`, `resume`, `reload`, `swap`: control one worker or Manager."""

import asyncio
from typing import Annotated, Any

import typer
from pydantic_core import from_json

from bullpen.cli.running import connected, run, usage
from bullpen.cli.show import as_json, flat, note
from client import Bullpen
from client.client import MANAGER_SERVICE, SWAP_WITHIN, Order, ServiceInfo
from contracts import BullpenError, ControlReply, ErrorCode, ManagerReply

LOOK_EVERY = 0.25

RoleId = Annotated[str, typer.Argument(metavar="ID", help="A worker or Manager, by its id")]
Json = Annotated[bool, typer.Option("--json", help="Print its reply as JSON")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it has nothing left to do")]

Reply = ControlReply | ManagerReply


def register(app: typer.Typer) -> None:
    app.command()(drain)
    app.command()(resume)
    app.command()(reload)
    app.command()(swap)


def drain(role_id: RoleId, *, wait: Wait = False, json: Json = False) -> None:
    """Let a worker or a Manager finish what it does and take nothing new.

    Examples:

      bullpen drain local-1

      bullpen drain manager-2 --wait
    """
    run(lambda: _tell(role_id, "drain", wait=wait, json=json))


def resume(role_id: RoleId, *, json: Json = False) -> None:
    """Let a drained worker or Manager take requests again.

    Examples:

      bullpen resume local-1
    """
    run(lambda: _tell(role_id, "resume", wait=False, json=json))


def reload(role_id: RoleId, *, json: Json = False) -> None:
    """Make a worker or a Manager read its config.yaml again.

    They do so by themselves when it is saved; this waits, and says what came of it: exit 1 when it was refused.

    Examples:

      bullpen reload local-1
    """
    run(lambda: _reload(role_id, json=json))


def swap(
    worker_id: Annotated[str, typer.Argument(metavar="WORKER", help="A worker, by its id")],
    *,
    model: Annotated[
        str | None, typer.Option(help="The model to serve: one of its config's, or of its server's")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the model, as in its config; JSON or text"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it is loaded")] = SWAP_WITHIN,
    json: Json = False,
) -> None:
    """Change the model of a running worker. Nothing that runs is lost.

    The new model is loaded first; when it does not load, the old one stays and this exits with 1. It lasts until the
    worker's config.yaml is saved, or the worker is started again.

    Examples:

      bullpen swap gpu-1 --model llama3.2

      bullpen swap local-1 --model mine --option path=/models/mine.gguf

      bullpen swap local-1 --option system="Answer in French."
    """
    if model is None and not option:
        raise usage("there is nothing to swap", "say --model, or --option, or both")
    options = dict(map(_option, option)) if option else None
    run(lambda: _swap(worker_id, model, options, timeout=timeout, json=json))


def _option(setting: str) -> tuple[str, Any]:
    key, equals, value = setting.partition("=")
    if not key or not equals:
        raise usage(f"--option {setting}: it should look like KEY=VALUE")
    try:
        return key, from_json(value)
    except ValueError:
        return key, value


async def _swap(
    worker_id: str, model: str | None, options: dict[str, Any] | None, *, timeout: float, json: bool
) -> None:
    async with connected() as bullpen:
        reply = await bullpen.swap(worker_id, model=model, options=options, within=timeout)
    _outcome(worker_id, reply, json=json)


async def _reload(role_id: str, *, json: bool) -> None:
    async with connected() as bullpen:
        reply = await _order(bullpen, await bullpen.find(role_id), "reload")
    _outcome(role_id, reply, json=json)


def _outcome(role_id: str, reply: Reply, *, json: bool) -> None:
    if json:
        as_json(reply)
    if not reply.ok:
        raise BullpenError(ErrorCode.CONFLICT, f"{role_id} goes on as before: {reply.message}")
    if not json:
        typer.echo(flat(f"{role_id}: {reply.message}"))


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
        typer.echo(flat(f"{role_id} {_how(last) if last else 'has left'}"))


async def _order(bullpen: Bullpen, role: ServiceInfo, op: Order) -> Reply:
    obey = bullpen.control_manager if role.name == MANAGER_SERVICE else bullpen.control
    return await obey(role.id, op)


async def _idle(bullpen: Bullpen, role: ServiceInfo, reply: Reply) -> Reply | None:
    """The role's status when no request is left there; None: the role stopped before it could answer."""
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
    """Requests that run or wait at the role."""
    if isinstance(reply, ManagerReply):
        return reply.inflight
    return reply.heartbeat.inflight + reply.heartbeat.queued if reply.heartbeat else 0


def _how(reply: Reply) -> str:
    if isinstance(reply, ManagerReply):
        return f"is {reply.state}, {reply.inflight} under way"
    beat = reply.heartbeat
    return f"is {beat.state}, {beat.inflight} running" if beat else "obeys"
