"""`submit` and `results`: durable jobs from a file.

Stopping the command does not stop the jobs: they are on the mesh's disk. The same command goes on where the last one
ended, because a job's id is made of the file's content and the line, and a job with a result is not submitted again.
"""

import asyncio
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from bullpen.batch import BadLines, Batch, Line, line_of, read_batch
from bullpen.cli.output import replacing
from bullpen.cli.running import ERROR_REPLY, connected, run, usage
from bullpen.cli.show import clean, errors, note, one_line, problem, show, table, words
from client import Bullpen, JobResult
from contracts import ErrorReply, Priority
from contracts import subjects as s

SUBMIT_AT_ONCE = 64
"""Jobs whose submission may be unconfirmed at the same time."""
HEADERS = 512
"""Bytes of a message beside the job's own."""
PLAIN_EVERY = 5.0
"""Seconds between two lines of progress where a line cannot replace the last one."""

Out = Annotated[
    Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the results there, one JSON line each")
]


def register(app: typer.Typer) -> None:
    app.command()(submit)
    app.command()(results)


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One job a line; -: standard input", allow_dash=True)],
    *,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until every job has a result")] = True,
    out: Out = None,
    priority: Annotated[Priority, typer.Option(help="Of the lines that say none themselves")] = "batch",
) -> None:
    """Submit a file of jobs that survive a restart of everything.

    Each line is a JSON request, or a plain prompt. Jobs survive kill -9 of every process. Stop the command whenever
    you like: the jobs go on, and the same command again waits for what is missing. Results are kept for a week.

    Exit codes: 0 all answered, 1 some failed, 2 lines that are no requests (none is submitted), 3 no mesh.

    Examples:

      bullpen submit questions.jsonl --out answers.jsonl

      ls *.txt | sed 's/^/Guess what is in the file /' | bullpen submit - --no-wait
    """
    try:
        batch = read_batch(_read(file), priority)
    except BadLines as error:
        raise usage(f"{file} was not submitted:\n{error}", "correct these lines and submit it again") from None
    if not batch.lines:
        raise usage(f"{file} has no jobs", "write one request or prompt to a line")
    come_back = f"bullpen results {batch.name}" if str(file) == "-" else _again(file, priority, out)
    try:
        run(lambda: _submit(batch, wait=wait, out=out))
    except typer.Exit as end:
        if end.exit_code not in (0, ERROR_REPLY):
            problem("not all results are here; jobs that were submitted go on", f"{come_back} (goes on from here)")
        raise


def results(
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[BATCH|JOB|TASK]...", help="Of these only", show_default=False)
    ] = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only jobs that were not answered")] = False,
    json: Annotated[bool, typer.Option("--json", help="Whole results, one JSON line each")] = False,
    out: Out = None,
) -> None:
    """Results of submitted jobs.

    Of a batch, of a job, of a task, of all: results are kept for a week. Exit code 1: there is none of that name.

    Examples:

      bullpen results

      bullpen results 1f0c9a52e7b34d68 --failed

      bullpen results t1 --json | jq .output
    """
    run(lambda: _results(which or [], failed=failed, json=json, out=out))


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise usage(f"{file} cannot be read: {error.strerror}") from None


# Submitting


def _again(file: Path, priority: Priority, out: Path | None) -> str:
    """The command to go on with: with another priority it would be another batch."""
    options = [] if priority == "batch" else ["--priority", priority]
    options += [] if out is None else ["--out", str(out)]
    return shlex.join(["bullpen", "submit", str(file), *options])


async def _submit(batch: Batch, *, wait: bool, out: Path | None) -> None:
    async with connected() as bullpen:
        _check_sizes(batch, bullpen.bus.max_payload)
        found = Found(batch)
        await found.look(bullpen)
        missing = [line for line in batch.lines if line.number not in found.by_line]
        with _shown(found) as view:
            view.resumed()
            await _submit_all(bullpen, missing)
            if wait:
                await found.follow(bullpen, view)
    if not wait:
        typer.echo(batch.name)
        note(f"{len(missing)} jobs submitted; `bullpen results {batch.name}` shows what became of them")
        return
    ordered = [found.by_line[line.number] for line in batch.lines]
    _write(ordered, out, to_screen=False)
    lost = sum(result.failed for result in ordered)
    note(f"{len(ordered) - lost} answered, {lost} failed; `bullpen results {batch.name}` shows them for a week")
    if lost:
        problem(f"{lost} of {len(ordered)} jobs failed", f"bullpen results {batch.name} --failed")
        raise typer.Exit(ERROR_REPLY)


def _check_sizes(batch: Batch, most: int) -> None:
    room = most - HEADERS
    if large := [line.number for line in batch.lines if len(line.question.body) > room]:
        raise usage(
            f"nothing was submitted: the server takes {room} bytes, and more have the lines "
            + ", ".join(map(str, large)),
            "ask for less at once in these lines",
        )


