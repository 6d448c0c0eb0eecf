"""Spans of predictions: one each, one for every time a slot has it, all of them ended; and where traces are asked for."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from soma.serve.predictions import Prediction
from soma.serve.protocol import Request
from soma.serve.traces import NotConfigured, Traces, configured

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b", "who": "me"}


class Setting:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Traces(provider.get_tracer("test"), provider.shutdown)

    def made(self, context: dict[str, str]) -> Prediction:
        prediction = Prediction("x", "prediction", Request(context=context), "7", lambda: None)
        self.traces.watch(prediction)
        return prediction

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())


def named(span: Any) -> tuple[str, str]:
    """As `traceparent` says them."""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


@given(st.lists(st.sampled_from(["begin", "requeue", "log", "output"]), max_size=12), st.sampled_from(["succeed", "fail", "cancel"]),
       st.booleans())
def test_every_span_ends_and_lies_under_its_own(happenings: list[str], end: str, told: bool) -> None:
    setting = Setting()
    prediction = setting.made(PARENT if told else {})
    begun, beginnings, heard = False, 0, []
    for happening in happenings:
        match happening:
            case "begin" if not begun:
                prediction.begin(0.0)
                begun, beginnings = True, beginnings + 1
                heard.append(prediction.context["traceparent"].split("-")[1:3])
            case "requeue" if begun:
                prediction.requeue()
                begun = False
            case "log":
                prediction.log("x")
            case "output":
                prediction.output(0, 1)
    if end == "succeed" and not begun:
        end = "cancel"
    prediction.finish(end, 1.0, error="no good" if end == "fail" else "")
    *runs, whole = setting.spans
    assert whole.name == "prediction" and whole.kind is trace.SpanKind.SERVER and len(runs) == beginnings
    assert whole.attributes == {"soma.prediction.id": "x", "soma.prediction.version": "7", "soma.prediction.status": prediction.status}
    assert [named(run) for run in runs] == [tuple(h) for h in heard], "the slot is told of its own span"
    assert all(run.parent.span_id == whole.context.span_id and run.end_time <= whole.end_time for run in runs)
    if told:
        assert [named(whole)[0], f"{whole.parent.span_id:016x}"] == PARENT["traceparent"].split("-")[1:3]
        assert prediction.context["who"] == "me" and prediction.context["tracestate"] == "a=b"
    else:
        assert whole.parent is None and "tracestate" not in prediction.context
    assert whole.status.description == ("no good" if end == "fail" else None)


def test_a_parent_that_is_not_sampled_is_not_traced_and_handed_on() -> None:
    setting = Setting()
    prediction = setting.made({"traceparent": PARENT["traceparent"][:-2] + "00"})
    prediction.begin(0.0)
    trace_id, flags = prediction.context["traceparent"].split("-")[1::2]
    assert trace_id == PARENT["traceparent"].split("-")[1] and flags == "00"
    prediction.finish("succeed", 1.0)
    assert setting.spans == []


@pytest.mark.parametrize("environ", [
    {}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, {"OTEL_SERVICE_NAME": "x"},
    {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
])
def test_where_nobody_asks_there_are_none(environ: dict[str, str]) -> None:
    assert configured(environ) is None


def test_an_exporter_that_is_not_known_is_named() -> None:
    with pytest.raises(NotConfigured, match=r"OTEL_TRACES_EXPORTER='zipkin': there are otlp \(over HTTP\), console and none"):
        configured({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_what_only_grpc_would_carry_is_said() -> None:
    with pytest.raises(NotConfigured, match="PROTOCOL='grpc': spans are sent by http/protobuf only"):
        configured({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(NotConfigured, match=r"pip install 'soma\[otel\]'"):
        configured({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})


def test_a_programs_own_provider_is_used_and_not_ended() -> None:
    """In a process of its own: a provider can be set once."""
    said = subprocess.run([sys.executable, "-c", """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from soma.serve.predictions import Prediction
from soma.serve.protocol import Request
from soma.serve.traces import configured

assert configured({}) is None
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
traces = configured({})
for _ in range(2):
    prediction = Prediction("x", "training", Request(), "1", lambda: None)
    traces.watch(prediction)
    prediction.finish("cancel", 0.0)
    traces.close()
print([span.name for span in exporter.get_finished_spans()])
"""], check=True, capture_output=True, text=True, timeout=60).stdout
    assert said == "['training', 'training']\n"


def test_without_a_word_nothing_of_it_is_imported() -> None:
    code = "import sys, soma.serve.traces as t; t.configured({}); print([m for m in sys.modules if m.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout == "[]\n"
