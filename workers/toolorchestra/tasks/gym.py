"""Grading by a reasoning-gym dataset's own scorer, from the entry that the task carries.

Some scorers evaluate the answer (sympy's `parse_expr`, plain `eval`), and some answers take one hours: so an answer is
scored in a sandbox alone (`SANDBOXED`), where text is never evaluated beyond arithmetic. reasoning-gym is imported on
first use: it takes seconds, and only sandboxes and sources need it.
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
"""Answers that are an expression of whole numbers, whose scorers look for the numbers in the text: `0x1F`, `True` or
`1_0` are numbers that they do not see, so that any target could be reached with them."""
_ARITHMETIC = re.compile(r"[0-9+\-*/() \t\n]*")
_POWERS = ("**", "//")

Scorer = Callable[[str | None, dict[str, Any]], float]


class GymData(BaseModel):
    """`entry` is the dataset's item without its question (that is the task's instruction)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(min_length=1)
    entry: dict[str, Any]

    @field_validator("entry")
    @classmethod
    def _has_an_answer(cls, entry: dict[str, Any]) -> dict[str, Any]:
        """Without one nobody could tell a broken scorer from a broken answer."""
        if not isinstance(entry.get("answer"), str):
            raise ValueError("wants an `answer` that is text: the scorer is tried on it")
        return entry


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


class _StandIns(MetaPathFinder, Loader):
    """Modules of the drawing libraries whose every name is a mock."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ("matplotlib", "mpl_toolkits"):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: MagicMock()


def warm() -> None:
    """Before the first job of a sandbox: what every job needs, and from then on no text becomes code.

    A library of reasoning-gym's imports matplotlib, which wants a folder to write and takes half of the memory. No
    scorer draws: stand-ins take its place, in this process alone.
    """
    sys.meta_path.insert(0, _StandIns())
    load_factory()
    forbid_evaluation()


def score(job: dict[str, Any]) -> float:
    """The dataset's score of an answer: `{"dataset", "entry", "answer"}`.

    Some scorers raise on text that they cannot read (`prime_factorization` on anything but factors). That is the
    answer's fault as long as the scorer accepts the entry's own answer, and only then: a scorer that fails on both
    is broken, and says so.
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
    """Whole numbers, `+ - * /` and parentheses, and nothing else."""
    return _ARITHMETIC.fullmatch(answer) is not None and not any(power in answer for power in _POWERS)


class ReasoningGymGrader:
    """The dataset's own scorer, in a sandbox."""

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
