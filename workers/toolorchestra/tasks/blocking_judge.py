"""A judge for code outside an event loop, such as the checks before a run."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from toolorchestra.tasks.grader import Grade, compares, grade, grader_of
from toolorchestra.tasks.judge import Judge
from toolorchestra.tasks.task import Task


class BlockingJudge:
    """A context manager that grades one answer after the other.

    It runs an event loop in its own thread, so that any code may use it. The first answer that needs a sandbox starts
    the thread and the processes.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._judge = Judge()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._judge.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __call__(self, task: Task, answer: str) -> Grade:
        """Grade an answer. GraderFailure: as in `Judge`."""
        if compares(grader_of(task)):
            return grade(task, answer)
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="blocking-judge", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._judge(task, answer), self._loop).result()
