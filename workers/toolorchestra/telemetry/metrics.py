"""The catalogue of all metrics of a run and of a worker, and the recorder that writes them.

Invariants: every instrument is in the catalogue; a measurement has exactly the labels of its instrument;
`Recorder.write` never blocks and never raises, because a run must not fail because of its metrics. This module needs
only OpenTelemetry's API; telemetry/metrics_setup.py decides where metrics are exported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, ParamSpec

from opentelemetry.metrics import Meter, NoOpMeter
from opentelemetry.util.types import AttributeValue

from toolorchestra.telemetry import names

_log = logging.getLogger(__name__)
P = ParamSpec("P")

Kind = Literal["counter", "gauge", "histogram"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_STEP_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
_VERSIONS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)


@dataclass(frozen=True)
class Instrument:
    """One metric. `unit` as in UCUM, a word in braces where UCUM has none; `labels` besides `training`."""

    name: str
    kind: Kind
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    training: bool = True
    """Whether it has the label `training`. A worker does not know the name; its OpenTelemetry resource has it."""

    @property
    def prometheus(self) -> str:
        """The exporter's name of the metric in Prometheus; for a histogram without `_bucket`, `_count`, `_sum`."""
        name = self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")
        return f"{name}_total" if self.kind == "counter" else name

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its time series in Prometheus."""
        if self.kind != "histogram":
            return (self.prometheus,)
        return tuple(f"{self.prometheus}_{part}" for part in ("bucket", "count", "sum"))


@dataclass(frozen=True)
class Measurement:
    """One value for an instrument. It is added, set or observed, by the instrument's kind."""

    instrument: Instrument
    value: float
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


def _train(figure: str, description: str, unit: str = "") -> Instrument:
    return Instrument(f"{names.METRIC_TRAIN}.{figure}", "gauge", unit, f"{description}, of the last step")


def _evaluation(figure: str, description: str, unit: str = "") -> Instrument:
    labels = (names.LABEL_SUITE,)
    return Instrument(f"{names.METRIC_EVALUATION}.{figure}", "gauge", unit, f"{description}, last evaluation", labels)


# ── episodes ───────────────────────────────────────────────────────────────────────────────────────────────────────

RESULTS = Instrument(
    names.METRIC_RESULTS,
    "counter",
    "{result}",
    "results by ending and by the ledger's decision: `accepted`, `failed`, `deferred`, `late`, `duplicate`",
    (names.LABEL_PURPOSE, names.LABEL_ENDING, names.LABEL_OUTCOME),
)
ISSUES = Instrument(
    names.METRIC_ISSUES,
    "counter",
    "{issue}",
    "episodes sent to the workers: the `first` time, or `again`",
    (names.LABEL_PURPOSE, names.LABEL_SENDING),
)
EXCLUDED = Instrument(
    names.METRIC_EXCLUDED, "counter", "{episode}", "episodes that never got a result, by cause", (names.LABEL_ENDING,)
)
DEAD_LETTERS = Instrument(
    names.METRIC_DEAD_LETTERS,
    "counter",
    "{message}",
    "orders that crashed a worker, or whose workers vanished",
)
EPISODE_TIME = Instrument(
    names.METRIC_EPISODE_TIME,
    "histogram",
    "s",
    "wall time of an episode",
    (names.LABEL_PURPOSE,),
    _STEP_SECONDS,
)
TURN_TIME = Instrument(
    names.METRIC_TURN_TIME,
    "histogram",
    "s",
    "service time of one generation of the policy",
    (names.LABEL_PURPOSE,),
    _SECONDS,
)
CALLS = Instrument(
    names.METRIC_CALLS,
    "counter",
    "{call}",
    "calls of experts and tools: `ok`, `refused`, `rejected`, `unavailable`, `cancelled`",
    (names.LABEL_POOL, names.LABEL_OUTCOME),
)
CALL_TIME = Instrument(
    names.METRIC_CALL_TIME,
    "histogram",
    "s",
    "service time of calls that were answered",
    (names.LABEL_POOL, names.LABEL_OUTCOME),
    _SECONDS,
)
WASTED = Instrument(
    names.METRIC_WASTED,
    "counter",
    "{result}",
    "results of training that no step will use: `late`, `failed`, `deferred`, or why their group was dropped",
    (names.LABEL_OUTCOME,),
)
WASTED_TOKENS = Instrument(
    names.METRIC_WASTED_TOKENS,
    "counter",
    "{token}",
    "tokens that the policy sampled for such results",
    (names.LABEL_OUTCOME,),
)

