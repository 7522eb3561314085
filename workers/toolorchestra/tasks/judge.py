"""Judging an answer, whichever grader the task has: comparison here, everything else in a sandbox.

Invariants:
- Text of an answer is never run, parsed or evaluated by a scorer in this process.
- An answer that makes its grader time out, crash, run out of memory or return nonsense is wrong: grade 0, and its
  `detail` says how. It is the answer's fault as long as the grader, in a fresh process, accepts the task's own
  reference; where it does not, that is `GraderFailure`. What was found sound is remembered.
- A sandbox that does not work is `GraderFailure`: there is no other way to grade.
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
"""Tasks whose grader was found sound."""


class Judge:
    """Grades answers; one event loop. `close` ends its processes."""

    def __init__(self, *, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._sandboxes: dict[Program, Sandbox] = {}
        self._sound: dict[str, None] = {}

    async def start(self) -> Mapping[str, Protections]:
        """Start what grades outside this process, before it is needed: what protects it, by grader. SandboxError."""
        isolated = {name: grader for name, grader in GRADERS.items() if is_sandboxed(grader)}
        return {name: await self._sandbox(grader).start() for name, grader in isolated.items()}

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        """Grade an extracted answer; None, no answer, is wrong.

        Raises:
            GraderFailure: unknown grader, broken data, a grader that fails on the task's own reference, no sandbox.
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
        return Grade(score=0.0, outcome=0.0, detail=f"the answer broke its grader: {_how(result)}")

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
        """GraderFailure where the grader fails on the task's own reference."""
        key = hashlib.sha256(task.grader.model_dump_json().encode()).hexdigest()
        if key in self._sound:
            return
        reference = grader.reference(task.grader.data)
        if reference is None:
            raise GraderFailure(f"task {task.id}: {task.grader.type} failed, and has no answer to be tried on")
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
    return f"its score is {str(result.value)[:80]!r}, no number from 0 to 1"
