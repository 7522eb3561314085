"""Grading off the event loop: a scorer may parse, factor or simulate for seconds while other episodes must go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from toolorchestra.tasks.grader import Grade, GraderFailure, grade
from toolorchestra.tasks.task import Task

GRADING_SECONDS = 60.0
"""After that the grader has failed, not the answer."""


class ThreadedGrading:
    """`Grading` in a few threads of its own, so that a stuck scorer cannot starve the loop's other threads."""

    def __init__(
        self,
        *,
        threads: int = 2,
        timeout_seconds: float = GRADING_SECONDS,
        judge: Callable[[Task, str | None], Grade] = grade,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grade")
        self._timeout_seconds = timeout_seconds
        self._judge = judge

    async def __call__(self, task: Task, answer: str | None) -> Grade:
        """Grade, or raise GraderFailure."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._judge, task, answer)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await future
        except TimeoutError as error:
            raise GraderFailure(f"task {task.id}: no grade in {self._timeout_seconds:g} s") from error

    def close(self) -> None:
        """Let go of the threads; a stuck one is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