# ── money and tokens ───────────────────────────────────────────────────────────────────────────────────────────────

USD = Instrument(
    names.METRIC_USD,
    "counter",
    "{USD}",
    "US dollars by pool (and `policy`): `nominal` by the price book, `actual` as billed",
    (names.LABEL_POOL, names.LABEL_PRICE, names.LABEL_PURPOSE),
)
SPEND = Instrument(
    names.METRIC_SPEND,
    "gauge",
    "{USD}",
    "US dollars of the whole run, with earlier incarnations and unknown bills: `settled`, `reserved`",
    (names.LABEL_STATE,),
)
CAP = Instrument(names.METRIC_CAP, "gauge", "{USD}", "`spec.limits.maxSpendUSD`, where it is set")
TOKENS = Instrument(
    names.METRIC_TOKENS,
    "counter",
    "{token}",
    "tokens by pool (and `policy`): `prompt`, `completion`",
    (names.LABEL_POOL, names.LABEL_KIND, names.LABEL_PURPOSE),
)

# ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = Instrument(
    names.METRIC_STEPS,
    "counter",
    "{step}",
    "steps of this incarnation: `train`, `empty` (nothing to train on), `warm` (warm start)",
    (names.LABEL_KIND,),
)
STEP = Instrument(names.METRIC_STEP, "gauge", "", "the last step, whose policy version is served")
STEPS_GOAL = Instrument(names.METRIC_STEPS_GOAL, "gauge", "", "the step at which training is complete")
INCARNATION = Instrument(names.METRIC_INCARNATION, "gauge", "", "number of this incarnation of the controller, from 0")
STEP_TIME = Instrument(
    names.METRIC_STEP_TIME, "histogram", "s", "one step, with its wait for episodes", (), _STEP_SECONDS
)
PHASE_TIME = Instrument(
    names.METRIC_PHASE_TIME,
    "counter",
    "s",
    "time of steps by phase: `generate_wait`, `reward`, `train`, `sync`",
    (names.LABEL_PHASE,),
)
IDLE = Instrument(names.METRIC_IDLE, "gauge", "", "share of the last step in which the trainers waited for episodes")
PAUSE = Instrument(
    names.METRIC_PAUSE,
    "histogram",
    "s",
    "no engine takes requests while new weights are loaded",
    (),
    _SECONDS,
)
TRAINED_EPISODES = Instrument(names.METRIC_TRAINED_EPISODES, "counter", "{episode}", "episodes that steps consumed")
TRAINED_GROUPS = Instrument(names.METRIC_TRAINED_GROUPS, "counter", "{group}", "groups that steps consumed")
DROPPED_GROUPS = Instrument(
    names.METRIC_DROPPED_GROUPS,
    "counter",
    "{group}",
    "groups dropped without training, by reason",
    (names.LABEL_OUTCOME,),
)
TRAINER_TOKENS = Instrument(
    names.METRIC_TRAINER_TOKENS, "counter", "{token}", "tokens through the trained model, with prompts, without padding"
)
TRAINED_TOKENS = Instrument(
    names.METRIC_TRAINED_TOKENS, "counter", "{token}", "those of these tokens that count in the loss"
)
FORKS = Instrument(names.METRIC_FORKS, "counter", "{sample}", "samples begun anew because a prompt's prefix changed")
STALENESS = Instrument(
    names.METRIC_STALENESS,
    "histogram",
    "{version}",
    "by how many versions the oldest token of a trained episode is behind",
    (),
    _VERSIONS,
)
TRAIN: Mapping[str, Instrument] = {
    "reward_mean": _train("reward", "mean reward"),
    "accuracy": _train("accuracy", "share of tasks solved"),
    "nominal_usd_per_task": _train("nominal.usd", "nominal US dollars per episode", "{USD}"),
    "actual_usd_per_task": _train("actual.usd", "actual US dollars per episode", "{USD}"),
    "valid_fraction": _train("valid.fraction", "share of samples in the required format"),
    "learning_rate": _train("learning_rate", "learning rate"),
    "loss": _train("loss", "loss"),
    "grad_norm": _train("grad_norm", "gradient norm before clipping"),
    "entropy": _train("entropy", "nats per trained token"),
    "kl": _train("kl", "KL(sampler || policy), nats per token"),
    "clip_fraction": _train("clip.fraction", "share of clipped tokens"),
    "mismatch_k3": _train("mismatch.k3", "KL(engine || trainer) under the same weights, nats per token"),
    "mismatch_rms": _train("mismatch.rms", "root mean square of their log-ratio, nats"),
    "mismatch_tokens": _train("mismatch.tokens", "tokens over which these two are computed", "{token}"),
}
"""Instruments by the key of a line in metrics.jsonl. A missing key leaves the metric unchanged."""

