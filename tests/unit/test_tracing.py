"""Traces: nothing while they are off, the caller's passed on all the same, and no words unless somebody asked."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bullpen.supervision.traces import traced
from bus import tracing
from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, InferenceResponse, parse_request, utc_now
from manager.request.trace import RequestTrace
from tests.cli import ROOT

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "what nobody else should read"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider.get_tracer("test"))
    yield exporter
    tracing.use(None)


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


def test_while_they_are_off_nothing_is_made_and_nothing_imported() -> None:
    code = (
        "import sys, bus.tracing as t, bullpen.supervision.process, manager.manager, workers.base.runtime.worker\n"
        "span = t.start('x', {'traceparent': 'y'}, a=1); span.tell(b=2); span.event('z'); span.end('failed')\n"
        "print(bool(span), span.headers, span.child('y') is t.NO_SPAN)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "False {} True\n[]\n"


def test_a_span_belongs_to_the_trace_in_the_headers_and_passes_its_own_id_on(exporter: InMemorySpanExporter) -> None:
    span = tracing.start("request", {"traceparent": PARENT, "tracestate": "a=b"}, "server", gen_ai__x=1, left_out=None)
    child = span.child("attempt", "client")
    child.end("no_worker", "it went away")
    span.end()
    attempt, request = exporter.get_finished_spans()
    assert request.parent is not None
    assert attempt.parent is not None
    assert f"{request.parent.span_id:016x}" in PARENT
    assert attempt.parent.span_id == request.context.span_id
    assert span.headers["traceparent"].split("-")[1:3] == [PARENT.split("-")[1], f"{request.context.span_id:016x}"]
    assert span.headers["tracestate"] == "a=b"
    assert dict(request.attributes or {}) == {"gen_ai.x": 1}
    assert (attempt.status.is_ok, attempt.status.description) == (False, "it went away")
    assert dict(attempt.attributes or {}) == {"error.type": "no_worker"}


@pytest.mark.parametrize("odd", ["", "00-1-2-01", "x" * 5000, PARENT + "0", "é" * 55, PARENT.replace("-", "_")])
def test_headers_that_name_no_trace_begin_a_new_one(exporter: InMemorySpanExporter, odd: str) -> None:
    tracing.start("request", {"traceparent": odd}).end()
    assert only(exporter).parent is None


async def test_what_a_task_asks_goes_on_with_the_trace_of_its_caller() -> None:
    tracing.go_on({"traceparent": PARENT, "tracestate": "x" * 1000, "other": "1"})
    assert tracing.onward() == {"traceparent": PARENT}
    tracing.go_on({"other": "1"})  # the next request on the same connection
    assert tracing.onward() == {}


@pytest.mark.parametrize("content", [False, True])
def test_a_span_has_words_only_if_configured_and_the_books_may_keep_them(
    exporter: InMemorySpanExporter, content: bool
) -> None:
    tracing.use(tracing._tracer, content=content)
    request = parse_request(f'{{"prompt": "{SECRET}", "model": "m"}}'.encode())
    for words in (True, False):
        trace = RequestTrace(request, "r", {})
        trace.answered(request, _answer(), None, words=words)
    with_words, without = (dict(span.attributes or {}) for span in exporter.get_finished_spans())
    assert (SECRET in str(with_words.get("gen_ai.input.messages"))) is content
    assert (SECRET in str(with_words.get("gen_ai.output.messages"))) is content
    assert SECRET not in str(without)
    assert without["gen_ai.response.model"] == "m"
    assert without["gen_ai.response.finish_reasons"] == ("stop",)


def test_a_request_that_finds_no_worker_says_so_in_its_trace(exporter: InMemorySpanExporter) -> None:
    request = parse_request(b"hello")
    trace = RequestTrace(request, "r", {})
    trace.choosing()
    trace.answered(request, None, BullpenError(ErrorCode.NO_WORKER, SECRET), words=False)
    told = {span.name: span for span in exporter.get_finished_spans()}
    assert dict(told["request"].attributes or {})["error.type"] == "no_worker"
    assert told["request"].status.description == "no_worker"
    assert dict(told["choice"].attributes or {})["error.type"] == "no_worker"


def test_without_an_address_nothing_is_sent() -> None:
    for environ in (
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"},
    ):
        with traced("manager", environ):
            assert not tracing.is_on()


def test_a_missing_package_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with (
        pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*install bullpen-mesh\[traces\]"),
        traced("manager", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}),
    ):
        pass


def _answer() -> InferenceResponse:
    return InferenceResponse(
        task_id="t",
        model_id="m",
        output=SECRET,
        tokens_used=3,
        duration_ms=1.0,
        confidence=0.5,
        request_id="r",
        backend="fake",
        worker_id="w-1",
        prompt_tokens=1,
        completion_tokens=2,
        finish_reason="stop",
        confidence_source="prior",
        created_at=utc_now(),
    )
