"""Grades with a reasoning-gym dataset's own scorer, from the entry in the task.

Some scorers evaluate the answer (sympy's `parse_expr`, plain `eval`), and for some answers they need hours. So answers
are scored in a sandbox only (`SANDBOXED`), where text is evaluated only if it is arithmetic. reasoning-gym is imported
on first use: the import takes seconds, and only sandboxes and sources need it.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolorchestra.sandbox.evaluation import forbid_evaluation
from toolorchestra.sandbox.program import Program
from toolorchestra.tasks.task import Task

SANDBOXED = Program(run="toolorchestra.tasks.gym:score", warm="toolorchestra.tasks.gym:warm")

_ARITHMETIC_ANSWERS = frozenset({"countdown", "puzzle24"})
"""Datasets whose answer is an expression of whole numbers. Their scorers search the text for numbers, but do not find
`0x1F`, `True` or `1_0`; with these an answer could reach any target."""
_ARITHMETIC = re.compile(r"[0-9+\-*/() \t\n]*")
_POWERS = ("**", "//")

Scorer = Callable[[str | None, dict[str, Any]], float]


class GymData(BaseModel):
    """Data of the grader. `entry`: the dataset's item without its question, which is the task's instruction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(min_length=1)
    entry: dict[str, Any]

    @field_validator("entry")
    @classmethod
    def _has_an_answer(cls, entry: dict[str, Any]) -> dict[str, Any]:
        """Require an answer: it tells whether the scorer or a given answer is at fault."""
        if not isinstance(entry.get("answer"), str):
            raise ValueError("needs an `answer` that is text, to test the scorer with it")
        return entry


def load_factory() -> Any:
    """Return reasoning-gym's registry. The import takes seconds, and syntax warnings of its dependencies are hidden."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        import reasoning_gym.factory as factory
    return factory


@cache
def scorer(dataset: str) -> Scorer:
    """Return `score_answer` of a dataset with its default configuration. ValueError: unknown dataset."""
    score: Scorer = load_factory().get_score_answer_fn(dataset)
    return score


class _StandIns(MetaPathFinder, Loader):
    """Replaces the modules of the drawing libraries by modules in which every name is a mock."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ("matplotlib", "mpl_toolkits"):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: MagicMock()


def warm() -> None:
    """Import what every job needs, and forbid the evaluation of text, before the first job of a sandbox.

    A dependency of reasoning-gym imports matplotlib, which needs a writable folder and half of the memory. No scorer
    draws, so mock modules replace it, in this process only.
    """
    sys.meta_path.insert(0, _StandIns())
    load_factory()
    forbid_evaluation()


def score(job: dict[str, Any]) -> float:
    """Return the dataset's score of an answer; the job is `{"dataset", "entry", "answer"}`.

    Some scorers raise on text that they cannot read (`prime_factorization` on anything but factors). If the scorer
    works on the entry's own answer, the given answer is at fault and scores 0. If it raises there too, the scorer is
    broken, and its exception is raised.
    """
    dataset, entry, answer = job["dataset"], job["entry"], job["answer"]
    if dataset in _ARITHMETIC_ANSWERS and not is_arithmetic(answer):
        return 0.0
    judge = scorer(dataset)
    try:
        return float(judge(answer, entry))
    except Exception:
        judge(entry["answer"], entry)
        return 0.0


def is_arithmetic(answer: str) -> bool:
    """Return whether the answer has only whole numbers, `+ - * /`, parentheses and white space."""
    return _ARITHMETIC.fullmatch(answer) is not None and not any(power in answer for power in _POWERS)


class ReasoningGymGrader:
    """The grader that runs the dataset's own scorer in a sandbox."""

    program = SANDBOXED

    def check(self, data: Mapping[str, Any]) -> None:
        GymData.model_validate(data)

    def job(self, task: Task, answer: str) -> dict[str, Any]:
        data = GymData.model_validate(task.grader.data)
        return {
            "dataset": data.dataset,
            "entry": {"question": task.instruction, **data.entry},
            "answer": answer,
        }

    def reference(self, data: Mapping[str, Any]) -> str | None:
        answer = GymData.model_validate(data).entry.get("answer")
        return answer if isinstance(answer, str) else None