EVALUATION: Mapping[str, Instrument] = {
    "step": _evaluation("step", "step of the policy"),
    "reward": _evaluation("reward", "mean reward"),
    "accuracy": _evaluation("accuracy", "share of tasks solved"),
    "nominalUSDPerTask": _evaluation("nominal.usd", "nominal US dollars per task", "{USD}"),
    "tasks": _evaluation("tasks", "tasks that were scored", "{task}"),
}
"""Instruments by the key of the status' `evaluation`."""

# ── current state ──────────────────────────────────────────────────────────────────────────────────────────────────

QUEUE = Instrument(
    names.METRIC_QUEUE, "gauge", "{message}", "messages on the bus: `queued`, `leased`, `results`", (names.LABEL_STATE,)
)
REDELIVERED = Instrument(
    names.METRIC_REDELIVERED, "gauge", "{message}", "leased tasks that were delivered more than once"
)
GROUPS = Instrument(
    names.METRIC_GROUPS, "gauge", "{group}", "groups: `open`, `complete`, `training`", (names.LABEL_STATE,)
)
OPEN_EPISODES = Instrument(
    names.METRIC_OPEN_EPISODES,
    "gauge",
    "{episode}",
    "episodes without a result: `live` (sent), `deferred` (an expert is unavailable), `waiting` (for the spend cap)",
    (names.LABEL_STATE,),
)
OLDEST = Instrument(names.METRIC_OLDEST, "gauge", "s", "age of the oldest live episode")
EXPERT_OUT = Instrument(
    names.METRIC_EXPERT_OUT, "gauge", "", "1: episodes wait for this expert; 0: no longer", (names.LABEL_POOL,)
)
ENGINES = Instrument(
    names.METRIC_ENGINES, "gauge", "{engine}", "engines: `starting`, `ready`, `restarting`", (names.LABEL_STATE,)
)
LOOP_LAG = Instrument(names.METRIC_LOOP_LAG, "gauge", "s", "largest recent delay of the controller's event loop")

CONTROLLER: tuple[Instrument, ...] = (
    *(RESULTS, ISSUES, EXCLUDED, DEAD_LETTERS, EPISODE_TIME, TURN_TIME, CALLS, CALL_TIME, WASTED, WASTED_TOKENS),
    *(USD, SPEND, CAP, TOKENS),
    *(STEPS, STEP, STEPS_GOAL, INCARNATION, STEP_TIME, PHASE_TIME, IDLE, PAUSE, TRAINED_EPISODES, TRAINED_GROUPS),
    *(DROPPED_GROUPS, TRAINER_TOKENS, TRAINED_TOKENS, FORKS, STALENESS, *TRAIN.values(), *EVALUATION.values()),
    *(QUEUE, REDELIVERED, GROUPS, OPEN_EPISODES, OLDEST, EXPERT_OUT, ENGINES, LOOP_LAG),
)

