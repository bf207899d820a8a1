"""Durable requests: submitted now, answered whenever the mesh can, their results kept for a week.

    ticket = await bp.submit("Summarise this …", task_id="t1")
    answer = await bp.result(ticket, timeout=600)

A job's id is what it is submitted with as `Nats-Msg-Id`: the same id submitted again is the same job and has one
result. So a client with meaningful ids (a file's digest and the line) may submit again after any mishap.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from pydantic_core import from_json

from bus import Bus, BusError
from bus.queue import ArchivedMessage, read_after, store
from client.errors import RequestFailed
from client.question import Question
from contracts import BullpenError, ErrorCode, ErrorReply, InferenceResponse
from contracts import headers as h
from contracts import subjects as s

ACK_WITHIN = 2.0
SUBMIT_WITHIN = 60.0
"""Seconds in which a submission is tried again while the mesh starts, or comes back."""
AGAIN_AFTER = 0.25
"""Seconds between two looks for new results."""
NO_JOBS = "the mesh takes no jobs: `bullpen doctor` shows what is missing (a Manager, or JetStream)"


@dataclass(frozen=True, slots=True)
class JobTicket:
    job_id: str
    task_id: str
    seq: int
    """The job's number in the stream `JOBS`."""


@dataclass(frozen=True)
class JobResult:
    """The result of a job, or of a request without a reply subject (which has no `job_id`)."""

    seq: int
    job_id: str
    body: bytes
    """The answer or the error, as on the wire."""

    @classmethod
    def of(cls, kept: ArchivedMessage) -> "JobResult":
        return cls(kept.seq, kept.headers.get(h.JOB, ""), kept.data)

    @cached_property
    def answer(self) -> InferenceResponse | ErrorReply:
        """The answer or the error. A body that cannot be read becomes an error: any client may publish on
        `result.…`.
        """
        return self._read or ErrorReply(
            error=BullpenError(ErrorCode.INTERNAL, "what was published as the result cannot be read").detail()
        )

    @property
    def line(self) -> bytes:
        """The body as one line of JSON."""
        whole = self.body if self._read else self.answer.to_bytes()
        return whole.replace(b"\r", b" ").replace(b"\n", b" ")

    @property
    def failed(self) -> bool:
        return isinstance(self.answer, ErrorReply)

    @property
    def task_id(self) -> str:
        return self.answer.task_id or ""

    def is_of(self, wanted: JobTicket | str) -> bool:
        """Whether this may be the result of that job, or of a task with that id. A body that cannot be read may be any
        task's.
        """
        if isinstance(wanted, str):
            return self.task_id in (wanted, "")
        return self.job_id == wanted.job_id

    @cached_property
    def _read(self) -> InferenceResponse | ErrorReply | None:
        try:
            body = from_json(self.body)
            return (ErrorReply if "error" in body else InferenceResponse).model_validate(body)
        except (ValueError, TypeError):
            return None


class JobQueue:
    """The client's side of the streams `JOBS` and `RESULTS`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def submit(self, question: Question, job_id: str) -> JobTicket:
        """Submits a job; tries for a minute until the stream has it. Raises `BullpenError`, `BusError`."""
        until = time.monotonic() + SUBMIT_WITHIN
        headers = {**question.headers, h.MESSAGE_ID: job_id}
        while True:
            try:
                receipt = await store(
                    self._bus, s.JOBS_STREAM, s.JOBS_SUBMIT, question.body, headers, within=ACK_WITHIN
                )
            except BusError as error:
                if time.monotonic() > until or self._bus.lost.is_set():
                    raise BusError(f"{error}; {NO_JOBS}") from error
                await asyncio.sleep(AGAIN_AFTER)
            else:
                return JobTicket(job_id, question.task_id, receipt.seq)

    async def ready(self) -> None:
        """Returns when the mesh takes jobs. Raises `BusError` when it takes none within a minute."""
        until = time.monotonic() + SUBMIT_WITHIN
        while True:
            try:
                await read_after(self._bus, s.RESULTS_STREAM, s.RESULT_ANY, 0, page=1, within=ACK_WITHIN)
            except BusError as error:
                if time.monotonic() > until or self._bus.lost.is_set():
                    raise BusError(f"{error}; {NO_JOBS}") from error
                await asyncio.sleep(AGAIN_AFTER)
            else:
                return

    async def wait(self, wanted: JobTicket | str, timeout: float) -> InferenceResponse:
        """The answer to a job, or to the first job with a task id. Raises `RequestFailed`, `BullpenError`."""
        task_id = wanted if isinstance(wanted, str) else wanted.task_id
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                async for found in self.results(s.result(task_id), follow=True):
                    if found.is_of(wanted):
                        return _answer(found)
        raise BullpenError(
            ErrorCode.DEADLINE_EXCEEDED,
            f"{task_id} has no result after {timeout:g} s; if it was submitted it is still worked on",
        )

    async def results(
        self, subject: str = s.RESULT_ANY, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[JobResult, None]:
        """The results that are kept, oldest first; with `follow` also later ones, without end.

        With `follow` it waits for a mesh that is away; otherwise it raises `BusError`.
        """
        while True:
            try:
                page = await read_after(self._bus, s.RESULTS_STREAM, subject, after)
            except BusError as error:
                if not follow or self._bus.lost.is_set():
                    raise BusError(f"{error}; {NO_JOBS}") from error
                page = []
            for kept in page:
                after = kept.seq
                yield JobResult.of(kept)
            if not page and not follow:
                return
            if not page:
                await asyncio.sleep(AGAIN_AFTER)


def _answer(result: JobResult) -> InferenceResponse:
    answer = result.answer
    if isinstance(answer, ErrorReply):
        raise RequestFailed(answer)
    return answer
