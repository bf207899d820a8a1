"""The last conversation of this data directory: what `ask --continue` goes on with, and what `chat` keeps.

One file, readable by its owner alone, replaced by the next conversation; without a data directory nothing is kept.
"""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile

from pydantic import Field, ValidationError

from bullpen.supervision.endpoints import default_data_dir
from contracts import OpenModel

NAME = "conversation.json"
MOST_TURNS = 200
"""Messages that are kept; older ones are dropped."""


class Turn(OpenModel):
    role: str
    content: str


class Conversation(OpenModel):
    """The messages of a conversation, as the next question sends them. Pure."""

    model: str | None = None
    """The model that was asked for by name."""
    system: str | None = None
    turns: tuple[Turn, ...] = Field(default=())

    def with_answer(self, question: str, answer: str) -> "Conversation":
        said = (*self.turns, Turn(role="user", content=question), Turn(role="assistant", content=answer))
        return self.model_copy(update={"turns": said[-MOST_TURNS:]})

    @property
    def context(self) -> dict[str, object] | None:
        """The request's `context`; None: it is empty."""
        told: dict[str, object] = {"system": self.system} if self.system else {}
        if self.turns:
            told["messages"] = [turn.model_dump() for turn in self.turns]
        return told or None

    def as_text(self) -> str:
        """The conversation as a text for people."""
        names = {"user": "You", "assistant": "Answer"}
        return "".join(f"## {names.get(turn.role, turn.role)}\n\n{turn.content.strip()}\n\n" for turn in self.turns)


def load(data_dir: Path | None = None) -> Conversation | None:
    """The conversation of this data directory; None: there is none, or it cannot be read."""
    try:
        return Conversation.model_validate_json((data_dir or default_data_dir()).joinpath(NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def save(conversation: Conversation, data_dir: Path | None = None) -> None:
    """Writes the conversation in one step. An error is ignored: the answer counts for more."""
    folder = data_dir or default_data_dir()
    try:
        with NamedTemporaryFile("w", encoding="utf-8", dir=folder, prefix=f".{NAME}.", delete=False) as file:
            file.write(conversation.model_dump_json(indent=1))
        os.replace(file.name, folder / NAME)  # noqa: PTH105 — both are names here
    except OSError:
        return


def forget(data_dir: Path | None = None) -> None:
    (data_dir or default_data_dir()).joinpath(NAME).unlink(missing_ok=True)
