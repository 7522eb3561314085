"""Sets up the export of metrics by the standard environment variables. Without them, nothing is exported.

| variable | meaning |
| --- | --- |
| `OTEL_SDK_DISABLED` | `true`: no telemetry |
| `OTEL_METRICS_EXPORTER` | `none` (default), `otlp`, `console` (JSON on stderr), `prometheus`; several with commas |
| `OTEL_EXPORTER_PROMETHEUS_HOST`, `_PORT` | where `prometheus` listens: 127.0.0.1, 9464 (0: any free port) |
| `OTEL_METRIC_EXPORT_INTERVAL`, `_TIMEOUT` | milliseconds between two exports (60000), and for one (30000) |
| `OTEL_EXPORTER_OTLP_*` | the collector, as the SDK reads them; `http/protobuf` only |

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolorchestra.telemetry.errors import TelemetryError

if TYPE_CHECKING:
    # The SDK is an extra: a process that exports nothing does not need it.
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.resources import Resource

EXPORTERS = ("none", "otlp", "console", "prometheus")
EXPORTER_VARIABLE = "OTEL_METRICS_EXPORTER"
HOST_VARIABLE, PORT_VARIABLE = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
INTERVAL_VARIABLE, TIMEOUT_VARIABLE = "OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT"
SHUTDOWN_MILLISECONDS = 5_000
"""Time-out of the last export: an unreachable collector must not delay the end of a process."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricsPlan:
    """The environment variables, read and checked. Without an exporter, nothing is set up."""

    exporters: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 9464
    interval_milliseconds: int = 60_000
    timeout_milliseconds: int = 30_000

    @classmethod
    def parse(cls, env: Mapping[str, str], *, scraped: bool) -> MetricsPlan:
        """Read the variables. `scraped` False: ignore `prometheus`, which another process serves.

        Raises:
            TelemetryError: the first variable with a wrong value.
        """
        asked = [part.strip() for part in (env.get(EXPORTER_VARIABLE) or "none").split(",")]
        if unknown := [part for part in asked if part not in EXPORTERS]:
            raise TelemetryError(f"{EXPORTER_VARIABLE}={','.join(unknown)!r}: want {', '.join(EXPORTERS)}")
        for variable in ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if "otlp" in asked and env.get(variable, "http/protobuf") != "http/protobuf":
                raise TelemetryError(f"{variable}={env[variable]!r}: only http/protobuf is built in")
        plan = cls(
            exporters=tuple(dict.fromkeys(e for e in asked if e != "none" and (scraped or e != "prometheus"))),
            host=env.get(HOST_VARIABLE) or cls.host,
            port=_number(env, PORT_VARIABLE, cls.port, lowest=0, highest=65535),
            interval_milliseconds=_number(env, INTERVAL_VARIABLE, cls.interval_milliseconds, lowest=1),
            timeout_milliseconds=_number(env, TIMEOUT_VARIABLE, cls.timeout_milliseconds, lowest=1),
        )
        return cls() if env.get("OTEL_SDK_DISABLED", "").lower() == "true" else plan

    def check_port(self) -> None:
        """Raise TelemetryError if `prometheus` could not listen on its port now."""
        if "prometheus" not in self.exporters or self.port == 0:
            return
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            raise self.cannot_listen(error) from error

    def cannot_listen(self, error: OSError) -> TelemetryError:
        """Return the error for a port on which Prometheus' endpoint cannot listen."""
        why = error.strerror or str(error)
        return TelemetryError(
            f"{HOST_VARIABLE}={self.host}, {PORT_VARIABLE}={self.port}: cannot serve metrics there ({why});"
            f" set another, or {EXPORTER_VARIABLE} without prometheus"
        )


def _number(env: Mapping[str, str], variable: str, default: int, *, lowest: int, highest: int = 2**31 - 1) -> int:
    text = env.get(variable) or str(default)
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not lowest <= number <= highest:
        raise TelemetryError(f"{variable}={text!r}: want a whole number from {lowest} to {highest}")
    return number


@dataclass(frozen=True)
class Metrics:
    """The metrics that were set up. `address`: host and port of the Prometheus endpoint."""

    provider: MeterProvider
    address: tuple[str, int] | None = None
    _closers: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def shutdown(self) -> None:
        """Export the last metrics and stop. Never raises: a complete run must not fail because of metrics."""
        try:
            self.provider.shutdown(timeout_millis=SHUTDOWN_MILLISECONDS)
        except Exception as error:  # the SDK raises if one exporter used up the time of the others
            _log.warning("the last metrics were not exported: %s", error)
        for close in self._closers:
            close()


def start(plan: MetricsPlan, *, resource: Resource) -> Metrics | None:
    """Set up the exporters. None: the plan has none. TelemetryError: an exporter cannot start."""
    if not plan.exporters:
        return None
    from opentelemetry.sdk.metrics import MeterProvider

    address: tuple[str, int] | None = None
    readers: list[MetricReader] = []
    closers: tuple[Callable[[], None], ...] = ()
    for name in plan.exporters:
        if name == "prometheus":
            reader, address, close = _serve(plan)
            closers = (close,)
        else:
            reader = _periodic(plan, _exporter(name))
        readers.append(reader)
    provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    return Metrics(provider, address, closers)


def _exporter(name: str) -> MetricExporter:
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(out=sys.stderr, formatter=lambda data: data.to_json(indent=None) + os.linesep)
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    try:
        return OTLPMetricExporter()
    except ValueError as error:
        raise TelemetryError(f"OTEL_EXPORTER_OTLP_*: {error}") from error


def _periodic(plan: MetricsPlan, exporter: MetricExporter) -> MetricReader:
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return PeriodicExportingMetricReader(
        exporter,
        export_interval_millis=plan.interval_milliseconds,
        export_timeout_millis=plan.timeout_milliseconds,
    )


def _serve(plan: MetricsPlan) -> tuple[MetricReader, tuple[str, int], Callable[[], None]]:
    """Serve Prometheus' endpoint on its own thread. Return the reader, the address, and a function that stops it."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
    except ImportError as error:
        raise TelemetryError(
            f"{EXPORTER_VARIABLE}=prometheus needs the package opentelemetry-exporter-prometheus ({error})"
        ) from error

    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(plan.port, addr=plan.host, registry=registry)
    except OSError as error:
        raise plan.cannot_listen(error) from error
    ProcessCollector(registry=registry)
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    _log.info("metrics are served at http://%s:%d/metrics", plan.host, server.server_port)
    return reader, (plan.host, server.server_port), close
