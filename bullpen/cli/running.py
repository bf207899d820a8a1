"""How a command works with the mesh: find it, do the work, turn a failure into one line and an exit code."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import typer

from bullpen import logs
from bullpen.cli.show import problem
from bullpen.known_passwords import refuse_known_password
from bullpen.supervision.endpoints import resolve_nats_url
from bus import BusError, BusSettings
from bus.server_address import split
from client import Bullpen
from config.loader import ConfigError
from contracts import BullpenError, ErrorCode

ERROR_REPLY, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
"""Exit codes."""

CURES = {
    ErrorCode.INVALID_REQUEST: "correct it and ask again; `bullpen ask --help` has examples",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "shorten it, or ask a model with a larger context window (`bullpen models`)",
    ErrorCode.PAYLOAD_TOO_LARGE: "ask for less at once",
    ErrorCode.NO_SUCH_MODEL: "`bullpen models` shows what is served",
    ErrorCode.NO_WORKER: "`bullpen workers` lists the workers, `bullpen doctor` says what is missing",
    ErrorCode.DRAINING: "ask again: another worker, or this one after `bullpen resume`",
    ErrorCode.OVERLOADED: "ask again in a moment, or start more workers",
    ErrorCode.RATE_LIMITED: "ask again in a moment",
    ErrorCode.BUDGET_EXCEEDED: "`bullpen models` shows the prices; allow more, or ask for --policy cheapest",
    ErrorCode.DEADLINE_EXCEEDED: "allow more time with --deadline-ms, or look at `bullpen workers`",
    ErrorCode.UPSTREAM_AUTH: "`bullpen doctor` shows which key is wrong",
    ErrorCode.UPSTREAM_ERROR: "`bullpen workers` shows which worker is unwell; ask again",
    ErrorCode.EMPTY_ANSWER: "ask again with other words, another model, or more max_tokens",
    ErrorCode.MALFORMED_TOOL_CALL: "ask again, or name another model; this one calls functions badly",
    ErrorCode.INTERNAL: "look at the Manager's log, and ask again",
}
"""Cures by the code of an error reply. Messages of the other codes contain their cure."""


def settings() -> BusSettings:
    """A role's settings: those of the environment, for the server that the environment or a running mesh names.

    Raises `ConfigError`, also for a publicly known password.
    """
    made = replace(BusSettings.from_environment(), servers=split(resolve_nats_url()))
    refuse_known_password("NATS_PASSWORD", made.servers, made.user, made.password)
    return made


@asynccontextmanager
async def connected() -> AsyncIterator[Bullpen]:
    async with Bullpen.connect(resolve_nats_url()) as bullpen:
        yield bullpen


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Does a command's work. Ends the process with a line and an exit code when it fails."""
    try:
        logs.configure(level="critical")  # errors are printed below, in one line
        asyncio.run(_interruptible(work))
    except BullpenError as error:
        tell(error)
        raise typer.Exit(ERROR_REPLY) from None
    except BusError as error:
        problem(str(error))
        raise typer.Exit(UNREACHABLE) from None
    except ConfigError as error:
        problem(str(error))
        raise typer.Exit(USAGE) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None


async def _interruptible(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Ends at a SIGTERM as it does at Ctrl-C: open requests are cancelled first."""
    this = asyncio.current_task()
    assert this is not None
    with suppress(NotImplementedError, RuntimeError):  # Windows has no such signals, and only a main thread gets them
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    await work()


def tell(error: BullpenError) -> None:
    says_it_already = "`bullpen" in error.message
    cure = "" if says_it_already else CURES.get(error.code, "")
    near = _near(error.message) if error.code is ErrorCode.NO_SUCH_MODEL else None
    problem(str(error), f"did you mean {near}? {cure}" if near else cure)


def _near(message: str) -> str | None:
    """The served model whose name is nearest to the unknown one, as the Manager's message lists them."""
    if found := re.search(r"serves (?P<wanted>.+?); served are: (?P<served>.+)", message):
        wanted, served = found["wanted"], found["served"].split(", ")
        return next(iter(get_close_matches(wanted, served, n=1) or [one for one in served if wanted in one]), None)
    return None


def usage(what: str, cure: str = "") -> typer.Exit:
    """Prints what is wrong with the command line; the result is to be raised."""
    problem(what, cure)
    return typer.Exit(USAGE)
