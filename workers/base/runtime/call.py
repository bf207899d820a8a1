"""A request as it reached this worker: its bytes and headers, read once."""

import asyncio
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from bus import Message
from bus.deadline import seconds_left
from contracts import BullpenError, ErrorCode, Request, new_id, read_any, told_task_id, utc_now
from contracts import headers as h
from contracts.privacy import heeding
from contracts.subjects import kind_of


@dataclass(frozen=True, slots=True)
class Call:
    request: Request
    task_id: str
    request_id: str
    attempt: int
    model: str | None
    """The model that is asked for; None: the worker's first one."""
    routed: bool
    """Whether a Manager sent the request and listens on its own inbox."""
    arrived: float
    """When the request arrived, by the loop's clock; `deadline` is by the same clock."""
    deadline: float
    created_at: datetime
    reply: str
    clock: Callable[[], float]
    """The loop's clock. It is kept because finding the running loop is a system call in Python 3.11."""
    prefix: str = ""
    """The start of the answer, which the caller has already from another worker."""
    prefix_tokens: int = 0
    cancel_token: str = ""
    """The token that a cancel must carry; empty: none is needed."""

    @classmethod
    def read(cls, message: Message, *, routed_here: bool = True) -> "Call":
        """Reads a message. Raises `BullpenError(invalid_request)`.

        `routed_here`: the message came on a subject on which only Managers may send. Otherwise a Manager's headers are
        ignored.
        """
        headers = message.headers if routed_here else h.of_caller(message.headers)
        clock = asyncio.get_running_loop().time
        arrived = clock()
        kind, task_id = kind_of(message.subject), told_task_id(headers.get(h.TASK))
        request = heeding(read_any(kind, message.data, task_id=task_id)[0], headers)
        routed = headers.get(h.EVENTS) == "1" and bool(message.reply)
        return cls(
            request=request,
            task_id=request.task_id or new_id(),
            request_id=headers.get(h.REQUEST) or new_id(),
            attempt=h.number(headers.get(h.ATTEMPT), 1),
            model=headers.get(h.MODEL) or request.model,
            routed=routed,
            arrived=arrived,
            deadline=arrived + seconds_left(headers, request, own_clock=routed),
            created_at=utc_now(),
            reply=message.reply,
            clock=clock,
            prefix=_prefix(headers.get(h.CONTINUE, "")),
            prefix_tokens=h.number(headers.get(h.CONTINUE_TOKENS), 0),
            cancel_token=headers.get(h.CANCEL_TOKEN, ""),
        )

    @property
    def key(self) -> tuple[str, int]:
        return self.request_id, self.attempt

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - self.clock()

    @property
    def elapsed_ms(self) -> float:
        return round((self.clock() - self.arrived) * 1000, 3)


def _prefix(text: str) -> str:
    try:
        return b64decode(text, validate=True).decode()
    except ValueError:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "is not base64 of UTF-8", field=h.CONTINUE) from None
