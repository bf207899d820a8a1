"""Provider failures: what the mesh can do about them, and whose fault they are.

The mesh can ask another worker (`upstream_error`), have the key fixed (`upstream_auth`) or the request
(`invalid_request`, `no_such_model`), or wait (`rate_limited`). Errors show only the first line of a provider's own
text, at most 200 characters.

A refusal is the model's fault at this worker, because another provider may take the same request. The request is at
fault only when it could not be turned into a question (`workers/base/provider/question.py`).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from contracts import BullpenError, ErrorCode, Fault, Outcome
from workers.base.provider.context_length import COMMON, TooLong
from workers.base.provider.error_body import ErrorBody, read_error
from workers.base.provider.proxies import on_the_way
from workers.base.provider.retry_after import retry_after_ms, told_retry_after_ms

MAX_TEXT = 200

_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|xai|key)[-_][-\w*.]{4,}|\bAIza[-\w*]{6,}|(?<=Bearer )[-\w*.]{6,}")


class Meaning(NamedTuple):
    """What an error of the provider means to the mesh."""

    code: ErrorCode
    fault: Fault


BY_STATUS: dict[int, Meaning] = {
    400: Meaning(ErrorCode.INVALID_REQUEST, "model"),
    401: Meaning(ErrorCode.UPSTREAM_AUTH, "account"),
    402: Meaning(ErrorCode.UPSTREAM_AUTH, "model"),
    403: Meaning(ErrorCode.UPSTREAM_AUTH, "model"),
    404: Meaning(ErrorCode.NO_SUCH_MODEL, "model"),
    413: Meaning(ErrorCode.PAYLOAD_TOO_LARGE, "model"),
    422: Meaning(ErrorCode.INVALID_REQUEST, "model"),
    429: Meaning(ErrorCode.RATE_LIMITED, "model"),
}
"""The meaning of each HTTP status. 402 and 403 may concern one request (its size, a flagged prompt): they are the
account's fault only if a health check is refused too. Providers limit each model separately, so a 429 is the model's
fault unless the provider says otherwise.
"""
OTHERWISE = Meaning(ErrorCode.UPSTREAM_ERROR, "model")

BY_CODE: dict[ErrorCode, Fault] = {
    ErrorCode.INVALID_REQUEST: "request",
    ErrorCode.DEADLINE_EXCEEDED: "request",
    ErrorCode.CANCELLED: "request",
    ErrorCode.PAYLOAD_TOO_LARGE: "request",
    ErrorCode.NO_WORKER: "worker",
    ErrorCode.DRAINING: "worker",
    ErrorCode.OVERLOADED: "worker",
    ErrorCode.RATE_LIMITED: "account",
    ErrorCode.INTERNAL: "ours",
}
"""Whose fault a failure is that does not say so itself: such failures come from the worker's own checks. Any other
code: the model's.
"""
REFUSALS = frozenset(meaning.code for meaning in BY_STATUS.values())


BY_WORD: dict[str, int] = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "rate_limit": 429,
    "too_many_requests": 429,
    "toomanyrequests": 429,
    "ratelimiterror": 429,
    "resource_exhausted": 429,
    "insufficient_quota": 429,
    "queue_exceeded": 429,
    "overloaded_error": 529,
    "overloaded": 529,
    "server_overloaded": 529,
    "engine_overloaded": 529,
    "unavailable": 503,
    "service_unavailable": 503,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "permission_denied": 403,
    "permission_error": 403,
    "insufficient_credits": 402,
    "insufficient_balance": 402,
    "payment_required": 402,
    "billing_error": 402,
    "model_not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "request_too_large": 413,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "badrequesterror": 400,
    "validation_error": 422,
}
"""The HTTP status that a provider's word stands for, in an error without a status; the first word that fits counts."""
NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
"""Codes of a 429 that does not end by waiting, for any model."""
WAITS = frozenset({429, 503})
"""Statuses for which a short wait is reported even when the provider names none."""
BUSY = frozenset({429, 503, 529})
"""Statuses that are rate limits when the provider names a wait: the model then gets no request for that time."""


