"""Traces: how long each part of a request took. Off until `use` is called.

`bullpen/supervision/traces.py` turns tracing on when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and only then imports
OpenTelemetry. Until then `start` returns a span that does nothing, which costs a request only the check of a variable.

A caller's `traceparent` is passed on in any case: the next service may be traced.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Literal

from contracts.headers import TRACEPARENT, TRACESTATE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as Recorded
    from opentelemetry.trace import Tracer

Value = str | int | float | bool | list[str]
Kind = Literal["internal", "server", "client"]
NONE: Mapping[str, str] = {}
LONGEST_STATE = 512
"""Characters of the longest `tracestate` that is passed on."""

_tracer: "Tracer | None" = None
_with_content = False
_onward: ContextVar[Mapping[str, str]] = ContextVar("onward", default=NONE)


def use(tracer: "Tracer | None", *, content: bool = False) -> None:
    """Makes spans with `tracer` from now on; with None, none. `content`: spans contain the words of questions and
    answers.
    """
    global _tracer, _with_content
    _tracer, _with_content = tracer, content and tracer is not None


def is_on() -> bool:
    return _tracer is not None


def with_content() -> bool:
    """Whether spans may contain the words of questions and answers."""
    return _with_content


class Span:
    """A traced piece of work; `NO_SPAN` when tracing is off."""

    __slots__ = ("_recorded",)

    def __init__(self, recorded: "Recorded | None") -> None:
        self._recorded = recorded

    def __bool__(self) -> bool:
        return self._recorded is not None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that let the next service continue the trace."""
        if self._recorded is None:
            return {}
        of = self._recorded.get_span_context()
        told = {TRACEPARENT: f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"}
        state = of.trace_state.to_header()
        return {**told, TRACESTATE: state} if state else told

    def child(self, name: str, kind: Kind = "internal", at: int | None = None, **told: Value | None) -> "Span":
        """A part of this span. `at`: when it began, in unix nanoseconds; None: now."""
        return start(name, self, kind, at, **told)

    def tell(self, **told: Value | None) -> None:
        """Sets attributes of the span; `__` in a name stands for a dot, and None is left out."""
        if self._recorded is not None:
            self._recorded.set_attributes(_attributes(told))

    def event(self, name: str, at: int | None = None, **told: Value | None) -> None:
        """Records an event in the span, at that time in unix nanoseconds; None: now."""
        if self._recorded is not None:
            self._recorded.add_event(name, _attributes(told), at)

    def end(self, error: str = "", why: str = "", at: int | None = None) -> None:
        """Ends the span. `error`: an error code, if it failed; `why`: the reason, without words of callers or
        models.
        """
        if self._recorded is None:
            return
        if error:
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 — loaded long since

            self._recorded.set_attribute("error.type", error)
            self._recorded.set_status(Status(StatusCode.ERROR, why or error))
        self._recorded.end(at)


NO_SPAN = Span(None)


def start(
    name: str,
    parent: Span | Mapping[str, str] = NO_SPAN,
    kind: Kind = "internal",
    at: int | None = None,
    **told: Value | None,
) -> Span:
    """A span below `parent`, a span or the headers of a caller; without one, the first span of a new trace."""
    if _tracer is None:
        return NO_SPAN
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 — loaded long since

    context = _context(parent)
    return Span(_tracer.start_span(name, context, SpanKind[kind.upper()], _attributes(told), start_time=at))


def onward() -> Mapping[str, str]:
    """The trace headers for requests that the running code sends."""
    return _onward.get()


def go_on(headers: Mapping[str, str]) -> None:
    """Puts the requests that this task and its child tasks send from now on into the trace of these headers."""
    if (told := trace_headers(headers)) or _onward.get():
        _onward.set(told)


def trace_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of these that name a trace, if they are well formed."""
    parent = headers.get(TRACEPARENT)
    if parent is None or len(parent) != len("00-") + 32 + len("-") + 16 + len("-01") or not parent.isascii():
        return NONE
    state = headers.get(TRACESTATE, "")
    return {TRACEPARENT: parent, TRACESTATE: state} if 0 < len(state) <= LONGEST_STATE else {TRACEPARENT: parent}


def ago(seconds: float) -> int:
    """The time `seconds` ago, in unix nanoseconds."""
    return time_ns() - int(seconds * 1e9)


def _context(parent: Span | Mapping[str, str]) -> "Context":
    """The OpenTelemetry context of the parent. Without one it is empty: the span belongs to no other trace of this
    process.
    """
    from opentelemetry.context import Context  # noqa: PLC0415 — loaded long since
    from opentelemetry.trace import set_span_in_context  # noqa: PLC0415 — only when traces are on
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 — only when traces are on

    if not isinstance(parent, Span):
        return TraceContextTextMapPropagator().extract(trace_headers(parent), Context())
    recorded = parent._recorded
    return Context() if recorded is None else set_span_in_context(recorded, Context())


def _attributes(told: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name.replace("__", "."): value for name, value in told.items() if value is not None}
