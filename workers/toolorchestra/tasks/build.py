"""Builds the suite of a training from `spec.tasks`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from decimal import Decimal
from pathlib import Path

from toolorchestra.api.task_sources import Tasks
from toolorchestra.api.task_sources import TaskSource as SourceSpec
from toolorchestra.tasks.jsonl import JSONLSource, LineChecks
from toolorchestra.tasks.plugin_source import plugin_source
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.source import LineProblem, SourceError, TaskFileError, TaskSource
from toolorchestra.tasks.suite import Suite, WeightedSource

OpenURI = Callable[[str], Path]
"""Function from a `pvc://`, `s3://` or `file://` URI to its path on this machine."""


def build_suite(
    tasks: Tasks,
    *,
    open_uri: OpenURI,
    seed: int,
    tools: Collection[str] | None = None,
    references: bool = True,
    skip_invalid: bool = False,
    evaluation: bool = False,
) -> Suite:
    """Open and check all sources before the run spends money. The error has the mistakes of all sources.

    `tools`: tool names that tasks may use; None: not checked. `references`: grade every task's own answer.
    `evaluation`: these are an evaluation suite's own tasks, all held out.

    Raises:
        TaskFileError: malformed lines only, of one or several files.
        SourceError: other mistakes, together with malformed lines if there are any.
    """
    sources: list[WeightedSource] = []
    errors: list[SourceError] = []
    for spec in tasks.sources:
        try:
            checks = LineChecks(tools=tools, references=references)
            source = open_source(spec, open_uri=open_uri, checks=checks, skip_invalid=skip_invalid)
            sources.append(WeightedSource(source, weight=Decimal(spec.weight)))
        except SourceError as error:
            errors.append(error)
    if not evaluation and tasks.held_out_fraction >= 1:
        errors.append(SourceError("heldOutFraction: 1 holds out every task, so none is left to train on: lower it"))
    if errors:
        raise _together(errors)
    fraction = Decimal(1) if evaluation else tasks.held_out_fraction
    return Suite(sources=sources, held_out_fraction=fraction, seed=seed)


def open_source(
    spec: SourceSpec, *, open_uri: OpenURI, checks: LineChecks | None = None, skip_invalid: bool = False
) -> TaskSource:
    """Open one source of `spec.tasks.sources`. SourceError: it cannot be used."""
    if spec.jsonl is not None:
        if spec.jsonl.format != "Native":
            raise SourceError(f"source {spec.name}: format {spec.jsonl.format} is not supported yet; convert to Native")
        return JSONLSource(name=spec.name, path=open_uri(spec.jsonl.uri), checks=checks, skip_invalid=skip_invalid)
    if spec.reasoning_gym is not None:
        gym = spec.reasoning_gym
        return ReasoningGymSource(
            name=spec.name,
            datasets=gym.datasets,
            size=gym.size,
            seed=gym.seed,
            configs=gym.parameters,
            kind=gym.kind,
        )
    if spec.plugin is not None:
        return plugin_source(
            spec.plugin.name, name=spec.name, parameters=spec.plugin.parameters, checks=checks or LineChecks()
        )
    raise SourceError(f"source {spec.name}: nothing is given for type {spec.type}")


def _together(errors: list[SourceError]) -> SourceError:
    lines: list[LineProblem] = []
    for error in errors:
        if not isinstance(error, TaskFileError):
            return SourceError("\n".join(str(e) for e in errors))
        lines += error.problems
    return TaskFileError(tuple(lines))
