"""`$SRV` (ADR-32), so that `nats micro ls`, `info` and `stats` show the mesh.

Answered here and not by nats-py's `micro`, which handles one request at a time and cancels work in
flight when it stops.
"""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from bus.connection import Bus, Message, Subscription
from config import VERSION
from contracts import ErrorCode
from contracts.subjects import may_receive_reply


@dataclass(slots=True)
class EndpointStats:
    """One endpoint's figures since the start; durations in seconds."""

    name: str
    subject: str
    queue_group: str
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: float = 0.0

    def count(self, seconds: float, error: ErrorCode | None = None) -> None:
        """Counts one request that took `seconds`. Only the code of its error is kept: the message may quote a
        caller.
        """
        self.num_requests += 1
        self.processing_time += seconds
        if error:
            self.num_errors += 1
            self.last_error = error

    def as_stats(self) -> dict[str, Any]:
        nanoseconds = round(self.processing_time * 1e9)
        return {
            "name": self.name,
            "subject": self.subject,
            "queue_group": self.queue_group,
            "num_requests": self.num_requests,
            "num_errors": self.num_errors,
            "last_error": self.last_error,
            "processing_time": nanoseconds,
            "average_processing_time": nanoseconds // self.num_requests if self.num_requests else 0,
        }


@dataclass(frozen=True, slots=True)
class Service:
    """A role's description of itself."""

    name: str
    id: str
    version: str
    description: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    endpoints: tuple[EndpointStats, ...] = ()
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def ping(self) -> dict[str, Any]:
        return self._answer("ping")

    def info(self) -> dict[str, Any]:
        endpoints = [
            {"name": e.name, "subject": e.subject, "queue_group": e.queue_group, "metadata": {}} for e in self.endpoints
        ]
        return {**self._answer("info"), "description": self.description, "endpoints": endpoints}

    def stats(self) -> dict[str, Any]:
        started = self.started.isoformat().replace("+00:00", "Z")
        return {**self._answer("stats"), "started": started, "endpoints": [e.as_stats() for e in self.endpoints]}

    def _answer(self, kind: str) -> dict[str, Any]:
        return {
            "type": f"io.nats.micro.v1.{kind}_response",
            "name": self.name,
            "id": self.id,
            "version": self.version,
            "metadata": {"host": socket.gethostname(), **self.metadata},
        }


def package_version() -> str:
    """Bullpen's version, as service discovery requires it (a semantic version)."""
    return VERSION


async def serve_info(bus: Bus, service: Service) -> list[Subscription]:
    """Answers `$SRV.PING`, `INFO` and `STATS`: to all services, to this service's name, and to its id."""
    verbs: dict[str, Callable[[], dict[str, Any]]] = {
        "PING": service.ping,
        "INFO": service.info,
        "STATS": service.stats,
    }
    return [
        await bus.subscribe(f"$SRV.{verb}{suffix}", _answering(bus, answer))
        for verb, answer in verbs.items()
        for suffix in ("", f".{service.name}", f".{service.name}.{service.id}")
    ]


def _answering(bus: Bus, answer: Callable[[], dict[str, Any]]) -> Callable[[Message], Any]:
    async def handle(message: Message) -> None:
        if may_receive_reply(message.reply):
            await bus.publish(message.reply, to_json(answer()))

    return handle
