"""Grades an answer with the task's grader: comparisons in this process, everything else in a sandbox.

Invariants:
- No scorer runs, parses or evaluates the text of an answer in this process.
- If an answer makes its grader time out, crash, run out of memory or return an invalid score, the answer is wrong: it
  gets grade 0, and `detail` says why. This holds only if the grader, in a fresh process, accepts the task's own
  reference; if not, GraderFailure is raised. The judge remembers tasks whose grader passed this test.
- If the sandbox does not work, GraderFailure is raised: there is no other way to grade.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import Protections
from toolorchestra.sandbox.result import Broke, Result, Returned
from toolorchestra.sandbox.sandbox import Sandbox, SandboxError
from toolorchestra.tasks.grader import (
    GRADERS,
    MAX_ANSWER,
    RIGHT,
    WRONG,
    Grade,
    GraderFailure,
    Sandboxed,
    grade,
    grade_of,
    grader_of,
    is_sandboxed,
    is_score,
)
from toolorchestra.tasks.task import Task

_REMEMBERED = 10_000
"""Most remembered tasks whose grader accepted their reference."""


class Judge:
    """Grades answers, on one event loop. `close` ends its processes."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._sandboxes: dict[Program, Sandbox] = {}
        self._sound: dict[str, None] = {}

    async def start(self) -> Mapping[str, Protections]:
        """Start the sandboxes in advance. Return their protections by grader. SandboxError: one does not work."""
        isolated = {name: grader for name, grader in GRADERS.items() if is_sandboxed(grader)}
        return {name: await self._sandbox(grader).start() for name, grader in isolated.items()}

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        """Grade an extracted answer. None (no answer) is wrong.

        Raises:
            GraderFailure: unknown grader, invalid data, a grader that fails on the task's own reference, no sandbox.
        """
        grader = grader_of(task)
        if not is_sandboxed(grader):
            return grade(task, answer)
        if answer is None or len(answer) > MAX_ANSWER:
            return WRONG
        result = await self._run(task, grader, answer)
        if isinstance(result, Returned) and is_score(result.value):
            return grade_of(float(result.value))
        await self._require_sound(task, grader)
        return Grade(score=0.0, outcome=0.0, detail=f"the answer made its grader fail: {_how(result)}")

    async def close(self) -> None:
        """End every process. Idempotent."""
        for sandbox in self._sandboxes.values():
            await sandbox.close()

    def _sandbox(self, grader: Sandboxed) -> Sandbox:
        program = grader.program
        if program not in self._sandboxes:
            self._sandboxes[program] = Sandbox(program, limits=self._limits)
        return self._sandboxes[program]

    async def _run(self, task: Task, grader: Sandboxed, answer: str, *, fresh: bool = False) -> Result:
        try:
            job = grader.job(task, answer)
        except ValueError as error:  # pydantic's ValidationError among them
            raise GraderFailure(f"task {task.id}: the data of its grader cannot be used: {error}") from error
        try:
            return await self._sandbox(grader).run(job, fresh=fresh)
        except SandboxError as error:
            raise GraderFailure(f"task {task.id}: {error}") from error

    async def _require_sound(self, task: Task, grader: Sandboxed) -> None:
        """Raise GraderFailure if the grader fails on the task's own reference."""
        key = hashlib.sha256(task.grader.model_dump_json().encode()).hexdigest()
        if key in self._sound:
            return
        reference = grader.reference(task.grader.data)
        if reference is None:
            raise GraderFailure(f"task {task.id}: {task.grader.type} failed, and has no answer to test it with")
        result = await self._run(task, grader, reference.strip(), fresh=True)
        if not (isinstance(result, Returned) and is_score(result.value)):
            raise GraderFailure(f"task {task.id}: {task.grader.type} fails on the task's own answer: {_how(result)}")
        if result.value < RIGHT:
            raise GraderFailure(f"task {task.id}: {task.grader.type} scores the task's own answer {result.value:g}")
        if len(self._sound) >= _REMEMBERED:
            del self._sound[next(iter(self._sound))]
        self._sound[key] = None


def _how(result: Any) -> str:
    if isinstance(result, Broke):
        return result.detail
    return f"its score is {str(result.value)[:80]!r}, not a number from 0 to 1"
