"""The contract of a source of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from toolorchestra.extend.contracts.broken import ContractBroken, hold
from toolorchestra.plugins import load
from toolorchestra.tasks.jsonl import LineChecks
from toolorchestra.tasks.plugin_source import plugin_source
from toolorchestra.tasks.source import SourceError, SourceMaker
from toolorchestra.tasks.suite import Suite, WeightedSource
from toolorchestra.tasks.task import Task

_NAME = "contract"


def source(name: str, *, parameters: Mapping[str, Any]) -> None:
    """Hold the plug-in source `name` against its contract.

    Made twice with `parameters`, it gives the same tasks at the same indices; outside them IndexError; every task
    survives JSON, since it travels to the workers, has a grader, and is solved by its own answer; a suite can be made
    of it.

    Raises:
        ContractBroken: it does not.
    """
    maker: SourceMaker = load("toolorchestra.task_sources", name)
    one, two = (maker(name=_NAME, parameters=parameters) for _ in range(2))
    hold(len(one) == len(two) > 0, f"made twice, it has {len(one)} and {len(two)} tasks")
    for index in range(len(one)):
        task = one.task(index)
        hold(task == two.task(index), f"task {index}: made twice, it is two different tasks")
        hold(task == Task.model_validate_json(task.model_dump_json()), f"task {index} does not survive JSON")
        hold(bool(one.place(index)), f"task {index} has no place")
    for index in (-1, len(one)):
        try:
            one.task(index)
        except IndexError:
            continue
        raise ContractBroken(f"task {index} is outside the range: want IndexError")
    try:
        made = plugin_source(name, name=_NAME, parameters=parameters, checks=LineChecks())
        Suite(sources=[WeightedSource(made)], held_out_fraction=Decimal(1), seed=0)
    except SourceError as error:
        raise ContractBroken(str(error)) from error
