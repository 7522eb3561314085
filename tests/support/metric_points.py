"""Metrics as an in-memory reader sees them, easy to compare: {(name, labels): value}."""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from toolorchestra.telemetry.metrics import Instrument, Recorder


class Measured:
    """A recorder whose figures can be read back."""

    def __init__(self, *, training: str | None = "t") -> None:
        self._reader = InMemoryMetricReader()
        provider = MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)
        self.meter = provider.get_meter("test")
        self.recorder = Recorder(self.meter, training=training)

    def all(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """By name and labels: a counter's or a gauge's value, a histogram's sum."""
        found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        value = point.sum if isinstance(point, HistogramDataPoint) else point.value
                        labels = {k: str(v) for k, v in (point.attributes or {}).items()}
                        points[frozenset(labels.items())] = float(value)
        return found

    def get(self, instrument: Instrument, **labels: str) -> float:
        """The sum over all points that have these labels among theirs; KeyError: nothing was written."""
        points = self.all()[instrument.name]
        return sum(value for found, value in points.items() if labels.items() <= dict(found).items())

    def by(self, instrument: Instrument, label: str) -> dict[str, float]:
        """Sums by the values of one label."""
        found: dict[str, float] = {}
        for labels, value in self.all().get(instrument.name, {}).items():
            key = dict(labels)[label]
            found[key] = found.get(key, 0.0) + value
        return found
