"""Traces: what OpenTelemetry is told of predictions, where it is configured.

Each prediction is a span, `prediction` or `training`, from when it was accepted to its end, under the span that the request names in
`traceparent`. Beneath it is one for each time that a slot has it: what lies before that is waiting. The slot is told of the latter, so what
the user's code makes of `current_scope().context` continues the trace.

It is configured if the program has set a tracer provider, or by the variables of OpenTelemetry's specification: OTEL_TRACES_EXPORTER
(`otlp`, `console`, `none`), OTEL_EXPORTER_OTLP_ENDPOINT and the rest that its SDK reads. Else its packages are not even imported.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from soma.serve.protocol import Prediction

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

PATIENCE = 3.0
"""Seconds at the end for what was not yet exported."""
HTTP = "http/protobuf"
"""How spans travel."""
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class NotConfigured(Exception):
    """Traces are asked for in a way that cannot be followed; says what to do."""


class Traces:
    """See the module. Belongs to the event loop's thread.

    Args:
        tracer: makes the spans.
        end: exports what is left.
    """

    def __init__(self, tracer: Tracer, end: Callable[[], None] = lambda: None) -> None:
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._end = tracer, end
        self._kinds, self._failed = SpanKind, StatusCode.ERROR
        self._within, self._wire = set_span_in_context, TraceContextTextMapPropagator()

    def watch(self, prediction: Prediction) -> None:
        """Trace it from now on. Call it before the prediction begins."""
        span = self._tracer.start_span(prediction.kind, self._wire.extract(prediction.context), self._kinds.SERVER, {
            "soma.prediction.id": prediction.id, "soma.prediction.version": prediction.version})
        run: Span | None = None
        self._tell(prediction, span)

        def hear(kind: str) -> None:
            nonlocal run
            if kind == "start":
                if run is not None:  # its slot died before it had begun there
                    run.end()
                run = self._tracer.start_span(f"{prediction.kind} in its slot", self._within(span))
                self._tell(prediction, run)
            elif kind in ("completed", "error"):
                self._ended(prediction, span, run)

        prediction.listeners.append(hear)

    def _tell(self, prediction: Prediction, span: Span) -> None:
        context = {name: value for name, value in prediction.context.items() if name not in self._wire.fields}
        self._wire.inject(context, self._within(span))
        prediction.context = context

    def _ended(self, prediction: Prediction, span: Span, run: Span | None) -> None:
        span.set_attribute("soma.prediction.status", prediction.status)
        for each in (span,) if run is None else (run, span):
            if prediction.error:
                each.set_status(self._failed, prediction.error)
            each.end()

    def close(self) -> None:
        """Export what is left, if that takes no longer than `PATIENCE`."""
        thread = threading.Thread(target=self._end, name="soma-traces", daemon=True)
        thread.start()
        thread.join(PATIENCE)


def configured(environ: Mapping[str, str] = os.environ) -> Traces | None:
    """As the program, or else its environment, says; None if neither does.

    Raises:
        NotConfigured: the environment asks for what is not installed, or not known.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace

        provider = trace.get_tracer_provider()
        if not isinstance(provider, trace.ProxyTracerProvider):
            return Traces(provider.get_tracer("soma.serve"))
    wanted = environ.get("OTEL_TRACES_EXPORTER", "").strip() or ("otlp" if any(environ.get(name) for name in _ENDPOINTS) else "none")
    return None if wanted == "none" else _from_environment(wanted, environ)


def _from_environment(wanted: str, environ: Mapping[str, str]) -> Traces:
    exporter: Any
    try:
        if wanted == "otlp":
            protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or HTTP
            if protocol != HTTP:
                raise NotConfigured(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: spans are sent by {HTTP} only (port 4318)")
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        elif wanted == "console":
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter

            exporter = ConsoleSpanExporter(out=sys.stderr)
        else:
            raise NotConfigured(f"OTEL_TRACES_EXPORTER={wanted!r}: there are otlp (over HTTP), console and none")
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as e:
        raise NotConfigured(f"the environment asks for traces (OTEL_…), which need {e.name}: pip install 'soma[otel]'") from e
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": "soma"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider.get_tracer("soma.serve"), provider.shutdown)
