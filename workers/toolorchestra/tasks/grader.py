"""Graders: pure functions of (task, final answer text) that say how right the answer is.

A score lies in [0, 1]; the outcome is 1 where it reaches `RIGHT` and 0 elsewhere. A grader that cannot do its work
raises `GraderFailure`: an infrastructure failure, never a bad outcome (ledger.md, "Endings").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from toolorchestra.tasks.exact import ExactMatch, Numeric
from toolorchestra.tasks.gym import ReasoningGymGrader
from toolorchestra.tasks.task import GraderSpec, Task

RIGHT = 0.99
"""The least score that counts as right. Partial credit of a dataset's scorer does not."""


class GraderFailure(Exception):
    """The grader itself failed on this task: the episode is not scored."""


@dataclass(frozen=True)
class Grade:
    """`score` in [0, 1] as the grader gave it, `outcome` 0 or 1."""

    score: float
    outcome: float


class Grader(Protocol):
    """One kind of grader. Stateless: `data` is the task's `grader.data`."""

    def check(self, data: Mapping[str, Any]) -> None:
        """Raise pydantic's ValidationError where the data is not what this grader needs."""

    def score(self, task: Task, answer: str) -> float:
        """Score in [0, 1] of an extracted answer."""

    def reference(self, data: Mapping[str, Any]) -> str | None:
        """A right answer as text, None where the grader knows none. Only simulators and oracles may see it."""


GRADERS: dict[str, Grader] = {
    "ExactMatch": ExactMatch(),
    "Numeric": Numeric(),
    "ReasoningGym": ReasoningGymGrader(),
}
"""Graders by the name that `grader.type` gives; add to it to plug in another."""


def grade(task: Task, answer: str | None) -> Grade:
    """Grade an extracted answer (see `answer.extract_answer`); None, no answer, is wrong.

    Raises:
        GraderFailure: unknown grader, broken grader data, or a grader that raised or left [0, 1].
    """
    grader = GRADERS.get(task.grader.type)
    if grader is None:
        raise GraderFailure(f"task {task.id}: no grader {task.grader.type!r}; there are {', '.join(sorted(GRADERS))}")
    if answer is None:
        return Grade(score=0.0, outcome=0.0)
    try:
        score = float(grader.score(task, answer))
    except Exception as error:
        raise GraderFailure(f"task {task.id}: grader {task.grader.type} raised {error!r}") from error
    if not 0.0 <= score <= 1.0:  # NaN lands here too
        raise GraderFailure(f"task {task.id}: grader {task.grader.type} scored {score}, outside [0, 1]")
    return Grade(score=score, outcome=1.0 if score >= RIGHT else 0.0)


def check_grader(spec: GraderSpec) -> list[tuple[str, str]]:
    """What is wrong with a grader spec, as (dotted field, message); empty where it can be used."""
    grader = GRADERS.get(spec.type)
    if grader is None:
        return [("grader.type", f"no grader {spec.type!r}; use one of {', '.join(sorted(GRADERS))}")]
    try:
        grader.check(spec.data)
    except ValidationError as error:
        return [(".".join(("grader", "data", *map(str, e["loc"]))), e["msg"]) for e in error.errors()]
    return []


def reference_answer(task: Task) -> str | None:
    """A right answer of the task, None where its grader knows none (for simulators and oracles only)."""
    grader = GRADERS.get(task.grader.type)
    return grader.reference(task.grader.data) if grader else None