# ── workers ────────────────────────────────────────────────────────────────────────────────────────────────────────

WORKER_EPISODES = Instrument(
    names.METRIC_WORKER_EPISODES,
    "counter",
    "{episode}",
    "episodes whose result was stored",
    (names.LABEL_PURPOSE, names.LABEL_ENDING),
    training=False,
)
WORKER_REJECTIONS = Instrument(
    names.METRIC_WORKER_REJECTIONS,
    "counter",
    "{turn}",
    "outputs that the parser refused, by kind",
    (names.LABEL_KIND,),
    training=False,
)
WORKER_FORKS = Instrument(
    names.METRIC_WORKER_FORKS,
    "counter",
    "{sample}",
    "samples begun anew because a prompt's prefix changed",
    training=False,
)
WORKER_REDELIVERIES = Instrument(
    names.METRIC_WORKER_REDELIVERIES,
    "counter",
    "{delivery}",
    "leased tasks that had been delivered before",
    training=False,
)
WORKER_LOOP_LAG = Instrument(
    names.METRIC_WORKER_LOOP_LAG, "gauge", "s", "delay of the worker's event loop", training=False
)

WORKER: tuple[Instrument, ...] = (
    *(WORKER_EPISODES, WORKER_REJECTIONS, WORKER_FORKS, WORKER_REDELIVERIES, WORKER_LOOP_LAG),
)


class Recorder:
    """Writes measurements to instruments of `meter`, or nowhere if there is none. `training`: label of all."""

    def __init__(self, meter: Meter | None = None, *, training: str | None = None) -> None:
        self.on = meter is not None
        self._meter = meter or NoOpMeter("toolorchestra")
        self._training = {} if training is None else {names.LABEL_TRAINING: training}
        self._writers: dict[Instrument, Callable[[float, Mapping[str, AttributeValue]], None]] = {}
        self._failed: set[str] = set()

    def write(self, read: Callable[P, Iterable[Measurement]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write the measurements that `read` returns. If nothing is exported, `read` is not called."""
        if not self.on:
            return
        try:
            for measurement in read(*args, **kwargs):
                self._write(measurement)
        except Exception as error:  # a run must not fail because of metrics: log each kind of error once
            if (kind := type(error).__name__) not in self._failed:
                self._failed.add(kind)
                _log.warning("some metrics could not be recorded", exc_info=error)

    def _write(self, measurement: Measurement) -> None:
        writer = self._writers.get(measurement.instrument)
        if writer is None:
            writer = self._writers[measurement.instrument] = writer_of(measurement.instrument, self._meter)
        writer(float(measurement.value), {**self._training, **measurement.labels})


def writer_of(instrument: Instrument, meter: Meter) -> Callable[[float, Mapping[str, AttributeValue]], None]:
    """Create the instrument, and return the function (value, labels) that writes to it."""
    name, unit, description = instrument.name, instrument.unit, instrument.description
    match instrument.kind:
        case "counter":
            return meter.create_counter(name, unit=unit, description=description).add
        case "gauge":
            return meter.create_gauge(name, unit=unit, description=description).set
        case "histogram":
            return meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=instrument.buckets
            ).record


def table(instruments: Iterable[Instrument]) -> str:
    """Return the catalogue as a Markdown table, as docs/telemetry.md shows it."""
    lines = ["| metric | type | labels | |", "| --- | --- | --- | --- |"]
    lines += [f"| `{i.prometheus}` | {i.kind} | {', '.join(i.labels)} | {i.description} |" for i in instruments]
    return "\n".join(lines)
