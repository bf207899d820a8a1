"""Sends the spans of a role's process to the collector at `OTEL_EXPORTER_OTLP_ENDPOINT`, if that is set.

OpenTelemetry's own variables hold the other settings (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, …). A thread sends spans in batches; while the collector is away
spans are lost, nothing else.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import structlog

from bus import tracing
from config import VERSION
from config.loader import ConfigError

log = structlog.get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
LAST_WITHIN = 1.0
"""Seconds that the last spans get when the role ends."""


@contextmanager
def traced(role: str, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Sends spans until the end of the block. Raises `ConfigError` when the settings ask for spans but cannot work."""
    environ = os.environ if environ is None else environ
    endpoint = next((environ[name] for name in ENDPOINTS if environ.get(name)), "")
    if not endpoint or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    stop = _begin(role, environ)
    log.info("traces_sent", to=endpoint, content=tracing.with_content())
    try:
        yield
    finally:
        tracing.use(None)
        leaving = threading.Thread(target=stop, name="last-spans", daemon=True)
        leaving.start()
        leaving.join(LAST_WITHIN)


def _begin(role: str, environ: Mapping[str, str]) -> Callable[[], None]:
    """Starts the exporter; returns the function that ends it."""
    try:  # a third of a second, and 20 MB
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 — only when traces are on
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 — only when traces are on
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 — only when traces are on
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 — only when traces are on
    except ImportError as error:
        cure = f"install bullpen-mesh[traces], or unset {ENDPOINTS[-1]}"
        raise ConfigError(f"{ENDPOINTS[-1]} is set, but traces cannot be sent ({error}): {cure}") from None
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": f"bullpen-{role}"}
    resource = Resource.create({**named, "service.version": VERSION})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    content = environ.get(CONTENT, "").lower() not in ("", "false", "no_content")
    tracing.use(provider.get_tracer("bullpen", VERSION), content=content)
    return provider.shutdown
