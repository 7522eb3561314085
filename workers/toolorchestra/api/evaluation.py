"""Evaluation: a table of suites × systems. A local file (`orchestra eval -f`), not a custom resource.

`evaluation.spec.{tasks, tools, suites, systems, models, reward, rollout, limits, turn_limits, repeats, seed, cassette,
report}`; a system's `type` says which of `checkpoint`, `model`, `baseline` is set.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, LIST_SET, PARENT, ApiVersion, Model
from toolorchestra.api.cluster import Limits
from toolorchestra.api.metadata import ObjectMeta
from toolorchestra.api.model import TokenPrice
from toolorchestra.api.resource import Resource
from toolorchestra.api.reward import Reward
from toolorchestra.api.rollout import Rollout
from toolorchestra.api.rules import rule, ruled, union
from toolorchestra.api.scalars import URI, Count, ModelURI, Name, NonNegative
from toolorchestra.api.suite import Suite
from toolorchestra.api.task_sources import Tasks
from toolorchestra.api.toolset import Tools
from toolorchestra.api.training import AuxiliaryModels


class CheckpointSystem(Model):
    """A trained orchestrator."""

    uri: ModelURI
    """Hugging Face folder of the model."""
    price: TokenPrice
    """Price of its own tokens."""


class PoolSystem(Model):
    """A model prompted with the same tools."""

    pool: Name
    """Pool that serves it."""


class BaselineSystem(Model):
    """A fixed rule that chooses, instead of a model."""

    model_config = ruled(
        rule(
            "(self.name == 'Always') == has(self.pool)",
            "baseline Always needs pool, and no other baseline has one",
            check=lambda s: (s["name"] == "Always") == ("pool" in s),
            at="pool",
        )
    )

    name: Literal["Random", "Cheapest", "BestExpert", "Always", "Cascade", "Majority", "Oracle"]
    """Which rule."""
    pool: Name | None = None
    """With Always: the pool that answers every task."""


class System(Model):
    """One row of the table."""

    model_config = ruled(union(Checkpoint="checkpoint", Model="model", Baseline="baseline"))

    name: Name
    """Name in the report."""
    type: Literal["Checkpoint", "Model", "Baseline"]
    """A trained orchestrator, a prompted model, or a rule."""
    checkpoint: CheckpointSystem | None = None
    """With type Checkpoint."""
    model: PoolSystem | None = None
    """With type Model."""
    baseline: BaselineSystem | None = None
    """With type Baseline."""


class Cassette(Model):
    """Recorded expert calls, so that a paid run can be replayed."""

    uri: URI
    """File of the recording."""
    mode: Literal["Record", "Replay", "ReplayOrRecord"] = "ReplayOrRecord"
    """Record everything again, only replay, or replay the recorded calls and record the others."""


class Report(Model):
    """The report files."""

    directory: Annotated[str, Field(min_length=1, max_length=1024)] = "evaluations"
    """Folder of the reports, one sub-folder per run."""
    formats: tuple[Literal["HTML", "JSON", "Markdown"], ...] = Field(
        default=("HTML", "JSON", "Markdown"), min_length=1, max_length=3, json_schema_extra=LIST_SET
    )
    """Formats to write."""


class EvaluationSpec(Model):
    """The systems that are compared, and the suites."""

    tasks: Tasks
    """Where the suites' tasks come from."""
    tools: Tools
    """Experts and functions that an episode may call."""
    suites: Annotated[tuple[Suite, ...], Field(min_length=1, max_length=32, json_schema_extra=LIST_MAP)]
    """The table's columns."""
    systems: Annotated[tuple[System, ...], Field(min_length=1, max_length=64, json_schema_extra=LIST_MAP)]
    """The table's rows."""
    models: AuxiliaryModels = Field(default_factory=AuxiliaryModels, json_schema_extra=PARENT)
    """Judge and user simulator."""
    reward: Reward = Field(default_factory=Reward, json_schema_extra=PARENT)
    """The reward to report."""
    rollout: Rollout = Field(default_factory=Rollout, json_schema_extra=PARENT)
    """How episodes are run."""
    limits: Limits = Field(default_factory=Limits, json_schema_extra=PARENT)
    """Limits of the whole run."""
    turn_limits: tuple[Count, ...] = Field(default=(), max_length=16, json_schema_extra=LIST_SET)
    """Turn limits to compare, such as 10, 20, 50, 100; empty: rollout.maxTurns only."""
    repeats: Annotated[Count, Field(le=100)] = 1
    """Episodes per task, for pass^k."""
    seed: NonNegative = 0
    """Seed of tasks, instances and systems."""
    cassette: Cassette | None = None
    """Recording of expert calls; absent: none."""
    report: Report = Field(default_factory=Report, json_schema_extra=PARENT)
    """Report files to write."""


class Evaluation(Resource):
    """A comparison of systems on suites."""

    api_version: ApiVersion
    kind: Literal["Evaluation"]
    metadata: ObjectMeta
    spec: EvaluationSpec
    """The systems that are compared, and the suites."""
