"""One life of a controller or worker, and its sudden end.

In a process of its own the end is SIGKILL. Inside the harness it is emulated: from one moment on nothing that the life
does has an effect (its bus and journal refuse), its tasks are cancelled, and the journal's tail that was never fsynced
is cut at random, as after a power cut. Nothing is closed and nobody is told.

`point(name)` is called where a crash is interesting (before and after a publish, an acknowledgement, an fsync, …); an
armed life ends at the first point of the name it was given.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from weakref import WeakSet

from toolorchestra.ledger.journal import Journal

POINTS = (
    *("submit", "submitted", "received", "ack", "acked", "put", "flush", "flushed"),
    *("withdraw", "withdrawn"),
    *("train", "trained", "snapshot", "save"),
)
"""Where a controller may end."""
LATEST = 400
"""Points after which it ends wherever it is: some kinds are rare."""

_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class Life:
    """`mortal`: a process of its own. `watch` is called at every point, to look at what must hold at all times."""

    def __init__(self, *, mortal: bool = False) -> None:
        self.mortal = mortal
        self.dead = False
        self.doom: str | None = None
        self._armed = 0
        self.died = asyncio.Event()
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.calls: set[Future[Any]] = set()
        self.watch: Callable[[], None] = lambda: None
        self.journal: WatchedJournal | None = None
        self._loop = asyncio.get_running_loop()

    def point(self, name: str) -> None:
        """A moment of that name has come. Ends the life if it is armed for it; raises where it has ended."""
        if self.dead:
            raise asyncio.CancelledError
        self.watch()
        if self.doom is not None:
            self._armed += 1
            if self.doom == name or self._armed > LATEST:
                self.end()

    def end(self) -> None:
        """Now."""
        if self.mortal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.dead = True
        self._loop.call_soon_threadsafe(self.died.set)
        raise asyncio.CancelledError

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start work as a part of this life: its tasks and threads, and theirs, are known."""
        context = copy_context()
        context.run(_LIFE.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def bury(self, *, rng: random.Random | None = None) -> None:
        """After its end (or to end it): its tasks go, and of its journal what was not on disk."""
        self.dead = True
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=10)
        if self.calls:
            await asyncio.wait([asyncio.wrap_future(call) for call in self.calls], timeout=10)
        if self.journal is not None and rng is not None:
            self.journal.lose_tail(rng)


class Threads(ThreadPoolExecutor):
    """The loop's executor: calls belong to the life that made them."""

    def submit(self, call: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        life = _LIFE.get()
        if life is not None and life.dead:
            raise asyncio.CancelledError
        future = super().submit(call, *args, **kwargs)
        if life is not None:
            life.calls.add(future)
            future.add_done_callback(life.calls.discard)
        return future


def know_lives() -> None:
    """Make the running loop tell every life of its tasks and thread calls."""
    loop = asyncio.get_running_loop()

    def make(loop: Any, work: Any, context: Any = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        life = context.get(_LIFE) if context is not None else _LIFE.get()
        if life is not None:
            life.tasks.add(task)
        return task

    loop.set_task_factory(make)
    loop.set_default_executor(Threads(16))


class WatchedJournal(Journal):
    """The real journal; its life may end around every fsync, and take with it what is not on disk."""

    def __init__(self, path: Path, *, end: int | None = None) -> None:
        self.life = current()
        self.life.journal = self
        super().__init__(path, end=end)

    def append(self, *args: Any, **kwargs: Any) -> None:
        if self.life.dead:
            raise asyncio.CancelledError
        super().append(*args, **kwargs)

    def flush(self) -> None:
        self.life.point("flush")
        super().flush()
        self.life.point("flushed")

    def lose_tail(self, rng: random.Random) -> None:
        """Cut at random between what was fsynced and what was written; the writer's files go nowhere from now on."""
        size = self.path.stat().st_size
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in (self._file, self._mark):
            os.dup2(nowhere, file.fileno())
        os.close(nowhere)
        if size > self.synced:
            os.truncate(self.path, rng.randint(max(0, self.synced), size))


def current() -> Life:
    """The life whose code runs."""
    life = _LIFE.get()
    assert life is not None, "outside of any life"
    return life
