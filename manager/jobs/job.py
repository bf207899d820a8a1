"""A durable request as it comes out of the stream `JOBS`, and the one message that becomes its result."""

from dataclasses import dataclass
from time import time

from pydantic_core import to_json

from bus import Bus, Message
from bus.captured_reply import CapturedReply
from bus.pull import StoredMessage
from bus.queue import message_id
from contracts import headers as h
from contracts import parse_request, salvage_task_id
from contracts import subjects as s


@dataclass(frozen=True, slots=True)
class Job:
    message: StoredMessage
    id: str
    task_id: str

    @classmethod
    def of(cls, message: StoredMessage) -> "Job":
        """Ids for a job that has none of its own: the same each time the job comes."""
        own = message_id(message.headers)
        name = own or f"job-{message.stream_seq}"
        job_id = own or f"{message.stream_seq}-{message.stored_ns}"  # a stream made anew counts from 1 again
        return cls(message, job_id, salvage_task_id(message.data) or name)

    @property
    def age(self) -> float:
        """Seconds since the job was submitted."""
        return time() - self.message.stored_ns / 1e9

    def request(self) -> Message:
        """The request, as batch work unless it says otherwise. Raises `BullpenError(invalid_request)`.

        Its deadline counts from now on: a deadline header that came with it concerns the submission.
        """
        request = parse_request(self.message.data, task_id=self.task_id)
        changes = (
            {"stream": False} if "priority" in request.model_fields_set else {"stream": False, "priority": "batch"}
        )
        asked = request.model_copy(update=changes).model_dump(mode="json", by_alias=True, exclude_unset=True)
        headers = {name: value for name, value in self.message.headers.items() if name != h.DEADLINE}
        return Message(s.JOBS_SUBMIT, to_json(asked), "", headers)


class Result(CapturedReply):
    """Holds the one final message back until the stream has it."""

    def __init__(self, bus: Bus, task_id: str, request_id: str, job_id: str) -> None:
        super().__init__(bus, task_id, request_id)
        self.extra_headers = {h.JOB: job_id, h.MESSAGE_ID: f"result:{job_id}"}
