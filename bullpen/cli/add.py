"""`add` and `remove`: a model file, a server or a provider becomes a worker, and stops being one."""

import asyncio
import getpass
import os
import shlex
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer
import yaml

from bullpen.cli.running import ERROR_REPLY, connected, run, usage
from bullpen.cli.show import note, problem
from bullpen.settings_dir import (
    added_config,
    added_workers,
    kept_keys,
    key_file,
    marker,
    settings_of,
    short_name,
    turned_on,
)
from bullpen.supervision.endpoints import default_data_dir, running
from config.loader import ConfigError
from contracts import BullpenError, JsonObject
from contracts.subjects import is_name
from workers.base.interface.discovery import BackendFolder, discover

READY_WITHIN = 180.0
LOOK_EVERY = 0.3
HEADER = "# Made by `bullpen add {target}`. What may stand here: workers/{backend}/config.yaml, its README.\n"

Name = Annotated[str | None, typer.Option("--name", metavar="ID", help="The worker's id (default: made of the target)")]


def register(app: typer.Typer) -> None:
    app.command()(add)
    app.command()(remove)


def add(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A GGUF file, the address of a server, or a provider: openai …")
    ],
    *,
    name: Name = None,
) -> None:
    """Make a worker of a model file, a server or a provider.

    It is looked at first, then started in the mesh that runs here, and with every later `bullpen up`. A provider's key
    is asked for and not shown; from a pipe it is read as it comes.

    Examples:

      bullpen add ./qwen2.5-7b-q4.gguf

      bullpen add http://192.168.1.5:11434 --name box

      bullpen add openai
    """
    run(lambda: _add(target, name))


def remove(
    name: Annotated[str, typer.Argument(metavar="ID", help="An added worker's id, or a provider")],
) -> None:
    """Take back what `bullpen add` added, a provider's key with it.

    Examples:

      bullpen remove box

      bullpen remove openai
    """
    files = [file for _, worker_id, file in added_workers() if worker_id == name]
    if name in turned_on():
        files.append(marker(name))
        if (folder := discover().get(name)) and (variable := _key_variable(folder)):
            files.append(key_file(variable))
    if not files:
        known = sorted({*(worker_id for _, worker_id, _ in added_workers()), *turned_on()})
        raise usage(f"{name} was not added", f"added are: {', '.join(known) or 'none'}")
    for file in files:
        file.unlink(missing_ok=True)
    typer.echo(f"removed {name}" + ("; its worker finishes what it does and leaves" if running() else ""))


