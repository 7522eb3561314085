"""Metrics on their way out: variables, a real scrape, a real OTLP request, and what the catalogue promises of both."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from support.metric_points import Measured
from toolorchestra.telemetry import metrics as m
from toolorchestra.telemetry.metrics import Measurement, Recorder, table
from toolorchestra.telemetry.metrics_setup import MetricsPlan
from toolorchestra.telemetry.setup import Telemetry, TelemetryError, check, configure

PROMETHEUS = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}
DOCS = Path(__file__).parents[3] / "docs"


def one_of_each() -> list[Measurement]:
    """A 1 for every instrument of the controller, with every label."""
    return [Measurement(i, 1, dict.fromkeys(i.labels, "x")) for i in m.CONTROLLER]


def scrape(telemetry: Telemetry) -> str:
    assert telemetry.metrics is not None
    assert telemetry.metrics.address is not None
    host, port = telemetry.metrics.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def made(environ: Mapping[str, str], *, scraped: bool = True) -> Telemetry:
    return configure(service="test", environ=environ, install=False, scraped=scraped)


@pytest.fixture
def served() -> Iterator[Telemetry]:
    telemetry = made(PROMETHEUS)
    yield telemetry
    telemetry.shutdown()


class Collector(HTTPServer):
    """Keeps what is POSTed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not on stderr."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_scrape_shows_every_metric_under_the_name_of_the_catalogue(served: Telemetry) -> None:
    Recorder(served.meter, training="sums").write(one_of_each)
    text = scrape(served)
    shown = set(re.findall(r"^(toolorchestra_\w+)\{", text, re.MULTILINE))
    assert shown == {series for instrument in m.CONTROLLER for series in instrument.series}
    for line in text.splitlines():
        if line.startswith("toolorchestra_"):
            assert 'training="sums"' in line
    for instrument in m.CONTROLLER:
        (found,) = re.findall(rf"^{instrument.series[0]}\{{(.*?)\}} ", text, re.MULTILINE)[:1]
        labels = set(re.findall(r"(\w+)=", found)) - {"le"}
        assert labels == {"training", *instrument.labels}, instrument.name
    assert "process_resident_memory_bytes" in text
    assert 'service_name="test"' in text


def test_otlp_posts_what_was_measured(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "toolorchestra.training.name=sums")
    telemetry = made({"OTEL_METRICS_EXPORTER": "otlp"})
    Recorder(telemetry.meter, training="sums").write(one_of_each)
    telemetry.shutdown()
    ((path, body),) = collector.got
    assert path == "/v1/metrics"
    request = ExportMetricsServiceRequest.FromString(body)
    (resource,) = request.resource_metrics
    attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert attributes["toolorchestra.training.name"] == "sums"
    assert attributes["service.name"] == "test"
    assert attributes["service.instance.id"], "else the counters of two workers are one"
    (scope,) = resource.scope_metrics
    kinds = {"sum": "counter", "gauge": "gauge", "histogram": "histogram"}
    posted = {metric.name: kinds[str(metric.WhichOneof("data"))] for metric in scope.metrics}
    assert posted == {instrument.name: instrument.kind for instrument in m.CONTROLLER}
    usd = next(metric for metric in scope.metrics if metric.name == m.USD.name)
    assert usd.sum.is_monotonic
    (point,) = usd.sum.data_points
    assert point.as_double == 1.0
    assert {a.key for a in point.attributes} == {"training", "pool", "price", "purpose"}


