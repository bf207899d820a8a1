"""Turns a request into a provider's question. A failure here is the request's fault, not a worker's.

A bad part of a request (an image, a tool's schema) fails at every worker in the same way. So it must not open a
breaker, and no other worker is asked. When a model's own options are wrong, even the plainest request cannot be turned
into a question: then the model is at fault.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from contracts import BullpenError, ErrorCode, Fault, InferenceRequest
from workers.base.interface.backend import Job
from workers.base.provider.connection import UNUSABLE, opened
from workers.base.provider.errors import first_line

Q = TypeVar("Q")
A = TypeVar("A")

PLAINEST = InferenceRequest(prompt="?")
FIELDS = ("tools", "tool_choice", "response_format", "messages", "stop", "seed")
NAMES = {
    "tool_config": "tool_choice",
    "format": "response_format",
    "response_json_schema": "response_format",
    "contents": "messages",
    "images": "messages",
    "stop_sequences": "stop",
}
"""By a provider's name for a field, the request's name for it."""


def built(build: Callable[[Job], Q], job: Job) -> Q:
    """The provider's question for a job. Raises `BullpenError(invalid_request)`, whatever went wrong."""
    try:
        return build(job)
    except Exception as error:
        raise unbuildable(error, "request" if _plainest_builds(build, job) else "model") from error


async def asked(sending: Awaitable[A], job: Job) -> A:
    """The provider's answer, from an SDK that checks a question before it sends it.

    Raises `BullpenError(invalid_request)` when the SDK could not send the question, and whatever else the SDK raises.
    """
    try:
        return await sending
    except UNUSABLE as error:
        if opened.get([]):
            raise  # there was an answer, and it is the answer that is unusable
        raise unbuildable(error, fault_before_asking(job)) from error


def fault_before_asking(job: Job) -> Fault:
    """Whose fault it is that the SDK or the engine refuses the question: the model's if the request is text alone,
    which any model takes.
    """
    request = job.request
    special = request.tools or request.response_format or request.stop or request.seed is not None
    images_or_calls = any(message.images or message.tool_calls for message in request.conversation)
    return "request" if special or images_or_calls else "model"


def unbuildable(error: Exception, fault: Fault) -> BullpenError:
    """The error for a request that could not be turned into a question."""
    if isinstance(error, BullpenError):
        error.fault = fault
        return error
    told = f"this request cannot be turned into a question for the provider: {_why(error)}"
    return BullpenError(ErrorCode.INVALID_REQUEST, told, field=_field(error), fault=fault)


def _plainest_builds(build: Callable[[Job], object], job: Job) -> bool:
    try:
        build(replace(job, request=PLAINEST, prefix=""))
    except Exception:
        return False
    return True


def _why(error: Exception) -> str:
    """The reason without the caller's values, which may be long and private."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(step) for step in first['loc'])}: {first_line(first['msg'])}"
    return f"{type(error).__name__}: {first_line(str(error))}"


def _field(error: Exception) -> str | None:
    """The request's field that is wrong, if the error names one."""
    if not isinstance(error, ValidationError):
        return None
    steps = [str(step) for step in error.errors(include_url=False, include_input=False)[0]["loc"]]
    return next((NAMES.get(step, step) for step in steps if NAMES.get(step, step) in FIELDS), None)
