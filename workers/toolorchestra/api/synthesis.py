"""Synthesis: generates function-calling tasks with verified solutions (ToolScale's pipeline). A local file only.

`synthesis.spec.{domain, tasks, evolution_rounds, golden_calls, proposer, filters, output, limits, seed}`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import LIST_SET, PARENT, ApiVersion, Model
from toolorchestra.api.cluster import Limits
from toolorchestra.api.metadata import ObjectMeta
from toolorchestra.api.resource import Resource
from toolorchestra.api.rules import rule, ruled
from toolorchestra.api.scalars import URI, Count, NonNegative
from toolorchestra.api.task_sources import DomainBundle
from toolorchestra.api.training import PoolRef

Stage = Literal["Schema", "Entries", "Tools", "Subsets", "Intents", "Tasks", "Evolution"]


class GoldenCalls(Model):
    """Number of calls in a task's solution."""

    model_config = ruled(
        rule(
            "self.min <= self.max",
            "min must be at most max",
            check=lambda s: s["min"] <= s["max"],
            at="min",
        )
    )

    min: Annotated[Count, Field(le=100)] = 1
    """Fewest calls."""
    max: Annotated[Count, Field(le=100)] = 6
    """Most calls."""


class Proposer(Model):
    """A model that proposes data in some stages; every proposal is validated like a programmatic one."""

    pool: PoolRef
    """Pool of the model."""
    stages: tuple[Stage, ...] = Field(
        default=("Intents", "Tasks", "Evolution"), max_length=7, json_schema_extra=LIST_SET
    )
    """Stages in which the model proposes; the others are programmatic."""


class SynthesisFilters(Model):
    """Which tasks are dropped."""

    pass_at: Annotated[NonNegative, Field(le=64)] = 8
    """Drop tasks that are not solved in this many attempts; 0: no attempts."""
    solvable_without_action: Literal["Drop", "Keep"] = "Drop"
    """What to do with tasks that are solved by doing nothing."""
    near_duplicate_percentage: Annotated[Count, Field(le=100)] = 85
    """Drop tasks whose instructions are at least this similar to an earlier task's (MinHash), in percent."""
    contamination: tuple[URI, ...] = Field(default=(), max_length=32, json_schema_extra=LIST_SET)
    """Suites whose tasks must not be generated again."""


class Output(Model):
    """Where and how to write the tasks."""

    uri: URI
    """File or folder to write."""
    format: Literal["Native", "ToolScale", "Tau2"] = "Native"
    """This project's format (Native), or a published one."""


class SynthesisSpec(Model):
    """The domain, the number of tasks, and how they are made."""

    domain: DomainBundle
    """Databases, tools and policy for the tasks."""
    tasks: Count = 200
    """Number of tasks to keep after the filters."""
    entries: Count = 200
    """Number of entries in the generated database."""
    evolution_rounds: Annotated[NonNegative, Field(le=10)] = 1
    """How many times a task is made harder: more constraints, more entities, complications."""
    golden_calls: GoldenCalls = Field(default_factory=GoldenCalls, json_schema_extra=PARENT)
    """Number of calls in a solution."""
    proposer: Proposer | None = None
    """A model that proposes; absent: every stage is programmatic."""
    filters: SynthesisFilters = Field(default_factory=SynthesisFilters, json_schema_extra=PARENT)
    """Which tasks are dropped."""
    output: Output
    """Where and how to write the tasks."""
    limits: Limits = Field(default_factory=Limits, json_schema_extra=PARENT)
    """Limits of the whole run."""
    seed: NonNegative = 0
    """Seed of every stage."""


class Synthesis(Resource):
    """Generates tasks from a domain, with solutions that were executed."""

    api_version: ApiVersion
    kind: Literal["Synthesis"]
    metadata: ObjectMeta
    spec: SynthesisSpec
    """The domain, the number of tasks, and how they are made."""
