"""Grading by a reasoning-gym dataset's own scorer, from the entry that the task carries.

reasoning-gym is imported on first use: it takes seconds, and only workers and sources need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from toolorchestra.tasks.task import Task

Scorer = Callable[[str | None, dict[str, Any]], float]


class GymData(BaseModel):
    """`entry` is the dataset's item without its question (that is the task's instruction)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(min_length=1)
    entry: dict[str, Any]


def load_factory() -> Any:
    """reasoning-gym's registry: imported late (it takes seconds), without the syntax warnings of what it depends on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        import reasoning_gym.factory as factory
    return factory


@cache
def scorer(dataset: str) -> Scorer:
    """`score_answer` of a dataset with its default configuration; ValueError on an unknown name."""
    score: Scorer = load_factory().get_score_answer_fn(dataset)
    return score


class ReasoningGymGrader:
    """The dataset's own scorer.

    Some scorers raise on text that they cannot read (`prime_factorization` on anything but factors). That is the
    answer's fault as long as the scorer accepts the entry's own answer, and only then: a scorer that fails on both
    is broken, and says so.
    """

    def check(self, data: Mapping[str, Any]) -> None:
        GymData.model_validate(data)

    def score(self, task: Task, answer: str) -> float:
        data = GymData.model_validate(task.grader.data)
        entry = {"question": task.instruction, **data.entry}
        score = scorer(data.dataset)
        try:
            return float(score(answer, entry))
        except Exception:
            score(data.entry["answer"], entry)
            return 0.0

    def reference(self, data: Mapping[str, Any]) -> str | None:
        answer = GymData.model_validate(data).entry.get("answer")
        return answer if isinstance(answer, str) else None
