"""Synthesis: making function-calling tasks with verified solutions (ToolScale's pipeline). Local only.

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
    """How long a task's solution may be."""

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
    """A model that proposes, stage by stage; every proposal is validated like a programmatic one."""

    pool: PoolRef
    """The model."""
    stages: tuple[Stage, ...] = Field(
        default=("Intents", "Tasks", "Evolution"), max_length=7, json_schema_extra=LIST_SET
    )
    """Stages that it proposes; the others are programmatic."""


class SynthesisFilters(Model):
    """Which tasks are dropped."""

    pass_at: Annotated[NonNegative, Field(le=64)] = 8
    """Drop what is unsolved in so many attempts; 0: not tried."""
    solvable_without_action: Literal["Drop", "Keep"] = "Drop"
    """Tasks that are solved by doing nothing."""
    near_duplicate_percentage: Annotated[Count, Field(le=100)] = 85
    """Drop tasks whose instructions are that similar to an earlier one's (MinHash)."""
    contamination: tuple[URI, ...] = Field(default=(), max_length=32, json_schema_extra=LIST_SET)
    """Suites whose tasks must not come back."""


class Output(Model):
    """Where the tasks go."""

    uri: URI
    """File or folder."""
    format: Literal["Native", "ToolScale", "Tau2"] = "Native"
    """This project's own, or a published format."""


class SynthesisSpec(Model):
    """What is made."""

    domain: DomainBundle
    """Databases, tools and policy that the tasks are about."""
    tasks: Count = 200
    """Tasks wanted after the filters."""
    entries: Count = 200
    """Entries in the generated database."""
    evolution_rounds: Annotated[NonNegative, Field(le=10)] = 1
    """How often a task is made harder: more constraints, more entities, twists."""
    golden_calls: GoldenCalls = Field(default_factory=GoldenCalls, json_schema_extra=PARENT)
    """How long a solution may be."""
    proposer: Proposer | None = None
    """A model that proposes; absent: every stage is programmatic."""
    filters: SynthesisFilters = Field(default_factory=SynthesisFilters, json_schema_extra=PARENT)
    """Which tasks are dropped."""
    output: Output
    """Where the tasks go."""
    limits: Limits = Field(default_factory=Limits, json_schema_extra=PARENT)
    """Limits of the whole run."""
    seed: NonNegative = 0
    """Seed of every stage."""


class Synthesis(Resource):
    """Tasks made from a domain, with solutions found by executing."""

    api_version: ApiVersion
    kind: Literal["Synthesis"]
    metadata: ObjectMeta
    spec: SynthesisSpec
    """What is made."""
