"""Tasks from reasoning-gym's procedural datasets. Index i is item i // n of dataset i % n, so topics alternate.

Item k of a dataset depends only on (seed, k) and on the dataset's configuration. So an int is enough as a cursor.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from toolorchestra.tasks.grader import RIGHT
from toolorchestra.tasks.gym import ReasoningGymGrader, load_factory, score
from toolorchestra.tasks.source import SourceError
from toolorchestra.tasks.task import GraderSpec, Task, TaskKind


class ReasoningGymSource:
    """`size` tasks over all `datasets`, in equal parts. A task's id is `dataset/seed/index`, its topic the dataset.

    `configs` maps a dataset's name to keyword arguments of its configuration class, which are passed on unchecked.

    Raises:
        SourceError: unknown dataset or configuration, or a dataset whose scorer cannot grade its own entries.
    """

    def __init__(
        self,
        *,
        name: str,
        datasets: Sequence[str],
        size: int,
        seed: int,
        configs: Mapping[str, Mapping[str, Any]] | None = None,
        kind: TaskKind = "QA",
    ) -> None:
        self._name, self._size, self._seed, self._kind = name, size, seed, kind
        self._names = tuple(dict.fromkeys(datasets))
        if not self._names or size < len(self._names):
            raise SourceError(f"source {name}: needs at least one dataset, and a size of at least one task per dataset")
        configs = configs or {}
        stray = sorted(set(configs) - set(self._names))
        if stray:
            raise SourceError(
                f"source {name}: configuration for {', '.join(stray)}, which is not among the source's datasets"
            )
        each = -(-size // len(self._names))
        self._datasets = [_create(name, dataset, each, seed, configs.get(dataset, {})) for dataset in self._names]
        for index in range(len(self._names)):
            _check_gradable(name, self.task(index))

    @property
    def name(self) -> str:
        return self._name

    def __len__(self) -> int:
        return self._size

    def place(self, index: int) -> str:
        return f"source {self._name}"

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        item, which = divmod(index, len(self._names))
        dataset, entry = self._names[which], self._datasets[which][item]
        # Converted to JSON and back, so that grading does not depend on whether the task was sent over the bus.
        stored = json.loads(json.dumps({key: value for key, value in entry.items() if key != "question"}, default=str))
        return Task(
            id=f"{dataset}/{self._seed}/{item}",
            kind=self._kind,
            instruction=entry["question"].strip(),
            grader=GraderSpec(type="ReasoningGym", data={"dataset": dataset, "entry": stored}),
            source=self._name,
            topic=dataset,
        )


def _create(source: str, dataset: str, size: int, seed: int, config: Mapping[str, Any]) -> Any:
    factory = load_factory()
    if dataset not in factory.DATASETS:
        near = difflib.get_close_matches(dataset, factory.DATASETS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise SourceError(f"source {source}: reasoning-gym has no dataset {dataset!r}{hint}")
    taken = {"seed", "size"} & set(config)
    if taken:
        raise SourceError(f"source {source}: {dataset}: set {', '.join(sorted(taken))} on the source, not per dataset")
    try:
        return factory.create_dataset(dataset, seed=seed, size=size, **config)
    except (TypeError, ValueError, AssertionError) as error:
        raise SourceError(f"source {source}: {dataset} refuses its configuration {dict(config)}: {error}") from error


def _check_gradable(source: str, task: Task) -> None:
    """Check, before the run spends money, that the scorer accepts the stored entry's own answer.

    This runs in this process, because entry and answer were just made by the dataset itself.
    """
    answer = task.grader.data["entry"].get("answer")
    try:
        right = isinstance(answer, str) and score(ReasoningGymGrader().job(task, answer.strip())) >= RIGHT
    except Exception as error:
        raise SourceError(f"source {source}: {task.topic} cannot be graded: {error!r}") from error
    if not right:
        raise SourceError(f"source {source}: {task.topic} does not accept its own answer, so it cannot be used")
