"""`bullpen upgrade`: brings another version into the containers of Compose, while they go on answering."""

import os
import re
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from bullpen import dotenv
from bullpen.cli.running import ERROR_REPLY, usage
from bullpen.cli.show import problem
from bullpen.containers import VERSION, Compose, ContainersError
from bullpen.upgrading import Pace, UpgradeFailed, in_order, replace_all, stop_inactive
from bus.service import package_version

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DEFAULT_FILES = ("compose.yaml",)
PACE = Pace()


def register(app: typer.Typer) -> None:
    app.command()(upgrade)


def upgrade(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The images' tag (default: this checkout's version)")
    ] = None,
    *,
    build: Annotated[bool, typer.Option(help="Build the images first; --no-build takes those that are here")] = True,
) -> None:
    """Upgrade the containers of Compose one by one; the mesh goes on answering.

    Each new container serves before an old one leaves. NATS and Postgres are left alone. The version stays in .env.

    Examples:

      git pull && bullpen upgrade

      bullpen upgrade 0.1.0-1a2b3c4 --no-build
    """
    tag = version or checkout_version()
    if not TAG.fullmatch(tag):
        raise usage(f"{tag!r} cannot be a tag of an image", "use A-Z a-z 0-9 _ . and -")
    if not Path(DEFAULT_FILES[0]).is_file():
        raise usage("there is no compose.yaml here", "run this in the checkout whose containers run")
    before = dotenv.value_of(_text(Path(".env")), VERSION) or "latest"
    try:
        _upgrade(Compose(Path.cwd(), {VERSION: tag}), tag, build=build)
    except UpgradeFailed as error:
        problem(str(error), f"see what it said, or go back: bullpen upgrade {before} --no-build")
        raise typer.Exit(ERROR_REPLY) from None
    except ContainersError as error:
        problem(str(error), "what was replaced already serves; run this again when that is mended")
        raise typer.Exit(ERROR_REPLY) from None
    dotenv.set_value(Path(".env"), VERSION, tag)
    typer.echo(f"{VERSION}={tag} stands in .env now; to go back: bullpen upgrade {before} --no-build")


def _upgrade(compose: Compose, tag: str, *, build: bool) -> None:
    images = compose.built
    running = [service for service in in_order(images) if compose.containers(service)]
    if not running:
        raise ContainersError("no container of ours runs here: start them with `docker compose up -d`")
    if build:
        typer.echo(f"building {', '.join(running)} as {tag}")
        compose.compose("build", *running)
    if missing := [images[service] for service in running if not compose.has_image(images[service])]:
        raise ContainersError(f"there is no image {', '.join(missing)}: leave out --no-build to build it")
    project = compose.project_of(compose.containers(running[0])[0].id)
    for service in running:
        if not replace_all(compose, service, compose.wanted(service), typer.echo, PACE):
            typer.echo(f"{service}: runs {tag} already")
    for service, ids in stop_inactive(compose.running_services(project), _ours(Path.cwd()), images).items():
        for one in ids:
            compose.remove(one)
        typer.echo(f"{service}: stopped, it is not among COMPOSE_PROFILES any more")


def checkout_version() -> str:
    """The version of this checkout, with its commit if it is a Git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 — git, to read
    except (OSError, subprocess.CalledProcessError):
        return package_version()
    return f"{package_version()}-{told.stdout.strip()}"


def _ours(folder: Path) -> set[str]:
    """Every service that is built here, active or not."""
    files = os.environ.get("COMPOSE_FILE", "").split(os.pathsep) if os.environ.get("COMPOSE_FILE") else DEFAULT_FILES
    services: dict[str, Any] = {}
    for file in files:
        services |= yaml.safe_load(_text(folder / file) or "{}").get("services") or {}
    return {name for name, told in services.items() if "build" in (told or {})}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
