"""What happened, as the checker reads it: who asked what and how it ended, what was done to the mesh, what is booked.

Times are nanoseconds of the monotonic clock. One JSON line per event is written as it happens, so that a run that
dies leaves its story behind; the rows follow at the end.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.soak.plan import Role

Mode = Literal["continued", "restarted"]


@dataclass(frozen=True, slots=True)
class Asked:
    number: int
    task_id: str
    expected: str
    """The text that this prompt, and no other, is answered with."""
    deadline_ms: int
    at: int
    stream: bool = False
    hurried: bool = False
    """The deadline is shorter than an answer takes: `deadline_exceeded` is an answer."""
    cancelled: bool = False
    """Its asker said `infer.cancel`."""
    leaves: bool = False
    """Its asker stops reading in the middle of the stream."""
    priority: Literal["interactive", "batch"] = "interactive"


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a stream, or (with a mode) the word that another worker goes on."""

    seq: int
    delta: str = ""
    mode: Mode | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A terminal outcome, as the caller saw it."""

    number: int
    at: int
    how: Literal["answered", "failed", "left"]
    request_id: str | None = None
    """None in a failure: noticed by the client, not told by the mesh."""
    text: str = ""
    tries: tuple[tuple[str, str], ...] = ()
    """The attempts that the answer tells: worker and outcome."""
    replayed: bool = False
    pieces: tuple[Piece, ...] = ()
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Inflicted:
    """A fault, from its signal until every role was well again. `healed` None: it never was."""

    role: Role
    deed: str
    victim: str
    begin: int
    healed: int | None


@dataclass(frozen=True, slots=True)
class Final:
    """A final message on the wire, whether or not anybody still listened for it."""

    inbox: str
    task_id: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class ResponseRow:
    request_id: str
    task_id: str
    status: str
    error_code: str | None
    output: str | None
    attempts: int
    manager_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class AttemptRow:
    request_id: str
    attempt: int
    worker_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one process holds."""

    fds: int
    sockets: int
    threads: int
    rss: int
    """Bytes."""


@dataclass(slots=True)
class History:
    asked: list[Asked] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    faults: list[Inflicted] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    managers: dict[str, str] = field(default_factory=dict)
    """Which Manager took a request, by request id, as its routing decisions told."""
    responses: list[ResponseRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    warm: dict[str, Vitals] = field(default_factory=dict)
    """By process, before the first fault."""
    rested: dict[str, Vitals] = field(default_factory=dict)
    """By process, after the last."""
    busy: tuple[str, ...] = ()
    """Who still says that work is under way, though nobody asks any more."""
    unbooked_events: int = 0
    """What the TELEMETRY consumer has not acknowledged at the end."""
    dead_letters: int = 0


Event = Asked | Ended | Inflicted | Final


class Journal:
    """The history in memory, and each event as a line of JSON in a file."""

    def __init__(self, path: Path) -> None:
        self.history = History()
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def note(self, event: Event) -> None:
        match event:
            case Asked():
                self.history.asked.append(event)
            case Ended():
                self.history.ended.append(event)
            case Inflicted():
                self.history.faults.append(event)
            case Final():
                self.history.finals.append(event)
        self._write(event)

    def close(self) -> None:
        """Last, what the books said in the end."""
        rows: tuple[ResponseRow | AttemptRow, ...] = (*self.history.responses, *self.history.attempts)
        for row in rows:
            self._write(row)
        self._file.close()

    def _write(self, event: Event | ResponseRow | AttemptRow) -> None:
        self._file.write(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}) + "\n")