async def _add(target: str, name: str | None) -> None:
    if name is not None and not is_name(name):
        raise usage(f"--name {name!r}: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    folders = discover()
    if (folder := folders.get(target)) is not None:
        await _turn_on(folder)
        return
    for folder in folders.values():
        try:
            config = await folder.load().offered(target, note)
        except ImportError:
            continue  # its library is not installed
        except BullpenError as error:
            raise usage(error.message) from None
        if config is not None:
            await _write(folder, target, name, config)
            return
    providers = ", ".join(one for one, folder in folders.items() if _key_variable(folder))
    if "://" in target:
        raise usage(f"no server that a backend knows answers at {target}", "start it, then add it again")
    raise usage(
        f"there is no file {target}, and no provider of that name",
        f"give a GGUF file, an address (http://host:port), or one of {providers}",
    )


async def _turn_on(folder: BackendFolder) -> None:
    variable = _key_variable(folder)
    if variable and not os.environ.get(variable) and not os.environ.get(f"{variable}_FILE"):
        key = _ask_for(variable)
        _save(key_file(variable), f"{key}\n", 0o600)
        os.environ.update(kept_keys(os.environ))
        note(f"its key is in {key_file(variable)}, readable by you alone")
    said = await folder.available(settings_of(folder.name))
    if not said.available:
        raise usage(f"{folder.name} cannot run here: {said.reason}", said.cure)
    await _mark(folder, f"{folder.name}: {said.reason}")


async def _write(folder: BackendFolder, target: str, name: str | None, config: JsonObject) -> None:
    if not config:
        await _mark(folder, f"{target} is served by the backend {folder.name}")
        return
    worker_id = name or _free_name(folder, target)
    file = added_config(folder.name, worker_id)
    taken = {one: place for _, one, place in added_workers()}
    if worker_id in taken and taken[worker_id] != file:
        raise usage(f"there is a worker {worker_id} already", "give it another --name")
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    _save(file, HEADER.format(target=target, backend=folder.name) + text)
    try:
        folder.config(file)
    except ConfigError as error:
        file.unlink()
        raise usage(str(error)) from None
    typer.echo(f"added {worker_id}: {folder.name}, settings in {file}")
    await _until_ready(worker_id, worker_id)


async def _mark(folder: BackendFolder, what: str) -> None:
    _save(marker(folder.name), "")
    typer.echo(f"added {what}")
    await _until_ready(f"{folder.name}-1", folder.name)


async def _until_ready(worker_id: str, added: str) -> None:
    """Returns when the running mesh has started the worker; without a running mesh, `up` will start it. Ends the
    process when the worker fails.
    """
    if running() is None:
        typer.echo("it starts with `bullpen up`")
        return
    loop = asyncio.get_running_loop()
    until, said = loop.time() + READY_WITHIN, ""
    async with connected() as bullpen, bullpen.roster() as roster:
        while loop.time() < until:
            beat = next((beat for beat in roster.beats if beat.worker_id == worker_id), None)
            if beat is not None and beat.state == "ready":
                models = ", ".join(card.model_id for card in beat.models if card.capabilities)
                first = next((card.model_id for card in beat.models if card.capabilities), "auto")
                typer.echo(f'{worker_id} is ready and serves {models}: bullpen ask -m {shlex.quote(first)} "Hello?"')
                return
            if beat is not None and beat.reason and beat.reason != said:
                note(said := beat.reason)
                if beat.state == "degraded":
                    problem(f"{worker_id} cannot answer: {said}", f"correct it, or `bullpen remove {added}`")
                    raise typer.Exit(ERROR_REPLY)
            await asyncio.sleep(LOOK_EVERY)
    log = default_data_dir() / "logs" / f"worker-{worker_id}.log"
    problem(f"{worker_id} is not ready after {READY_WITHIN:.0f} s", f"see {log}, or `bullpen remove {added}`")
    raise typer.Exit(ERROR_REPLY)


def _ask_for(variable: str) -> str:
    key = getpass.getpass(f"{variable} (not shown): ") if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip() or any(character.isspace() for character in key.strip()):
        raise usage(f"that is no key: {variable} is one word", "nothing was changed")
    return key.strip()


def _free_name(folder: BackendFolder, target: str) -> str:
    """A worker id made of the file's or the server's name, with a number when the name is taken."""
    bare = Path(target).stem if "://" not in target else f"{folder.name}-{target.partition('://')[2].strip('/')}"
    made, place = short_name(bare), {file: worker_id for _, worker_id, file in added_workers()}
    taken = set(place.values())
    again = added_config(folder.name, made)
    if again in place and HEADER.format(target=target, backend=folder.name) in again.read_text(encoding="utf-8"):
        return made
    names = [made, *(f"{made}-{number}" for number in range(2, 100))]
    return next(one for one in names if one not in taken)


def _key_variable(folder: BackendFolder) -> str | None:
    try:
        return folder.load().key_variable
    except (ImportError, ConfigError):
        return None


def _save(file: Path, text: str, mode: int = 0o644) -> None:
    """Writes in one step, so that a running mesh never reads half a file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, prefix=".", delete=False) as output:
            output.write(text)
            os.fchmod(output.fileno(), mode)
        Path(output.name).replace(file)
    except OSError as error:
        raise usage(f"{file} cannot be written: {error.strerror}") from None
