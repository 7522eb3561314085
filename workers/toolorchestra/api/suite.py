"""A suite of an evaluation: a number of held-out tasks, with aliases and prices.

`evaluation.suites[i].{name, size, alias_names, price_books, tasks}`. What is absent is as in training.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, Model
from toolorchestra.api.scalars import Count, Name
from toolorchestra.api.task_sources import Tasks
from toolorchestra.api.toolset import AliasNames, PriceBook


class Suite(Model):
    """A set of tasks to evaluate on."""

    name: Name
    """Name of the suite in reports."""
    size: Count
    """Tasks drawn from the held-out split."""
    alias_names: AliasNames | None = None
    """Words used as aliases, for example some never seen in training; absent: as in training."""
    price_books: (
        Annotated[tuple[PriceBook, ...], Field(min_length=1, max_length=64, json_schema_extra=LIST_MAP)] | None
    ) = None
    """Price schedules, for example some never seen in training; absent: as in training."""
    tasks: Tasks | None = None
    """The suite's own tasks, all held out; absent: the training's held-out tasks."""
