"""Permission errors of the server, delivered to the calls that would otherwise wait for nothing.

NATS reports a refusal without the refused message (`-ERR 'Permissions Violation for Publish to "…"'`), so every waiting
call on that subject fails. nats-py converts the text to lower case.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bus.errors import Denied

_REFUSAL = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

OnDenied = Callable[[Denied], None]


class PermissionErrors:
    def __init__(self, inbox: str) -> None:
        self._inbox = inbox.lower()
        self._waiting: dict[str, list[OnDenied]] = {}
        self._deaf: Denied | None = None
        """Set when this user may not even receive answers."""

    @contextmanager
    def watch(self, subject: str, on_denied: OnDenied) -> Iterator[None]:
        """While the block runs, calls `on_denied` when the server refuses messages to this subject. Raises `Denied`."""
        if self._deaf is not None:
            raise self._deaf
        waiting = self._waiting.setdefault(subject.lower(), [])
        waiting.append(on_denied)
        try:
            yield
        finally:
            waiting.remove(on_denied)
            if not waiting:
                self._waiting.pop(subject.lower(), None)

    def heard(self, error: str) -> None:
        """Handles an error text of the server."""
        if (found := _REFUSAL.search(error.lower())) is None:
            return
        verb, subject = found.groups()
        if verb == "publish":
            refused = Denied(f"this user may not publish on {subject}: check NATS_USER and its permissions")
            concerned = self._waiting.get(subject, ())
        elif subject == self._inbox:
            refused = self._deaf = Denied(
                f"this user may not hear answers on {subject}: check NATS_INBOX_PREFIX and the user's permissions"
            )
            concerned = [on_denied for some in self._waiting.values() for on_denied in some]
        else:
            return
        for on_denied in list(concerned):
            on_denied(refused)

    def forget(self) -> None:
        """Forgets the refusal after a reconnect: the next server, or this one after a reload, may grant other
        permissions.
        """
        self._deaf = None
