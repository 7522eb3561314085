"""`spec.tasks`: where tasks come from.

`tasks.sources[i].{name, type, weight, jsonl: {uri, format}, reasoning_gym: {datasets, parameters, size, seed, kind},
plugin: {name, parameters}}`,
`tasks.held_out_fraction` (Decimal), `tasks.domain_bundles[i].{name, uri}`. Sources are mixed by `weight`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, LIST_SET, PARENT, Model
from toolorchestra.api.rules import ruled, union
from toolorchestra.api.scalars import URI, Count, DatasetName, Fraction, Name, NonNegative, Opaque, PluginName

Format = Literal["Native", "ToolScale", "Tau2", "RLRows", "HLE", "FRAMES", "GAIA", "GeneralThought"]
EpisodeKind = Literal["QA", "Chat"]


class JSONLSource(Model):
    """Tasks from a file, one JSON object a line."""

    uri: URI
    """The file: `pvc://claim/path`, `s3://bucket/key`, `file:///path`."""
    format: Format = "Native"
    """Native (this project's own), or a published format."""


class ReasoningGymSource(Model):
    """Tasks made by the package `reasoning-gym`, graded by its own scorers."""

    datasets: tuple[DatasetName, ...] = Field(min_length=1, max_length=128, json_schema_extra=LIST_SET)
    """Names of its datasets, mixed evenly, such as `chain_sum`."""
    parameters: Annotated[dict[str, Opaque], Field(max_length=128)] = Field(
        default_factory=dict, json_schema_extra=PARENT
    )
    """Settings of datasets by name, as `reasoning-gym` has them: `{chain_sum: {max_terms: 3}}`."""
    size: Count = 2000
    """How many tasks to make, over all datasets."""
    seed: NonNegative = 0
    """Seed of the tasks."""
    kind: EpisodeKind = "QA"
    """Episode mode: QA rebuilds every prompt from memory slots, Chat grows one conversation."""


class PluginSource(Model):
    """Tasks made by an installed plug-in (docs/extending.md)."""

    name: PluginName
    """Its package/Name, such as acme-tasks/Riddles."""
    parameters: Opaque = Field(default_factory=dict, json_schema_extra=PARENT)
    """Settings as the plug-in has them."""


class TaskSource(Model):
    """One source of tasks."""

    model_config = ruled(union(JSONL="jsonl", ReasoningGym="reasoningGym", Plugin="plugin"))

    name: Name
    """Name of the source, shown in reports."""
    type: Literal["JSONL", "ReasoningGym", "Plugin"]
    """A file, the package reasoning-gym, or an installed plug-in."""
    weight: Annotated[Count, Field(le=1_000_000)] = 1
    """Share of the mix, against the other sources' weights."""
    jsonl: JSONLSource | None = None
    """With type JSONL."""
    reasoning_gym: ReasoningGymSource | None = None
    """With type ReasoningGym."""
    plugin: PluginSource | None = None
    """With type Plugin."""


class DomainBundle(Model):
    """A folder with database, tools and policy that function-calling tasks name."""

    name: Name
    """Name by which tasks refer to it."""
    uri: URI
    """The folder."""


class Tasks(Model):
    """What is learned on."""

    sources: tuple[TaskSource, ...] = Field(min_length=1, max_length=64, json_schema_extra=LIST_MAP)
    """Sources, mixed by weight."""
    held_out_fraction: Fraction = Decimal("0.1")
    """Share of tasks that are never trained on, only evaluated."""
    domain_bundles: tuple[DomainBundle, ...] = Field(default=(), max_length=64, json_schema_extra=LIST_MAP)
    """Bundles that function-calling tasks name."""
