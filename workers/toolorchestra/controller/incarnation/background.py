"""The background tasks of an incarnation, and the request to stop it.

If a background task fails, whatever the main task waits for here fails with its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.controller.pauses import Stopped

CLOSE_SECONDS = 10.0
"""Time limit for each part of an incarnation to close."""


@dataclass
class Background:
    """The background tasks, in the order of their start, and the stop request."""

    tasks: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _on_stop: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task; `end` cancels it."""
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def running(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended."""
        return [task for task in self.tasks if not task.done()]

    def stop(self) -> None:
        """Request the incarnation's end."""
        self.stopping.set()
        for tell in self._on_stop:
            tell()

    def on_stop(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the end is requested; at once if it was requested already."""
        self._on_stop.append(tell)
        if self.stopping.is_set():
            tell()

    async def supervised(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await work; if a background task fails first, cancel the work and raise that task's error."""
        main = asyncio.create_task(work)
        await asyncio.wait({main, *self.running()}, return_when=asyncio.FIRST_COMPLETED)
        if (error := self._error()) is not None:
            main.cancel()
            raise error
        return await main

    async def unless_stopped(self, work: Any) -> Any:
        """Await work; raise Stopped once the end is requested, or the error of a background task once one fails."""
        main = asyncio.ensure_future(work)
        stop = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({main, stop, *self.running()}, return_when=asyncio.FIRST_COMPLETED)
        if (error := self._error()) is not None:
            raise error
        if not main.done() and stop.done():
            main.cancel()
            raise Stopped
        stop.cancel()
        return await main

    def _error(self) -> BaseException | None:
        """Return the error of the first task that failed, or None."""
        done = (task for task in self.tasks if task.done())
        return next((error for task in done if (error := task.exception()) is not None), None)

    async def end(self) -> None:
        """Cancel all tasks, and wait for them at most CLOSE_SECONDS."""
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=CLOSE_SECONDS)