async def _submit_all(bullpen: Bullpen, lines: list[Line]) -> None:
    """Submits jobs, as many at a time as may be unconfirmed. Raises `BusError`."""
    waiting = iter(lines)

    async def some() -> None:
        for line in waiting:
            await bullpen.jobs.submit(line.question, line.job_id)

    submitting = [asyncio.create_task(some()) for _ in range(min(SUBMIT_AT_ONCE, len(lines)))]
    try:
        await asyncio.gather(*submitting)
    finally:
        for task in submitting:
            task.cancel()


@dataclass
class Found:
    """The results of a batch so far."""

    batch: Batch
    by_line: dict[int, JobResult] = field(default_factory=dict)
    failed: int = 0
    seq: int = 0
    """The last number in the stream that was read."""

    @property
    def complete(self) -> bool:
        return len(self.by_line) == len(self.batch.lines)

    async def look(self, bullpen: Bullpen) -> None:
        """Reads the results that exist. A mesh that has just started has no results, and no stream for them yet."""
        await bullpen.jobs.ready()
        async for result in bullpen.jobs.results():
            self.take(result)

    async def follow(self, bullpen: Bullpen, view: "View") -> None:
        """Reads results until the batch is complete."""
        if self.complete:
            return
        async for result in bullpen.jobs.results(after=self.seq, follow=True):
            self.take(result)
            view.update()
            if self.complete:
                return

    def take(self, result: JobResult) -> None:
        self.seq = result.seq
        number = line_of(result.job_id, self.batch.name)
        if number is None or number in self.by_line:
            return
        self.by_line[number] = result
        self.failed += result.failed


class View:
    """The progress on standard error: a bar on a terminal, else a line now and then."""

    def __init__(self, found: Found, progress: Progress | None) -> None:
        self._found = found
        self._progress = progress
        self._started = self._told_at = time.monotonic()
        self._before = len(found.by_line)
        total = len(found.batch.lines)
        self._task: TaskID | None = progress.add_task("", total=total, failed=0, rate=0.0) if progress else None

    def resumed(self) -> None:
        if self._before:
            errors.print(f"batch {self._found.batch.name}: {self._before} of {self._total} have a result already")
        self.update()

    def update(self) -> None:
        now, done = time.monotonic(), len(self._found.by_line)
        rate = (done - self._before) / max(now - self._started, 0.001)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, failed=self._found.failed, rate=rate)
        elif now - self._told_at >= PLAIN_EVERY:
            self._told_at = now
            errors.print(f"{done} of {self._total} done, {self._found.failed} failed, {rate:.1f}/s")

    @property
    def _total(self) -> int:
        return len(self._found.batch.lines)


@contextmanager
def _shown(found: Found) -> Iterator[View]:
    if not errors.is_terminal:
        yield View(found, None)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed, {task.fields[rate]:.1f}/s,"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as progress:
        yield View(found, progress)


# Looking


async def _results(which: list[str], *, failed: bool, json: bool, out: Path | None) -> None:
    async with connected() as bullpen:
        found = await _look_for(bullpen, which)
    if which and not found:
        problem("no such results", "`bullpen results` lists all that are kept; jobs may still be worked on")
        raise typer.Exit(ERROR_REPLY)
    chosen = [result for result in found if result.failed or not failed]
    if json or out is not None:
        _write(chosen, out, to_screen=True)
        return
    if not chosen:
        note("none of them failed" if found else "there are no results yet; `bullpen submit FILE` makes some")
        return
    columns = [words("job"), words("task"), words("result")]
    show(table(columns, [(clean(r.job_id) or "–", clean(r.task_id), _summary(r)) for r in chosen]))


async def _look_for(bullpen: Bullpen, which: list[str]) -> list[JobResult]:
    """The results, oldest first. A task's have its name in their subject, which is quick; a batch's or a job's may be
    anywhere in the stream.
    """
    tasks = sorted({s.result(name) for name in which})
    found = await _under(bullpen, tasks, which) if tasks else {}
    known = {name for result in found.values() for name in _names(result)}
    if not which or not known.issuperset(which):
        found |= await _under(bullpen, [s.RESULT_ANY], which)
    return [found[seq] for seq in sorted(found)]


async def _under(bullpen: Bullpen, subjects: list[str], which: list[str]) -> dict[int, JobResult]:
    return {
        result.seq: result
        for subject in subjects
        async for result in bullpen.jobs.results(subject)
        if not which or not _names(result).isdisjoint(which)
    }


def _names(result: JobResult) -> set[str]:
    """The names by which the result can be asked for."""
    return {result.task_id, result.job_id, result.job_id.rpartition("-")[0]} - {""}


def _summary(result: JobResult) -> str:
    answer = result.answer
    if isinstance(answer, ErrorReply):
        return one_line(f"{answer.error.code}: {answer.error.message}", 60)
    return one_line(answer.output, 60)


def _write(found: list[JobResult], out: Path | None, *, to_screen: bool) -> None:
    """Writes the results as JSON lines, as they came over the wire."""
    if out is not None:
        with replacing(out) as path, path.open("wb") as file:
            _lines(found, file)
    elif not sys.stdout.isatty():
        _lines(found, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    elif to_screen:
        for result in found:
            typer.echo(clean(result.line.decode("utf-8", "replace")))


def _lines(found: list[JobResult], file: BinaryIO) -> None:
    for result in found:
        file.write(result.line + b"\n")