class ProviderRefused(BullpenError):
    """The provider answered with an error. If nothing came before it, the provider sends no bill."""


def blamed(error: BullpenError, *, asked: bool) -> BullpenError:
    """The same error, with `fault` set. `asked`: the backend was asked, so the request itself was in order."""
    its_own = asked and error.code in REFUSALS
    error.fault = error.fault or ("model" if its_own else BY_CODE.get(error.code, "model"))
    return error


def from_status(status: int, text: str, headers: Mapping[str, str] | None = None) -> ProviderRefused:
    """The error for a provider's HTTP status (`upstream_error` if it is not listed) and its text."""
    return refusal(status, read_error(text), headers)


def refusal(
    status: int | None, error: ErrorBody, headers: Mapping[str, str] | None = None, words: TooLong = COMMON
) -> ProviderRefused:
    """The error for what a provider reported. `status` None: it came inside a 200, so that its words decide."""
    status = status or error.status or _by_word(error)
    if words.is_told(status, error):
        return too_long(error.message, words.prompt_tokens(error))
    code, fault = BY_STATUS.get(status or 0, OTHERWISE)
    told_wait = told_retry_after_ms(headers or {}, error.retry_after_ms) if status in BUSY else None
    code = code if told_wait is None else ErrorCode.RATE_LIMITED
    wait = retry_after_ms(headers or {}, error.retry_after_ms) if status in WAITS else told_wait
    if status == BY_WORD["insufficient_quota"] and error.codes & NO_MONEY:
        fault = "account"
    told = f"the provider answered {status or 'an error'}: {first_line(error.message)}"
    return ProviderRefused(code, told, retry_after_ms=wait, fault=fault)


def _by_word(error: ErrorBody) -> int | None:
    return next((status for word, status in BY_WORD.items() if word in error.codes), None)


def too_long(text: str, prompt_tokens: int | None = None) -> ProviderRefused:
    """The error for a prompt that does not fit into the model's context window; `prompt_tokens` if the provider counted
    them.
    """
    message = f"the conversation is too long for this model: {first_line(text)}"
    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED
    return ProviderRefused(code, message, field="prompt", prompt_tokens=prompt_tokens or 0, fault="model")


def unreachable(where: str, error: BaseException) -> BullpenError:
    """The error for a provider that did not answer; a `BullpenError` inside the SDK's error stays as it is."""
    if isinstance(error, BullpenError):
        return error
    why = first_line(str(error)) or type(error).__name__
    hint = on_the_way(where, str(error))
    return BullpenError(ErrorCode.UPSTREAM_ERROR, f"{where} is not reachable: {why}{hint}", fault="worker")


def garbage(what: str) -> BullpenError:
    """The error for an answer that cannot be read."""
    told = f"the provider sent something unusable: {first_line(what)}"
    return BullpenError(ErrorCode.UPSTREAM_ERROR, told, fault="model")


def sendable(text: str) -> str:
    """The text with half surrogate pairs, which JSON can carry and UTF-8 cannot, replaced by `?`."""
    return text.encode(errors="replace").decode()


def unended(reason: object) -> BullpenError:
    """The error for an answer with an ending that makes it unusable; `reason` is the provider's word for the ending."""
    told = f"the provider ended its answer with {first_line(str(reason))!r}"
    return BullpenError(ErrorCode.UPSTREAM_ERROR, told, fault="model", outcome=Outcome.TRUNCATED)


def first_line(text: str) -> str:
    """The first line, cut, and without anything like a key: some providers quote the key in their errors."""
    text = sendable(text)
    line = text.strip().splitlines()[0].rstrip() if text.strip() else ""
    line = _KEY.sub("(a key)", line)
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}…"
