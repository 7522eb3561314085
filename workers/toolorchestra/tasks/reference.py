"""Grades every task's own answer before the run spends money: a task that no answer can solve would only cost money.

Invariant: only this module grades a task file's references. Comparing graders take microseconds. reasoning-gym's
scorers are other people's code: they run in the sandbox, for at most `left` seconds in all. The remaining tasks are
counted but not graded.
"""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass

from toolorchestra.plugins import is_plugin, shown
from toolorchestra.tasks.blocking_judge import BlockingJudge
from toolorchestra.tasks.grader import GraderFailure, reference_answer
from toolorchestra.tasks.gym import load_factory
from toolorchestra.tasks.task import Task

Finding = tuple[str, str]
"""Dotted field, and what is wrong with it."""


@dataclass
class References:
    """Grades tasks' own answers with `judge`. `left`: seconds that reasoning-gym's scorers may still use; `ungraded`:
    number of their tasks that were not graded after that."""

    judge: BlockingJudge
    left: float = 60.0
    ungraded: int = 0

    def finding(self, task: Task) -> Finding | None:
        """Return what is wrong with a task whose grader data is valid; None: its own answer is right."""
        if is_plugin(task.grader.type):
            return self._of_plugin(task)
        if task.grader.type != "ReasoningGym":
            return self._graded(task, field="grader.data.answer")
        known = load_factory().DATASETS
        if (dataset := task.grader.data["dataset"]) not in known:
            near = difflib.get_close_matches(str(dataset), known, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            return "grader.data.dataset", f"reasoning-gym has no dataset {dataset!r}{hint}"
        return self._in_time(task, field="grader.data.entry.answer")

    def _of_plugin(self, task: Task) -> Finding | None:
        try:
            return None if reference_answer(task) is None else self._in_time(task, field="grader.data")
        except Exception as error:
            return "grader.data", f"{task.grader.type} raised {shown(error)}"

    def _in_time(self, task: Task, *, field: str) -> Finding | None:
        if self.left <= 0:
            self.ungraded += 1
            return None
        began = time.monotonic()
        try:
            return self._graded(task, field=field)
        finally:
            self.left -= time.monotonic() - began

    def _graded(self, task: Task, *, field: str) -> Finding | None:
        answer = reference_answer(task)
        if answer is None:
            return field, "contains no text to grade the task by: give the dataset's own answer"
        try:
            right = self.judge(task, answer.strip()).outcome == 1
        except GraderFailure as error:
            return field, str(error).removeprefix(f"task {task.id}: ")
        return (
            None
            if right
            else (field, "the grader does not accept this answer for its own task: no answer can be right")
        )
