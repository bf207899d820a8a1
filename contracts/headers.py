"""Header names. NATS compares them byte for byte, so they are spelled once, here."""

from collections.abc import Mapping

DEADLINE = "Bullpen-Deadline"
"""Unix milliseconds, absolute: work that arrives later is dropped before it is computed."""
ATTEMPT = "Bullpen-Attempt"
"""The number of the attempt, counted from 1. Manager to worker."""
REQUEST = "Bullpen-Request"
"""The Manager's request id, so that the worker's answer names the same row of the books."""
MODEL = "Bullpen-Model"
"""The model that the Manager chose among those of the worker."""
EVENTS = "Bullpen-Events"
"""`1`: also send claim and progress. Manager to worker only."""
HOPS = "Bullpen-Hops"
"""How often a Manager has passed this message on; a second time is refused."""
CONTINUE = "Bullpen-Continue"
"""The start of the answer that the caller has already (base64 of UTF-8): go on after it. Manager to worker."""
CONTINUE_TOKENS = "Bullpen-Continue-Tokens"
"""Tokens of that start, so that `max_tokens` holds for the whole answer."""
NO_STORE = "Bullpen-No-Store"
"""`1`: the books keep none of this request's words, as with `"content": "none"`."""
CANCEL_TOKEN = "Bullpen-Cancel-Token"  # noqa: S105 — a header's name
"""A secret of the caller: only an `infer.cancel` that knows it stops the request."""
TASK = "Bullpen-Task"
JOB = "Bullpen-Job"
"""The job that a result belongs to: the `Nats-Msg-Id` with which it was submitted, or a generated one."""
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY = "Idempotency"
"""`best-effort` in a reply: JetStream was away, so the same key may have run, or may run, once more."""
CONTENT_TYPE = "Content-Type"
MESSAGE_ID = "Nats-Msg-Id"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

SERVICE_ERROR = "Nats-Service-Error"
SERVICE_ERROR_CODE = "Nats-Service-Error-Code"

JSON = "application/json"
BEST_EFFORT = "best-effort"

ROLE_ONLY = frozenset({ATTEMPT, REQUEST, MODEL, EVENTS, HOPS, CONTINUE, CONTINUE_TOKENS, TASK, JOB})
"""Headers that only roles set. On a subject that callers may publish to they are ignored."""

_MOST_DIGITS = 15


def of_caller(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without those that only roles set."""
    return {name: value for name, value in headers.items() if name not in ROLE_ONLY}


def number(text: str | None, default: int) -> int:
    """The whole number in a header, `default` without one. Digits after the fifteenth are cut off."""
    return int(text[:_MOST_DIGITS]) if text is not None and text.isascii() and text.isdigit() else default
