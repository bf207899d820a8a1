"""Provider failures, turned into what the mesh can do about them.

Another worker (`upstream_error`), fix the key (`upstream_auth`), fix the request
(`invalid_request`, `no_such_model`), or wait (`rate_limited`). A provider's own text is shown to
nobody beyond its first line, and never more than 200 characters of it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isnan

from contracts import BullpenError, ErrorCode

MAX_RETRY_AFTER_MS = 60_000
MAX_TEXT = 200

_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|xai|key)[-_][-\w*.]{4,}|\bAIza[-\w*]{6,}|(?<=Bearer )[-\w*.]{6,}")

_BY_STATUS = {
    400: ErrorCode.INVALID_REQUEST,
    401: ErrorCode.UPSTREAM_AUTH,
    402: ErrorCode.UPSTREAM_AUTH,
    403: ErrorCode.UPSTREAM_AUTH,
    404: ErrorCode.NO_SUCH_MODEL,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    422: ErrorCode.INVALID_REQUEST,
    429: ErrorCode.RATE_LIMITED,
}


_TOO_LONG = re.compile(
    r"maximum context length|context (?:length|size|window|limit)|context_length_exceeded|prompt is too long"
    r"|input token count.*exceeds",
    re.IGNORECASE,
)
_COUNT = re.compile(r"(?:resulted in|requested|too long:|token count \(|(?:prompt|request) \()\s*(\d+)", re.IGNORECASE)
"""Where providers say in it how many tokens the prompt has."""


class ProviderRefused(BullpenError):
    """The provider answered with an error. When nothing came before it, it sends no bill."""


def from_status(status: int, text: str, headers: Mapping[str, str] | None = None) -> ProviderRefused:
    """The error for a provider's HTTP status (anything not listed is `upstream_error`)."""
    if status in (400, 413) and _TOO_LONG.search(text):
        count = _COUNT.search(text)
        return too_long(text, int(count[1]) if count else None)
    code = _BY_STATUS.get(status, ErrorCode.UPSTREAM_ERROR)
    wait = retry_after_ms(headers or {}) if status in (429, 503) else None
    return ProviderRefused(code, f"the provider answered {status}: {first_line(text)}", retry_after_ms=wait)


def too_long(text: str, prompt_tokens: int | None = None) -> ProviderRefused:
    """The prompt does not fit into the model's context window; `prompt_tokens`, when the model's tokenizer told it."""
    message = f"the conversation is too long for this model: {first_line(text)}"
    return ProviderRefused(ErrorCode.INVALID_REQUEST, message, field="prompt", prompt_tokens=prompt_tokens or 0)


def unreachable(where: str, error: BaseException) -> BullpenError:
    """The provider did not answer at all."""
    return BullpenError(
        ErrorCode.UPSTREAM_ERROR, f"{where} is not reachable: {first_line(str(error)) or type(error).__name__}"
    )


def garbage(what: str) -> BullpenError:
    """The provider answered something that is not an answer."""
    return BullpenError(ErrorCode.UPSTREAM_ERROR, f"the provider sent something unusable: {first_line(what)}")


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
        return 1000
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
    return 1000 if isnan(milliseconds) else round(min(max(milliseconds, 0), MAX_RETRY_AFTER_MS))
