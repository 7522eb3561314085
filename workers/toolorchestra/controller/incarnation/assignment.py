"""The settings of one incarnation and its outputs (status, metrics); complete before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opentelemetry.metrics import Meter

from toolorchestra.api.load import load
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining, OrchestratorTrainingSpec
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller.settings import Settings, SettingsError, settings_of
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.runs.status import StatusWriter
from toolorchestra.tasks.file_uri import path_of
from toolorchestra.telemetry.metrics import Recorder


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Everything that an incarnation needs to start. `config`: of the driver; the rest comes from it and its YAML."""

    config: DriverConfig
    run: RunDir
    training: OrchestratorTraining
    pools: Sequence[ExpertPool]
    settings: Settings
    recorder: Recorder
    status: StatusWriter
    dispatch_timeout: float
    """Seconds; longer than a dispatch can take, with all its redeliveries."""

    @property
    def spec(self) -> OrchestratorTrainingSpec:
        return self.training.spec


def assignment_of(config: DriverConfig, run: RunDir, *, otel: Meter | None = None) -> Assignment:
    """Read the YAML; SettingsError where no run can be made of it. `otel`: meter for metrics; None: no metrics."""
    bundle = load([str(path) for path in config.resources])
    training = bundle.trainings[0]
    pools = bundle.experts(training.spec.tools)
    fresh = not run.journal.exists()  # a resumed run has graded its tasks' answers already
    return Assignment(
        config=config,
        run=run,
        training=training,
        pools=pools,
        settings=settings_of(training, pools, find=partial(_find, volumes=config.volumes), references=fresh),
        recorder=Recorder(otel, training=training.metadata.name),
        status=StatusWriter(run, steps=training.spec.algorithm.steps),
        dispatch_timeout=3.0 * training.spec.rollout.episode_timeout_seconds + 120.0,
    )


def _find(uri: str, *, volumes: Mapping[str, Path]) -> Path:
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return path_of(uri)
    claim, _, path = rest.partition("/")
    if scheme == "pvc" and claim in volumes:
        return volumes[claim] / path
    raise SettingsError(f"{uri}: not on this machine; give --volume {claim}=DIR for pvc://, or use file://")
