"""The tasks of an incarnation beside its main line, and the wish that it ends.

Whatever the main line waits for here fails with the first task that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.controller.pauses import Stopped

CLOSE_SECONDS = 10.0
"""Most for whatever ends an incarnation to end itself."""


@dataclass
class Background:
    """Tasks in the order in which they were started."""

    tasks: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _told: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task, which `end` ends."""
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    def running(self) -> list[asyncio.Task[Any]]:
        """Those that have not ended."""
        return [task for task in self.tasks if not task.done()]

    def stop(self) -> None:
        """The incarnation is asked to end."""
        self.stopping.set()
        for tell in self._told:
            tell()

    def on_stop(self, tell: Callable[[], None]) -> None:
        """Call it when the incarnation is asked to end; at once where it was."""
        self._told.append(tell)
        if self.stopping.is_set():
            tell()

    async def supervised(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await work, but fail with the first task that does."""
        main = asyncio.create_task(work)
        await asyncio.wait({main, *self.running()}, return_when=asyncio.FIRST_COMPLETED)
        if (error := self._error()) is not None:
            main.cancel()
            raise error
        return await main

    async def unless_stopped(self, work: Any) -> Any:
        """Await work, or raise Stopped as soon as the incarnation is asked to end."""
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
        """Of the first task that failed."""
        done = (task for task in self.tasks if task.done())
        return next((error for task in done if (error := task.exception()) is not None), None)

    async def end(self) -> None:
        """End all tasks; what does not end in time is left."""
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=CLOSE_SECONDS)
