"""One subscription for all the answers that a connection waits for.

Each request gets a token under the connection's own inbox: 128 random bits, so that a client that was not asked cannot
find out where an answer is expected. A part of the inbox can be named (`of`), so that the server can be told which
senders may write there. Answers go to the waiting callback in the order of arrival, without a task in between.
"""

import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import structlog

log = structlog.get_logger(__name__)


class HasSubject(Protocol):
    @property
    def subject(self) -> str: ...


M = TypeVar("M", bound=HasSubject)

TOKEN_BYTES = 16
TOKENS = 100


class Inbox(Generic[M]):
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._waiting: dict[str, Callable[[M], None]] = {}
        self._random: list[str] = []

    @property
    def wildcard(self) -> str:
        return f"{self._prefix}.>"

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, callback: Callable[[M], None], of: str = "") -> "Listener[M]":
        """Opens a listener. `of`: a part of the inbox, one subject token, for answers from one kind of sender."""
        part = f"{of}." if of else ""
        subject = f"{self._prefix}.{part}{self._token()}"
        self._waiting[subject] = callback
        return Listener(self, subject)

    def _token(self) -> str:
        """A random token, so that no client can guess it. Many are drawn at a time, because each draw is a system
        call.
        """
        if not self._random:
            drawn = secrets.token_hex(TOKENS * TOKEN_BYTES)
            self._random = [drawn[at : at + 2 * TOKEN_BYTES] for at in range(0, len(drawn), 2 * TOKEN_BYTES)]
        return self._random.pop()

    def close(self, subject: str) -> None:
        self._waiting.pop(subject, None)

    def deliver(self, message: M) -> None:
        """Calls the callback of a message; drops a message without one."""
        callback = self._waiting.get(message.subject)
        if callback is None:
            return
        try:
            callback(message)
        except Exception:
            log.exception("listener_failed", subject=message.subject)


class Listener(Generic[M]):
    """An open inbox. Answers go to its `subject` until it is closed."""

    def __init__(self, inbox: Inbox[M], subject: str) -> None:
        self._inbox = inbox
        self.subject = subject

    def close(self) -> None:
        self._inbox.close(self.subject)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
