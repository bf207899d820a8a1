"""A file of jobs, one per line: a JSON request or a plain prompt. The whole file is checked before any job is
submitted.

A job's id is made of the file's content and its line. So the same file is the same batch, however often it is
submitted: finished jobs are not done again, and a changed file is another batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from pydantic_core import to_json

from client import BullpenError
from client.question import Question
from contracts import InferenceRequest, Priority, parse_request

DIGEST = 16
"""Characters of a batch's name."""
MOST_LISTED = 20
"""Wrong lines that are listed."""


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    """The line number, from 1; blank lines count."""
    job_id: str
    question: Question


@dataclass(frozen=True, slots=True)
class Batch:
    name: str
    lines: tuple[Line, ...]


class BadLines(Exception):
    """The wrong lines of a file, with what is wrong with each."""

    def __init__(self, problems: list[str]) -> None:
        listed, more = problems[:MOST_LISTED], len(problems) - MOST_LISTED
        super().__init__("\n".join([*listed, *([f"and {more} more lines"] if more > 0 else [])]))
        self.problems = problems


def read_batch(data: bytes, priority: Priority) -> Batch:
    """Reads the jobs of a file. Raises `BadLines`, which names every wrong line."""
    name = sha256(priority.encode() + b"\n" + data).hexdigest()[:DIGEST]
    lines, problems = [], []
    for number, text in _texts(data):
        job_id = f"{name}-{number}"
        try:
            lines.append(Line(number, job_id, _question(text, job_id, priority)))
        except BullpenError as error:
            problems.append(f"line {number}: {error.message}")
    if problems:
        raise BadLines(problems)
    return Batch(name, tuple(lines))


def line_of(job_id: str, batch: str) -> int | None:
    """The line of the batch that the job is from; None: the job is not of this batch."""
    name, _, number = job_id.rpartition("-")
    return int(number) if name == batch and number.isdigit() else None


def _texts(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if text.strip():
            yield number, text.strip()


def _question(text: bytes, job_id: str, priority: Priority) -> Question:
    request = parse_request(text, task_id=job_id)
    if "priority" not in request.model_fields_set:
        request = request.model_copy(update={"priority": priority})
    return Question(_body(request), str(request.task_id), request.deadline_ms, stream=False)


def _body(request: InferenceRequest) -> bytes:
    return to_json(request.model_dump(mode="json", by_alias=True, exclude_unset=True))
