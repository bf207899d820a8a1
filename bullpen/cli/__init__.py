"""The command line: one module per noun, imported when its command is called.

`bullpen --help` lists every command from the table below without importing any of them, so it answers at once. A module
adds its commands with `register(app)`.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from bullpen.cli import streams

START, ASK, LOOK, ACT, ROLES, MAKE = "Start", "Ask", "Look", "Act", "One role (what containers run)", "Make"

COMMANDS = {
    "up": (
        "up",
        START,
        "Start the whole mesh on this machine: servers, a Manager, telemetry, workers and a gateway.",
    ),
    "down": ("up", START, "Stop the mesh that runs on a data directory."),
    "ask": ("ask", ASK, "Ask the mesh a question."),
    "embed": ("embed", ASK, "Get the vectors of texts, all of one model."),
    "chat": ("chat", ASK, "Talk with the mesh; it remembers what was said."),
    "submit": ("jobs", ASK, "Submit a file of jobs that survive a restart of everything."),
    "results": ("jobs", ASK, "Results of submitted jobs."),
    "workers": ("look", LOOK, "Every worker, its state and its load."),
    "top": ("top", LOOK, "Live figures of Managers, accountants, models and workers."),
    "models": ("models", LOOK, "Every served model, its workers, its price and how well it does."),
    "prices": ("prices", LOOK, "Public prices of models, and whether the configs agree."),
    "responses": ("books", LOOK, "The last answers, from the books."),
    "cost": ("books", LOOK, "What the answers cost, by model, tenant or day."),
    "budgets": ("budgets", LOOK, "How much of each budget is spent in its current window of time."),
    "report": ("report", LOOK, "The books as one HTML page: cost, tenants, models, latency, errors, grades."),
    "export": ("export", LOOK, "Rows of the books as CSV or Parquet."),
    "explain": ("explain", LOOK, "Why a request went to its worker: the candidates, the attempts, the result."),
    "calibration": ("quality", LOOK, "How often answers are right, by the confidence that they told."),
    "compare": ("quality", LOOK, "A mirrored candidate compared with the model that answers."),
    "grades": (
        "grades",
        LOOK,
        "Every model's grade at every worker: probation, regular, senior or benched, and since when.",
    ),
    "dead-letters": ("dead_letters", LOOK, "Events that could not be booked, and why."),
    "doctor": ("diagnose", LOOK, "Check every part of the mesh and say what to do."),
    "logs": ("logs", LOOK, "What the processes of the mesh on this machine wrote, the newest lines of each."),
    "forget": ("forget", ACT, "Delete the requests and answers of a task or a tenant."),
    "rebook": (
        "dead_letters",
        ACT,
        "Book the dead letters that can be booked now.",
    ),
    "add": ("add", ACT, "Make a worker of a model file, a server or a provider."),
    "remove": ("add", ACT, "Take back what `bullpen add` added, a provider's key with it."),
    "drain": ("act", ACT, "Let a worker or a Manager finish what it does and take nothing new."),
    "resume": ("act", ACT, "Let a drained worker or Manager take requests again."),
    "swap": ("act", ACT, "Change the model of a running worker. Nothing that runs is lost."),
    "reload": ("act", ACT, "Make a worker or a Manager read its config.yaml again."),
    "keys": ("keys", ACT, "API keys of the gateway. A secret is shown once, and kept nowhere."),
    "promote": (
        "grades",
        ACT,
        "Overrule the books: give a model its full share again.",
    ),
    "demote": ("grades", ACT, "Overrule the books: give a model only a request now and then."),
    "restart": ("rolling", ACT, "Restart the roles of a mesh one by one; it goes on answering."),
    "upgrade": (
        "upgrade",
        ACT,
        "Upgrade the containers of Compose one by one; the mesh goes on answering.",
    ),
    "manager": ("roles", ROLES, "Run one Manager."),
    "worker": ("roles", ROLES, "Run one worker."),
    "telemetry": ("roles", ROLES, "Run one accountant: keeps the books in Postgres."),
    "gateway": ("roles", ROLES, "Run one gateway: HTTP for programs that know no NATS."),
    "health": ("roles", ROLES, "Whether a role on this host can serve: exit 0 or 1."),
    "new-worker": ("scaffold", MAKE, "Make the folder of a new backend."),
    "init": ("scaffold", MAKE, "Make .env with random secrets, or, outside a checkout, the settings to begin with."),
}
"""Commands by name: their module here, their panel of the help, the first line of their help."""

OTHER_NAMES = {"ps": "workers", "status": "workers", "bench": "demote"}
"""Other names of commands: common ones, and those of earlier versions."""


class LateCommand(TyperCommand):
    """A command whose module is imported when the command is called."""

    def __init__(self, name: str) -> None:
        self._module, panel, summary = COMMANDS[name]
        super().__init__(name, help=summary, rich_help_panel=panel)

    def load(self) -> Any:
        """The real command."""
        app = typer.Typer()
        import_module(f"bullpen.cli.{self._module}").register(app)
        return get_group(app).commands[str(self.name)]

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return self.load().make_context(info_name, args, parent, **extra)


class Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: LateCommand(name) for name in COMMANDS}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, OTHER_NAMES.get(cmd_name, cmd_name))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bullpen {import_module('bus.service').package_version()}")
        raise typer.Exit


@app.callback()
def bullpen(
    *,
    config_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", envvar="BULLPEN_CONFIG_DIR", help="Where your settings are (if not said: ~/.config/bullpen)"
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    """A mesh of language models over NATS.

    Start one with `bullpen up`, then ask: `bullpen ask "What is the capital of France?"`

    Commands find the mesh by NATS_URL, else the one that runs on .bullpen/ (or BULLPEN_DATA_DIR), else at
    nats://127.0.0.1:4222; but a mesh that BULLPEN_DATA_DIR names has to run.
    """
    if config_dir:
        os.environ["BULLPEN_CONFIG_DIR"] = os.path.abspath(config_dir)  # noqa: PTH100 — pathlib costs the help its speed


def main() -> None:
    """Runs the command line. An error of the operating system is one line, never a traceback."""
    streams.usable()
    try:
        with streams.flushed():
            app(prog_name="bullpen")
    except OSError as error:
        sys.exit(streams.refused(error))
