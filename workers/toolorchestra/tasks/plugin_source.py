"""Sources of tasks that other packages bring: made, and held against the contract, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolorchestra.plugins import PluginError, load, shown
from toolorchestra.tasks.blocking_judge import BlockingJudge
from toolorchestra.tasks.jsonl import MOST_PROBLEMS, LineChecks, task_problems
from toolorchestra.tasks.reference import References
from toolorchestra.tasks.source import LineProblem, SourceError, SourceMaker, TaskFileError, TaskSource
from toolorchestra.tasks.task import Task


def plugin_source(plugin: str, *, name: str, parameters: Mapping[str, Any], checks: LineChecks) -> TaskSource:
    """The source `name` as the plug-in makes it; every task is checked as a line of a task file is.

    Raises:
        TaskFileError: tasks that cannot be used, all of them.
        SourceError: the plug-in is missing, cannot be imported, refuses its parameters, or breaks its contract.
    """
    try:
        maker: SourceMaker = load("toolorchestra.task_sources", plugin)
    except PluginError as error:
        raise SourceError(f"source {name}: {error}") from error
    try:
        source = _Named(maker(name=name, parameters=parameters), name=name, plugin=plugin)
    except SourceError as error:
        raise SourceError(f"source {name}: {plugin}: {error}") from error
    except Exception as error:
        raise SourceError(f"source {name}: {plugin} cannot be made with {dict(parameters)}: {shown(error)}") from error
    if not len(source):
        raise SourceError(f"source {name}: {plugin} holds no task")
    with BlockingJudge() as judge:
        problems = list(_problems(source, checks=checks, judge=judge))
    if problems:
        raise TaskFileError(tuple(problems))
    return source


class _Named:
    """A plug-in's source, whose tasks carry the name that YAML gives it. SourceError where it breaks its contract."""

    def __init__(self, source: TaskSource, *, name: str, plugin: str) -> None:
        self._source, self._name, self._plugin = source, name, plugin
        self._size = len(source)

    @property
    def name(self) -> str:
        return self._name

    def __len__(self) -> int:
        return self._size

    def task(self, index: int) -> Task:
        if not 0 <= index < self._size:
            raise IndexError(index)
        try:
            task = self._source.task(index)
        except Exception as error:
            raise SourceError(f"source {self._name}: {self._plugin}: task {index} raised {shown(error)}") from error
        if not isinstance(task, Task):
            raise SourceError(f"source {self._name}: {self._plugin}: task {index} is a {type(task).__name__}, no Task")
        return task if task.source == self._name else task.model_copy(update={"source": self._name})

    def place(self, index: int) -> str:
        try:
            return self._source.place(index)
        except Exception:  # it is for messages alone
            return f"source {self._name}"


def _problems(source: _Named, *, checks: LineChecks, judge: BlockingJudge) -> Iterator[LineProblem]:
    references = References(judge) if checks.references else None
    found = 0
    for index in range(len(source)):
        task = source.task(index)
        again = source.task(index)
        problems = task_problems(task, tools=checks.tools, references=references)
        if task != again:
            problems.append(("", "asked for twice, it was two different tasks: a source is deterministic"))
        for field, message in problems:
            found += 1
            yield LineProblem(source.place(index), index + 1, field, message)
        if found >= MOST_PROBLEMS:
            return
