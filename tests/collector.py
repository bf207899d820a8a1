"""A collector of traces: takes what roles send by OTLP over HTTP, and tells what belongs to what."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from bus import BusError
from bus.jetstream import StreamSpec, ensure_stream
from contracts.subjects import TELEMETRY_ANY, TELEMETRY_STREAM
from tests.roles import PROMPT, Roles
from tests.support import eventually

ASKER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The span of who asks, as its `traceparent`."""
STORY = "It was late, and the road was long. They went on all the same, both of them, until the day came again."


@dataclass(frozen=True, slots=True)
class Span:
    """Times in unix nanoseconds."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    error: str
    """Why it failed; empty: it did not."""
    facts: dict[str, Any] = field(hash=False)
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A span and what it consists of, in the order of their beginnings."""

    span: Span
    parts: tuple["Node", ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self, depth: int = 0) -> Iterable[str]:
        yield f"{'  ' * depth}{self.span.service}: {self.span.name}{' ✗' if self.span.error else ''}"
        for part in self.parts:
            yield from part._lines(depth + 1)

    def all(self, name: str) -> list[Span]:
        """Every span of that name, here and below."""
        own = [self.span] if self.span.name == name else []
        return own + [span for part in self.parts for span in part.all(name)]


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        collector = cls()
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", collector._take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield collector
        finally:
            await runner.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """With which a role sends its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def tree(self, traceparent: str) -> Node | None:
        """What belongs to the span of that header; None: nothing, or not all of it has come."""
        trace, parent = traceparent.split("-")[1:3]
        spans = sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.start)
        roots = [span for span in spans if span.parent == parent]
        known = {span.id for span in spans}
        if len(roots) != 1 or any(span.parent not in known for span in spans if span is not roots[0]):
            return None
        return _node(roots[0], spans)

    async def _take(self, request: web.Request) -> web.Response:
        told = ExportTraceServiceRequest.FromString(await request.read())
        for group in told.resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            for scope in group.scope_spans:
                self.spans += [_read(service, span) for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")


def _node(span: Span, spans: Sequence[Span]) -> Node:
    return Node(span, tuple(_node(part, spans) for part in spans if part.parent == span.id))


def _read(service: str, told: Any) -> Span:
    return Span(
        service=service.removeprefix("bullpen-"),
        name=told.name,
        trace=told.trace_id.hex(),
        id=told.span_id.hex(),
        parent=told.parent_span_id.hex(),
        start=told.start_time_unix_nano,
        end=told.end_time_unix_nano,
        error=told.status.message if told.status.code == 2 else "",
        facts={fact.key: _value(fact.value) for fact in told.attributes},
        events=tuple(event.name for event in told.events),
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, str(kind))


async def rerouted_stream(directory: Path, url: str, **env: str) -> tuple[str, Node]:
    """A stream through a gateway whose worker is killed in the middle: what its reader had, and its trace.

    `url`: of a NATS server with nobody on it. Every role is a process of its own.
    """
    speaks = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "60", "BULLPEN_SIMULATED__STORY": STORY}
    hangs = {"BULLPEN_SIMULATED__HANG_AFTER_TOKENS": "8", "BULLPEN_SIMULATED__NEXT_TOKEN_TIMEOUT": "150"}
    async with Collector.open() as collector, Roles(directory, url) as roles, aiohttp.ClientSession() as client:
        await ensure_stream(roles.bus, StreamSpec(TELEMETRY_STREAM, (TELEMETRY_ANY,)))
        env = {**collector.environment, **env}
        roles.manager(**PROMPT, **env)
        roles.worker("w-1", **speaks, **hangs, **env)
        roles.gateway(BULLPEN_GATEWAY__LISTEN="127.0.0.1:0", **env)
        await roles.ready()
        at = await eventually(lambda: _gateway(roles), timeout=60)
        asked = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
        text = ""
        async with client.post(f"{at}/v1/chat/completions", json=asked, headers={"traceparent": ASKER}) as answer:
            async for line in answer.content:
                piece = line.decode().removeprefix("data:").strip()
                if not piece.startswith("{"):
                    continue
                told = json.loads(piece)
                assert "error" not in told, told
                text += told["choices"][0]["delta"].get("content") or ""
                if text and "w-2" not in roles.running:
                    roles.worker("w-2", **speaks, **env)
                    await roles.ready()
                    roles.kill("w-1")
        wanted = {"http", "request", "books", "worker"}

        def complete() -> Node | None:
            tree = collector.tree(ASKER)
            return tree if tree is not None and all(tree.all(name) for name in wanted) else None

        return text, await eventually(complete)


async def _gateway(roles: Roles) -> str:
    """Where it listens; empty: nowhere yet."""
    try:
        answer = await roles.bus.request("$SRV.PING.bullpen-gateway.g-1", b"", timeout=1)
    except BusError:
        await asyncio.sleep(0)
        return ""
    return str(json.loads(answer.data)["metadata"]["url"])
