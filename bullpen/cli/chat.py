"""`bullpen chat`: a conversation, answered as it is made."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from bullpen import conversation
from bullpen.cli.ask import show_stream
from bullpen.cli.running import connected, run
from bullpen.cli.show import note, problem
from bullpen.conversation import Conversation
from client import Options

PROMPT = "› "
HELP = {
    "/model": "NAME  ask this model from now on; without a name: whichever suits best",
    "/system": "TEXT  what the model is told before the conversation",
    "/clear": "  begin anew",
    "/save": "FILE  write the conversation to a file",
    "/help": "  these lines",
    "/exit": "  leave, as Ctrl-D does",
}


def register(app: typer.Typer) -> None:
    app.command()(chat)


def chat(
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only workers that serve this model")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system text")] = None,
    resume: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation")] = False,
) -> None:
    """Talk with the mesh; it remembers what was said.

    Ctrl-C stops an answer, Ctrl-D leaves. /help lists what else can be typed.

    Examples:

      bullpen chat

      bullpen chat -m qwen3:8b -s "Answer in one sentence"

      bullpen chat --continue
    """
    before = conversation.load() if resume else None
    kept = before or Conversation()
    talk = Chat(kept.model_copy(update={"model": model or kept.model, "system": system or kept.system}))
    with suppress(ImportError):  # history and editing of the line, where Python has it
        import readline  # noqa: F401, PLC0415 — makes `input` edit lines; not there on every system
    if sys.stdin.isatty():
        note("Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands")
    for line in _lines():
        if talk.take(line):
            break


def _lines() -> Iterator[str]:
    """The lines that are typed, until the end."""
    while True:
        try:
            yield input(PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                typer.echo()
            return
        except KeyboardInterrupt:
            typer.echo()


@dataclass
class Chat:
    said: Conversation = field(default_factory=Conversation)

    def take(self, line: str) -> bool:
        """Handles one typed line; returns whether it was the last one."""
        text = line.strip()
        if not text.startswith("/"):
            if text:
                self._ask(line)
            return False
        command, _, rest = text.partition(" ")
        return self._obey(command, rest.strip())

    def _obey(self, command: str, rest: str) -> bool:
        match command:
            case "/exit" | "/quit":
                return True
            case "/help":
                typer.echo("\n".join(f"  {name} {what}" for name, what in HELP.items()))
            case "/clear":
                self.said = self.said.model_copy(update={"turns": ()})
                note("begun anew")
            case "/model":
                self.said = self.said.model_copy(update={"model": rest or None})
                note(f"asking {rest or 'whichever model suits best'}")
            case "/system":
                self.said = self.said.model_copy(update={"system": rest or None})
                note("noted" if rest else "no system text any more")
            case "/save":
                self._save(rest)
            case _:
                near = get_close_matches(command, HELP, n=1)
                problem(
                    f"there is no {command} here", f"did you mean {near[0]}?" if near else "/help lists what there is"
                )
        return False

    def _save(self, name: str) -> None:
        if not name:
            problem("/save wants the name of a file")
            return
        try:
            Path(name).expanduser().write_text(self.said.as_text(), encoding="utf-8")
            note(f"saved in {name}")
        except OSError as error:
            problem(f"{name} cannot be written: {error.strerror}")

    def _ask(self, question: str) -> None:
        """Asks and shows the answer. A failure is shown, and the conversation goes on without the question."""
        with suppress(typer.Exit):
            run(lambda: self._answer(question))

    async def _answer(self, question: str) -> None:
        options = Options(model=self.said.model, context=self.said.context)
        async with connected() as bullpen:
            answer = await show_stream(bullpen, question, options)
        self.said = self.said.with_answer(question, answer.output)
        await asyncio.to_thread(conversation.save, self.said)
