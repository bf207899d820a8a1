"""A reply that is kept here, instead of being sent to somebody."""

from bus import Bus, Reply
from bus.connection import Headers


class CapturedReply(Reply):
    def __init__(self, bus: Bus, task_id: str, request_id: str) -> None:
        super().__init__(bus, "", task_id, request_id, streaming=False)
        self.body = b""
        self.headers: Headers = {}

    async def _final(self, body: bytes, headers: Headers) -> None:
        if not self.finished:
            self.finished, self.body, self.headers = True, body, headers
