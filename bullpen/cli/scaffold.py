"""`new-worker` and `init`: make files to begin with."""

import keyword
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from bullpen import dotenv
from bullpen.cli.running import ERROR_REPLY, usage
from bullpen.cli.show import problem
from bullpen.containers import Compose, ContainersError
from bullpen.settings_dir import HOUSE, ROLES, settings_dir
from workers.base.interface.discovery import discover

SETTINGS_HEADER = "# Counts instead of the settings that came with Bullpen. Delete it to follow those again.\n"
POSTGRES_PASSWORD = "POSTGRES_PASSWORD"  # noqa: S105 — a variable's name
PSQL = 'PGPASSWORD="$POSTGRES_PASSWORD" exec psql -v ON_ERROR_STOP=1 -q -U bullpen -d bullpen'
"""Sets the password in the database's container. Postgres's own image needs no password there; others need the old
one.
"""
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
TEMPLATE, HTTP_TEMPLATE = TEMPLATES / "new_worker", TEMPLATES / "new_http_worker"
"""The templates of a new worker. The second has the files that differ for a server with an HTTP API."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}[a-z0-9]|[a-z]")
RESERVED = ("base", "auto", "cancel", "feedback")
"""Names that no backend can have: `workers/base/` is no backend, and the others are parts of subjects, as in
`infer.cancel`.
"""
SECRET = re.compile(r"(?P<name>[A-Z0-9_]*(?:PASSWORD|SECRET|TOKEN))=(?:change-?me)?\s*(?P<comment>#.*)?", re.IGNORECASE)


def register(app: typer.Typer) -> None:
    app.command("new-worker")(new_worker)
    app.command()(init)


def new_worker(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The backend's name: a-z, 0-9 and _; it is asked at infer.NAME")
    ],
    *,
    path: Annotated[
        Path | None, typer.Option(help="Make it in this folder (default: workers/ of this checkout)", file_okay=False)
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="For a server that is asked over HTTP")] = False,
) -> None:
    """Make the folder of a new backend.

    It answers at once, by repeating the question: replace that with your model. With --http it asks the server at
    NAME_URL in the words of OpenAI's chat API: replace those with your server's.

    Examples:

      bullpen new-worker mistral

      bullpen new-worker mistral --path ~/backends

      bullpen new-worker mistral --http
    """
    if NAME.fullmatch(name) is None or keyword.iskeyword(name) or name in RESERVED:
        raise usage(f"{name!r} cannot be a backend's name", "use a-z, 0-9 and _, beginning with a letter")
    folder = (path or _workers_of_checkout()) / name
    if folder.exists():
        raise usage(f"{folder} exists already", "choose another name, or remove it")
    try:
        _make(folder, name, (TEMPLATE, HTTP_TEMPLATE) if http else (TEMPLATE,))
    except OSError as error:
        raise usage(f"{folder} cannot be made: {error.strerror}") from None
    at_hand = name if path is None else folder
    typer.echo(f"made {folder}\n")
    typer.echo("Next:")
    if http:
        typer.echo(
            f"  {name.upper()}_URL=http://127.0.0.1:8000 bullpen worker {at_hand}   # OpenAI's chat API, until now"
        )
    else:
        typer.echo(f"  bullpen worker {at_hand}            # it answers already, by repeating the question")
    typer.echo(f'  bullpen ask --backend {name} "Hello?"')
    what = "`_question` and `Answer` with your server's words" if http else "`stream` with a call of your model"
    typer.echo(f"  {folder / 'backend.py'}: replace {what}")


def init(
    *,
    rotate: Annotated[
        Literal["postgres"] | None,
        typer.Option(metavar="postgres", help="Instead: a new password for the database of the containers"),
    ] = None,
) -> None:
    """Make .env with random secrets, or, outside a checkout, the settings to begin with.

    In a checkout it is .env.example with every empty password, secret and token filled in. A .env that is there gets
    what a newer .env.example has besides, at its end. What is there is never changed, but by --rotate postgres: that
    gives the database and .env the same new password, and telemetry with it. Elsewhere it copies the settings of every
    role and backend, with their comments, into ~/.config/bullpen (or --config-dir).

    Examples:

      bullpen init && docker compose up

      bullpen init --rotate postgres
    """
    if rotate:
        _rotate_postgres(Path(".env"))
        return
    example, made = Path(".env.example"), Path(".env")
    try:
        lines = example.read_text(encoding="utf-8").splitlines()
    except OSError:
        _write_settings()
        return
    filled = [_filled(line) for line in lines]
    try:
        file = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        _add_missing(made, lines)
        return
    with os.fdopen(file, "w", encoding="utf-8") as output:
        output.writelines(f"{line}\n" for line in filled)
    typer.echo(f"made {made}, readable by you alone, with new values for {', '.join(_names(lines)) or 'nothing'}")
    typer.echo("Next: add the API keys you have to it, then `docker compose up`")


def _add_missing(env: Path, example: list[str]) -> None:
    """Adds the secrets of a newer version at the end."""
    text = env.read_text(encoding="utf-8")
    missing = [name for name in _names(example) if dotenv.value_of(text, name) is None]
    if not missing:
        raise usage(f"{env} exists already and is left as it is", "remove it first if you want new secrets")
    dotenv.append(env, {name: _secret() for name in missing})
    typer.echo(f"added new values for {', '.join(missing)} to {env}; all else is as it was")
    typer.echo("Next: `docker compose up -d` restarts what uses them")


def _write_settings() -> None:
    """Copies the settings that apply without them. An existing file stays as it is."""
    folder, made = settings_dir(), []
    ours = [*((role, HOUSE / role) for role in ROLES), *((one.name, one.path) for one in discover().values())]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, place in ours:
            file, packaged = folder / f"{name}.yaml", place / "config.yaml"
            if packaged.is_file() and not file.exists():
                file.write_text(SETTINGS_HEADER + packaged.read_text(encoding="utf-8"), encoding="utf-8")
                made.append(file.name)
    except OSError as error:
        raise usage(f"{folder} cannot be written: {error.strerror}") from None
    typer.echo(f"made {', '.join(made) or 'nothing new'} in {folder}")
    typer.echo("Next: change what you like there, delete the files that you leave as they are, then `bullpen up`")


def _rotate_postgres(env: Path) -> None:
    """Changes the password in the database, then in .env, then in the containers: if a step fails, the database and
    .env still agree.
    """
    if dotenv.value_of(env.read_text(encoding="utf-8") if env.is_file() else "", POSTGRES_PASSWORD) is None:
        raise usage(f"there is no {POSTGRES_PASSWORD} in a .env here", "run this where the containers' .env is")
    compose, new = Compose(Path.cwd()), _secret()
    try:
        compose.compose("exec", "-T", "postgres", "sh", "-c", PSQL, stdin=f"ALTER ROLE bullpen PASSWORD '{new}';\n")
    except ContainersError as error:
        problem(
            f"the database has not taken a new password, and nothing was changed: {error}",
            "start it: `docker compose up -d postgres`. By hand: ALTER ROLE bullpen PASSWORD '…', and the same in .env",
        )
        raise typer.Exit(ERROR_REPLY) from None
    dotenv.set_value(env, POSTGRES_PASSWORD, new)
    typer.echo(f"the database and .env have a new {POSTGRES_PASSWORD}")
    try:
        compose.compose("up", "-d", "--no-deps", "--no-build", "postgres", "telemetry")
    except ContainersError as error:
        problem(str(error), "run `docker compose up -d postgres telemetry`: until then events wait")
        raise typer.Exit(ERROR_REPLY) from None
    typer.echo("postgres and telemetry run with it; what was told meanwhile is booked now")


def _workers_of_checkout() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "workers" / "base" / "interface" / "backend.py").is_file():
            return folder / "workers"
    raise usage("this is not a checkout of bullpen", "change into one, or say where with --path DIR")


def _make(folder: Path, name: str, templates: tuple[Path, ...]) -> None:
    """The files of the templates by name; of each name the last one."""
    folder.mkdir(parents=True)
    camel = "".join(part.capitalize() for part in name.split("_"))
    for file in (file for template in templates for file in sorted(template.iterdir())):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            text = text.replace("NewWorker", camel).replace("NEW_WORKER", name.upper()).replace("new_worker", name)
            (folder / file.name).write_text(text, encoding="utf-8")


def _filled(line: str) -> str:
    found = SECRET.fullmatch(line)
    return f"{found['name']}={_secret()}" if found else line


def _secret() -> str:
    return f"s{secrets.token_hex(24)}"  # a letter first: NATS reads a value that begins with a digit as a number


def _names(lines: list[str]) -> Iterator[str]:
    return (found["name"] for line in lines if (found := SECRET.fullmatch(line)))
