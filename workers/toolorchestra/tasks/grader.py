"""Graders: functions of (task, final answer text) that score the answer.

A score lies in [0, 1]; the outcome is 1 if the score reaches `RIGHT`, else 0. A grader that cannot work raises
`GraderFailure`: an infrastructure failure, never a bad outcome (episodes.md, "How it ends").

There are two kinds. A grader that only compares (`Comparing`: linear in the answer, at most a few milliseconds) runs in
the caller's process. A grader that runs other people's code on the answer (`Sandboxed`) runs in a sandbox only, see
`tasks/judge.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeGuard

from pydantic import ValidationError

from toolorchestra.plugins import PluginError, is_plugin, load, shown
from toolorchestra.sandbox.program import Program
from toolorchestra.tasks.errors import TaskError, UnknownGrader
from toolorchestra.tasks.exact import ExactMatch, Numeric
from toolorchestra.tasks.gym import ReasoningGymGrader
from toolorchestra.tasks.task import GraderSpec, Task

RIGHT = 0.99
"""Lowest score that counts as right. Partial credit of a dataset's scorer is below it."""
MAX_ANSWER = 100_000
"""Most characters of an answer. A longer answer is wrong, and no grader sees it."""


class GraderFailure(TaskError):
    """The grader itself failed on this task, so the episode is not scored."""


@dataclass(frozen=True)
class Grade:
    """The grade of an answer: `score` in [0, 1], `outcome` 0 or 1; `detail` if the answer made the grader fail."""

    score: float
    outcome: float
    detail: str = ""


WRONG = Grade(score=0.0, outcome=0.0)


class Grader(Protocol):
    """One kind of grader. Stateless: `data` is the task's `grader.data`."""

    def check(self, data: Mapping[str, Any]) -> None:
        """Raise pydantic's ValidationError if the data is not valid for this grader."""

    def reference(self, data: Mapping[str, Any]) -> str | None:
        """Return a right answer as text; None: the grader knows none. Only simulators and oracles may see it."""


class Comparing(Grader, Protocol):
    """A grader that compares, in time linear in the answer's length, and evaluates nothing."""

    def score(self, task: Task, answer: str) -> float:
        """Return the score in [0, 1] of an extracted answer."""


class Sandboxed(Grader, Protocol):
    """A grader that runs in a sandbox: `program` takes the value of `job` and returns a score."""

    @property
    def program(self) -> Program: ...

    def job(self, task: Task, answer: str) -> Any:
        """Return the input of the program, as JSON."""


GRADERS: dict[str, Comparing | Sandboxed] = {
    "ExactMatch": ExactMatch(),
    "Numeric": Numeric(),
    "ReasoningGym": ReasoningGymGrader(),
}
"""This project's own graders by the name that `grader.type` gives. Other packages' are found by `package/Name`."""

GraderMaker = Callable[[], Comparing | Sandboxed]
"""What an entry point of the group `toolorchestra.graders` refers to: a class, or a function, without arguments."""


def compares(grader: Comparing | Sandboxed) -> TypeGuard[Comparing]:
    """Return whether a grader compares. It runs for every answer; `isinstance` of a protocol would be too slow."""
    return hasattr(grader, "score")


def is_sandboxed(grader: Comparing | Sandboxed) -> TypeGuard[Sandboxed]:
    """Return whether a grader runs in a sandbox."""
    return hasattr(grader, "program")


def grader_of(task: Task) -> Comparing | Sandboxed:
    """The task's grader; GraderFailure where there is none of its name."""
    try:
        return grader_named(task.grader.type)
    except (UnknownGrader, PluginError) as error:
        raise GraderFailure(f"task {task.id}: {error}") from error


def grader_named(name: str) -> Comparing | Sandboxed:
    """The grader of that name: this project's own, or a plug-in.

    Raises:
        UnknownGrader: none of ours has that name.
        PluginError: the plug-in that it names cannot be used.
    """
    if is_plugin(name):
        return _plugin(name)
    if name not in GRADERS:
        known = ", ".join(sorted(GRADERS))
        raise UnknownGrader(f"no grader {name!r}; use one of {known}, or package/Name of an installed one")
    return GRADERS[name]


@cache
def _plugin(name: str) -> Comparing | Sandboxed:
    maker: GraderMaker = load("toolorchestra.graders", name)
    try:
        grader = maker()
    except Exception as error:
        raise PluginError(f"grader {name} cannot be made: {shown(error)}") from error
    wants = ("check", "reference", *(("program", "job") if is_sandboxed(grader) else ("score",)))
    if missing := [each for each in wants if not hasattr(grader, each)]:
        raise PluginError(f"grader {name} is none: it has no {', '.join(missing)} (docs/extending.md)")
    return grader


def grade(task: Task, answer: str | None) -> Grade:
    """Grade an extracted answer (see `answer.extract_answer`) by comparison. None (no answer) is wrong.

    Raises:
        GraderFailure: unknown grader, invalid grader data, an exception in the grader, a score outside [0, 1], or a
            grader that needs a sandbox (use `judge.Judge`).
    """
    grader = grader_of(task)
    if not compares(grader):
        raise GraderFailure(f"task {task.id}: {task.grader.type} needs a sandbox (tasks/judge.py)")
    if answer is None or len(answer) > MAX_ANSWER:
        return WRONG
    try:
        score = float(grader.score(task, answer))
    except Exception as error:
        raise GraderFailure(f"task {task.id}: grader {task.grader.type} raised {error!r}") from error
    if not is_score(score):
        raise GraderFailure(f"task {task.id}: grader {task.grader.type} scored {score}, outside [0, 1]")
    return grade_of(score)


def is_score(value: object) -> bool:
    """Return whether the value is a number in [0, 1]. NaN and booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def grade_of(score: float) -> Grade:
    """Return the grade of a valid score."""
    return Grade(score=score, outcome=1.0 if score >= RIGHT else 0.0)


def check_grader(spec: GraderSpec) -> list[tuple[str, str]]:
    """Return what is wrong with a grader spec, as (dotted field, message); empty: nothing."""
    try:
        grader = grader_named(spec.type)
    except (UnknownGrader, PluginError) as error:
        return [("grader.type", str(error))]
    try:
        grader.check(spec.data)
    except ValidationError as error:
        return [
            (".".join(("grader", "data", *map(str, e["loc"]))), _words(e["type"], e["msg"])) for e in error.errors()
        ]
    except Exception as error:
        return [("grader.data", f"the check of {spec.type} raised {shown(error)}")]
    return []


def _words(kind: str, message: str) -> str:
    return {"missing": "is missing", "too_short": "is empty; give a right answer"}.get(kind, message)


def reference_answer(task: Task) -> str | None:
    """Return a right answer of the task; None: its grader knows none. For simulators and oracles only."""
    try:
        grader = grader_named(task.grader.type)
    except (UnknownGrader, PluginError):
        return None
    return grader.reference(task.grader.data)
