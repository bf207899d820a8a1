"""Sends the use of API keys at one gateway to all others, so that a key's limits hold for all gateways together.

No request waits for it: a gateway publishes the use of its keys every `EVERY` seconds, and the others take it from the
same buckets. So a key may exceed its limits by its use at other gateways within that time, and by any use that is lost
while a gateway is cut off from NATS. A gateway that starts begins with full buckets.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog
from pydantic import ValidationError

from bus import Bus, Message
from contracts import KeyUse, new_id
from contracts import subjects as s

log = structlog.get_logger(__name__)

EVERY = 0.05
"""Seconds for which uses are gathered before they are published."""

OnUse = Callable[[str, int, int], None]
"""Called with a key's id, and its requests and tokens at another gateway."""


class SharedUse:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._id = new_id()
        self._requests: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._due: asyncio.TimerHandle | None = None

    async def listen(self, on_use: OnUse) -> None:
        """Calls `on_use` for each use at another gateway. Raises `BusError`."""

        def heard(message: Message) -> None:
            try:
                use = KeyUse.model_validate_json(message.data)
            except ValidationError:
                log.warning("key_use_unreadable")
                return
            if use.sender == self._id:
                return
            for key_id, requests in use.requests.items():
                on_use(key_id, requests, 0)
            for key_id, tokens in use.tokens.items():
                on_use(key_id, 0, tokens)

        await self._bus.subscribe_inline(s.GATEWAY_KEY_USE, heard)

    def add(self, key_id: str, *, requests: int = 0, tokens: int = 0) -> None:
        """Adds to the key's use at this gateway."""
        if requests:
            self._requests[key_id] += requests
        if tokens:
            self._tokens[key_id] += tokens
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(EVERY, self._publish)

    def _publish(self) -> None:
        self._due = None
        use = KeyUse(sender=self._id, requests=dict(self._requests), tokens=dict(self._tokens))
        self._requests.clear()
        self._tokens.clear()
        self._bus.publish_soon(s.GATEWAY_KEY_USE, use.to_bytes())