def test_two_exporters_at_once(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    telemetry = made({**PROMETHEUS, "OTEL_METRICS_EXPORTER": "otlp, prometheus"})
    Recorder(telemetry.meter, training="sums").write(lambda: [Measurement(m.STEP, 7)])
    assert 'toolorchestra_step{training="sums"} 7.0' in scrape(telemetry)
    telemetry.shutdown()
    assert len(collector.got) == 1


def test_a_collector_that_is_away_fails_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    telemetry = made({"OTEL_METRICS_EXPORTER": "otlp"})
    Recorder(telemetry.meter).write(one_of_each)
    telemetry.shutdown()


def test_an_end_that_the_sdk_finds_too_slow_fails_no_run_and_closes_the_port(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("toolorchestra.telemetry.metrics_setup.SHUTDOWN_MILLISECONDS", 0)
    telemetry = made(PROMETHEUS)
    assert "process_cpu_seconds_total" in scrape(telemetry)
    telemetry.shutdown()
    assert "the last metrics were not exported" in caplog.text
    with pytest.raises(OSError, match="refused"):
        scrape(telemetry)


def test_nothing_is_exported_by_default() -> None:
    for environ in ({}, {"OTEL_METRICS_EXPORTER": "none"}, {**PROMETHEUS, "OTEL_SDK_DISABLED": "true"}):
        telemetry = made(environ)
        assert telemetry.metrics is None
        assert telemetry.meter is None
        telemetry.shutdown()


def test_metrics_need_no_spans() -> None:
    telemetry = made({**PROMETHEUS, "TOOLORCHESTRA_SPANS": "off", "OTEL_TRACES_EXPORTER": "console"})
    assert telemetry.provider is None
    assert telemetry.meter is not None
    telemetry.shutdown()


def test_of_a_runs_processes_only_the_controller_listens() -> None:
    assert made({**PROMETHEUS, "OTEL_METRICS_EXPORTER": "prometheus"}, scraped=False).metrics is None


def test_the_console_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry = made({"OTEL_METRICS_EXPORTER": "console"})
    Recorder(telemetry.meter).write(one_of_each)
    telemetry.shutdown()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert m.USD.name in captured.err


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_METRICS_EXPORTER", "statsd"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "http"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "65536"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1e3"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_a_variable_that_cannot_be_obeyed_is_named(variable: str, value: str) -> None:
    environ = {"OTEL_METRICS_EXPORTER": "otlp", variable: value}
    for ask in (lambda: check(environ), lambda: made(environ)):
        with pytest.raises(TelemetryError, match=re.escape(variable)) as caught:
            ask()
        assert value in str(caught.value)


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environ = {**PROMETHEUS, "OTEL_EXPORTER_PROMETHEUS_PORT": port}
        for ask in (lambda: check(environ), lambda: made(environ)):
            with pytest.raises(TelemetryError, match=rf"OTEL_EXPORTER_PROMETHEUS_PORT={port}: cannot .*in use"):
                ask()
    check(environ)
    made(environ).shutdown()
    made(environ).shutdown()


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.prometheus", None)
    with pytest.raises(TelemetryError, match="opentelemetry-exporter-prometheus"):
        made(PROMETHEUS)


def test_the_standards_values_are_the_defaults() -> None:
    plan = MetricsPlan.parse({"OTEL_METRICS_EXPORTER": "prometheus"}, scraped=True)
    assert (plan.host, plan.port, plan.interval_milliseconds) == ("127.0.0.1", 9464, 60_000)


def test_a_measurement_is_written_with_the_trainings_name() -> None:
    seen = Measured(training="sums")
    seen.recorder.write(lambda: [Measurement(m.CALLS, 2, {"pool": "a", "outcome": "ok"})])
    seen.recorder.write(lambda: [Measurement(m.CALLS, 3, {"pool": "a", "outcome": "ok"})])
    assert seen.get(m.CALLS, training="sums", pool="a", outcome="ok") == 5


def test_names_are_unique_and_follow_the_conventions() -> None:
    everything = (*m.CONTROLLER, *m.WORKER)
    assert len({instrument.name for instrument in everything}) == len(everything)
    assert len({instrument.prometheus for instrument in everything}) == len(everything)
    for instrument in everything:
        assert re.fullmatch(r"toolorchestra(\.[a-z_][a-z0-9_]*)+", instrument.name)
        assert (instrument.kind == "histogram") == bool(instrument.buckets), instrument.name
        assert instrument.training == (".worker." not in instrument.name)


@pytest.mark.parametrize("instruments", [m.CONTROLLER, m.WORKER], ids=["controller", "worker"])
def test_the_docs_have_the_catalogue(instruments: tuple[m.Instrument, ...]) -> None:
    assert table(instruments) in (DOCS / "telemetry.md").read_text(encoding="utf-8")
