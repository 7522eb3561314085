"""Sets up telemetry by the standard environment variables. Without them, nothing is exported.

| variable | meaning |
| --- | --- |
| `OTEL_SDK_DISABLED` | `true`: no telemetry |
| `OTEL_TRACES_EXPORTER` | `none` (default), `console`, `jsonl`, `memory`, `otlp`; several with commas |
| `OTEL_EXPORTER_OTLP_*` | the collector, as the SDK reads them; `http/protobuf` only |
| `OTEL_TRACES_SAMPLER_ARG` | share of *groups* that are recorded, 0 to 1 |
| `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | the resource |
| `TOOLORCHESTRA_TRACES_FILE` | where `jsonl` writes |
| `TOOLORCHESTRA_SPANS` | `off`, `default`, `per_turn`, `all` |

The variables of metrics are in telemetry/metrics_setup.py.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.metrics import Meter

from toolorchestra.telemetry.errors import TelemetryError
from toolorchestra.telemetry.groups import SPANS_VARIABLE, SpanGroup, enable
from toolorchestra.telemetry.metrics_setup import Metrics, MetricsPlan, start
from toolorchestra.telemetry.names import INSTRUMENTATION

if TYPE_CHECKING:
    # The SDK is an extra: a process that exports nothing does not need it.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACES_FILE_VARIABLE = "TOOLORCHESTRA_TRACES_FILE"
EXPORTERS = ("none", "console", "jsonl", "memory", "otlp")


__all__ = ["Telemetry", "TelemetryError", "check", "configure"]


@dataclass(frozen=True)
class Telemetry:
    """The telemetry that was set up. `memory` holds the finished spans if the memory exporter is on."""

    exporters: tuple[str, ...] = ()
    provider: TracerProvider | None = None
    memory: InMemorySpanExporter | None = field(default=None)
    metrics: Metrics | None = None

    @property
    def meter(self) -> Meter | None:
        """Meter of the process; None if no metrics are exported."""
        return None if self.metrics is None else self.metrics.provider.get_meter(INSTRUMENTATION)

    def shutdown(self) -> None:
        """Export the finished spans and metrics, and stop. Call it before the process ends."""
        if self.provider is not None:
            self.provider.shutdown()
        if self.metrics is not None:
            self.metrics.shutdown()


def check(environ: Mapping[str, str] | None = None) -> None:
    """Raise TelemetryError if a run's controller could not use the variables now. Sets nothing up."""
    env = os.environ if environ is None else environ
    _group(env)
    _exporters(env)
    _ratio(env)
    MetricsPlan.parse(env, scraped=True).check_port()


def configure(
    *,
    service: str,
    attributes: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    install: bool = True,
    scraped: bool = False,
) -> Telemetry:
    """Set up tracing and metrics for this process. `install=False` keeps the global providers (for tests).

    `scraped`: this process serves `OTEL_METRICS_EXPORTER=prometheus`; in a run only the controller does.
    TelemetryError is raised before anything is set up.
    """
    env = os.environ if environ is None else environ
    group = _group(env)
    exporters, ratio = _exporters(env), _ratio(env)
    plan = MetricsPlan.parse(env, scraped=scraped)
    enable(group)
    spans = bool(exporters) and group is not SpanGroup.OFF and env.get("OTEL_SDK_DISABLED", "").lower() != "true"
    if not spans and not plan.exporters:
        return Telemetry()

    resource = _resource(env, service=service, attributes=attributes or {})
    measured = start(plan, resource=resource)
    if measured is not None and install:
        metrics.set_meter_provider(measured.provider)
    if not spans:
        return Telemetry(metrics=measured)
    provider, memory = _tracing(exporters, env, ratio=ratio, resource=resource)
    if install:
        trace.set_tracer_provider(provider)
    return Telemetry(exporters=exporters, provider=provider, memory=memory, metrics=measured)


def _resource(env: Mapping[str, str], *, service: str, attributes: Mapping[str, str]) -> Resource:
    from opentelemetry.sdk.resources import Resource

    # All workers of a training have the same service name. Without an instance id a collector would mix their counters.
    instance = {"service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
    if "service.instance.id=" in env.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        instance = {}
    return Resource.create({"service.name": env.get("OTEL_SERVICE_NAME") or service, **instance, **attributes})


def _tracing(
    exporters: tuple[str, ...], env: Mapping[str, str], *, ratio: float, resource: Resource
) -> tuple[TracerProvider, InMemorySpanExporter | None]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased

    from toolorchestra.telemetry.sampling import GroupSampler

    provider = TracerProvider(resource=resource, sampler=ParentBased(GroupSampler(ratio)), shutdown_on_exit=True)
    memory = None
    for name in exporters:
        processor, kept = _processor(name, env)
        provider.add_span_processor(processor)
        memory = kept or memory
    return provider, memory


def _group(env: Mapping[str, str]) -> SpanGroup:
    try:
        return SpanGroup.parse(env.get(SPANS_VARIABLE) or "default")
    except ValueError as error:
        raise TelemetryError(str(error)) from error


def _exporters(env: Mapping[str, str]) -> tuple[str, ...]:
    asked = [part.strip() for part in (env.get("OTEL_TRACES_EXPORTER") or "none").split(",")]
    if unknown := [part for part in asked if part not in EXPORTERS]:
        raise TelemetryError(f"OTEL_TRACES_EXPORTER={','.join(unknown)!r}: want {', '.join(EXPORTERS)}")
    if "jsonl" in asked and not env.get(TRACES_FILE_VARIABLE):
        raise TelemetryError(f"OTEL_TRACES_EXPORTER=jsonl needs {TRACES_FILE_VARIABLE}, the file to write to")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if "otlp" in asked and env.get(variable, "http/protobuf") != "http/protobuf":
            raise TelemetryError(f"{variable}={env[variable]!r}: only http/protobuf is built in")
    return tuple(part for part in asked if part != "none")


def _ratio(env: Mapping[str, str]) -> float:
    sampler = env.get("OTEL_TRACES_SAMPLER", "")
    if sampler.endswith("always_off"):
        return 0.0
    text = env.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise TelemetryError(f"OTEL_TRACES_SAMPLER_ARG={text!r}: want a share between 0 and 1")
    return 1.0 if sampler.endswith("always_on") else ratio


def _processor(name: str, env: Mapping[str, str]) -> tuple[SpanProcessor, InMemorySpanExporter | None]:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    from toolorchestra.telemetry.exporters import JsonlSpanExporter, TreeSpanExporter

    match name:
        case "console":
            return SimpleSpanProcessor(TreeSpanExporter()), None
        case "jsonl":
            return BatchSpanProcessor(JsonlSpanExporter(Path(env[TRACES_FILE_VARIABLE]))), None
        case "memory":
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

            kept = InMemorySpanExporter()
            return SimpleSpanProcessor(kept), kept
        case _:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            return BatchSpanProcessor(OTLPSpanExporter()), None
