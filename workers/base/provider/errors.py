"""Provider failures: what the mesh can do about them, and whose fault they are.

Another worker (`upstream_error`), fix the key (`upstream_auth`), fix the request
(`invalid_request`, `no_such_model`), or wait (`rate_limited`). Of a provider's own text only the first
line is shown, and never more than 200 characters of it.

A refusal is the model's fault at this worker, because another provider may take the same request. The request
is at fault only when no question could be made of it (`workers/base/provider/question.py`).
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isnan
from typing import NamedTuple

from contracts import BullpenError, ErrorCode, Fault
from workers.base.provider.proxies import on_the_way

MAX_RETRY_AFTER_MS = 60_000
"""A provider that asks for more is asked again after a minute all the same: what it tells may be a day's limit that
was raised meanwhile, and one request a minute does no harm."""
UNTOLD_RETRY_AFTER_MS = 1000
MAX_TEXT = 200

_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|xai|key)[-_][-\w*.]{4,}|\bAIza[-\w*]{6,}|(?<=Bearer )[-\w*.]{6,}")


class Meaning(NamedTuple):
    """What a provider's status means to the mesh."""

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
"""402 and 403 may be about one request (its size, a flagged prompt): only a health check that is refused too makes
them the account's. Providers limit each model by itself, so 429 is the model's unless the provider says otherwise."""
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
"""Of failures that say nothing of it: they come from the worker's own checks. Any other code: the model's."""
REFUSALS = frozenset(meaning.code for meaning in BY_STATUS.values())


_TOO_LONG = re.compile(
    r"maximum context length|context (?:length|size|window|limit)|context_length_exceeded|prompt is too long"
    r"|input token count.*exceeds",
    re.IGNORECASE,
)
_COUNT = re.compile(r"(?:resulted in|requested|too long:|token count \(|(?:prompt|request) \()\s*(\d+)", re.IGNORECASE)
"""Where providers say in it how many tokens the prompt has."""


class ProviderRefused(BullpenError):
    """The provider answered with an error. When nothing came before it, it sends no bill."""


def blamed(error: BullpenError, *, asked: bool) -> BullpenError:
    """The same error, which now says whose fault it is. `asked`: the backend was asked, so the request was in order."""
    its_own = asked and error.code in REFUSALS
    error.fault = error.fault or ("model" if its_own else BY_CODE.get(error.code, "model"))
    return error


def from_status(status: int, text: str, headers: Mapping[str, str] | None = None) -> ProviderRefused:
    """The error for a provider's HTTP status (anything not listed is `upstream_error`)."""
    if status in (400, 413) and _TOO_LONG.search(text):
        count = _COUNT.search(text)
        return too_long(text, int(count[1]) if count else None)
    code, fault = BY_STATUS.get(status, OTHERWISE)
    wait = retry_after_ms(headers or {}) if status in (429, 503) else None
    told = f"the provider answered {status}: {first_line(text)}"
    return ProviderRefused(code, told, retry_after_ms=wait, fault=fault)


def too_long(text: str, prompt_tokens: int | None = None) -> ProviderRefused:
    """The prompt does not fit into the model's context window; `prompt_tokens`, when the model's tokenizer told it."""
    message = f"the conversation is too long for this model: {first_line(text)}"
    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED
    return ProviderRefused(code, message, field="prompt", prompt_tokens=prompt_tokens or 0, fault="model")


def unreachable(where: str, error: BaseException) -> BullpenError:
    """The provider did not answer at all."""
    why = first_line(str(error)) or type(error).__name__
    hint = on_the_way(where, str(error))
    return BullpenError(ErrorCode.UPSTREAM_ERROR, f"{where} is not reachable: {why}{hint}", fault="worker")


def garbage(what: str) -> BullpenError:
    """The provider answered something that is not an answer."""
    told = f"the provider sent something unusable: {first_line(what)}"
    return BullpenError(ErrorCode.UPSTREAM_ERROR, told, fault="model")


def retry_after_ms(headers: Mapping[str, str]) -> int:
    """How long a provider asks us to wait, in milliseconds: 0 to 60 000; 1 000 when it does not say."""
    lower = {key.lower(): value for key, value in headers.items()}
    value = lower.get("retry-after-ms")
    if value is not None and (number := _number(value)) is not None:
        return _bounded(number)
    value = lower.get("retry-after", "").strip()
    if (number := _number(value)) is not None:
        return _bounded(number * 1000)
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return UNTOLD_RETRY_AFTER_MS
    return _bounded((when.astimezone(UTC) - datetime.now(UTC)).total_seconds() * 1000)


def first_line(text: str) -> str:
    """The first line, cut, and without what looks like a key: some providers quote it in what they say of it."""
    line = text.strip().splitlines()[0].rstrip() if text.strip() else ""
    line = _KEY.sub("(a key)", line)
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}…"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _bounded(milliseconds: float) -> int:
    return UNTOLD_RETRY_AFTER_MS if isnan(milliseconds) else round(min(max(milliseconds, 0), MAX_RETRY_AFTER_MS))
