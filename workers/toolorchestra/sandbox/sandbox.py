"""The worker's side of the sandbox: `Sandbox.run` gives a job to a warm child and returns the result."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from toolorchestra.sandbox.connection import Abandoned, Connection
from toolorchestra.sandbox.errors import SandboxError
from toolorchestra.sandbox.framing import encode
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import Protections
from toolorchestra.sandbox.result import Broke, How, Result, is_sound, read_status
from toolorchestra.sandbox.zygote_process import ZygoteProcess

__all__ = ["Sandbox", "SandboxError"]

_AHEAD = 8
"""Most pending jobs of one child, with the running one."""
_SLOW_SECONDS = 0.05
"""A child whose job takes longer gets another job only if no other child has room."""


@dataclass
class _Child:
    zygote: ZygoteProcess
    pid: int
    connection: Connection
    jobs_left: int
    end: asyncio.Task[int] | None = None
    """Task that ends the child and returns its wait status; made once."""


class Sandbox:
    """A zygote and at most `children` warm children, started when needed.

    A busy child gets further jobs before another child is woken or made, because waking costs more than a short job.

    For one event loop. `run` starts the zygote if it is not running, also after it ended.
    """

    def __init__(self, program: Program, *, limits: Limits | None = None, children: int = 2) -> None:
        self._program = program
        self._limits = limits or Limits()
        self._most = children
        # Inside this semaphore, a child has room, or a new child may be forked.
        self._room = asyncio.Semaphore(children * _AHEAD)
        self._apart = asyncio.Lock()
        self._forking = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._zygote: ZygoteProcess | None = None
        self._children: list[_Child] = []
        """Children that take further jobs."""
        self._leaving: list[_Child] = []
        """Children that take no further jobs, but still have pending ones."""
        self._closed = False

    async def start(self) -> Protections:
        """Start the zygote; return its protections. It imports nothing before the first job. SandboxError: it fails."""
        return (await self._running()).protections

    async def run(self, job: Any, *, fresh: bool = False) -> Result:
        """Return a job's result, whatever the job does. `fresh`: run it in a child that runs no other job.

        Raises:
            SandboxError: the sandbox itself does not work; the job is not the cause.
        """
        try:
            body = encode(job)
        except (ValueError, RecursionError):
            return Broke(How.INPUT, "it is not JSON")
        if len(body) > self._limits.input_bytes:
            return Broke(How.INPUT, f"it is {len(body)} bytes long, more than {self._limits.input_bytes}")
        if not fresh:
            async with self._room:
                if (result := await self._among_others(body)) is not None:
                    return result
        async with self._apart:
            while True:
                try:
                    return await self._ask(await self._fork(jobs=1), body)
                except Abandoned:
                    continue

    async def _among_others(self, body: bytes) -> Result | None:
        """Run a job in a warm child. None: the child failed, and earlier jobs in it may be the cause (thread, timer,
        late output). Only the failure of a child that ran no job before is evidence against the job.
        """
        while True:
            try:
                child = self._with_room() or await self._another()
                first = child.jobs_left == self._limits.jobs_per_child
                result = await self._ask(child, body)
            except Abandoned:
                continue
            return result if first or is_sound(result) else None

    async def close(self) -> None:
        """End every process. Idempotent."""
        self._closed = True
        async with self._starting:
            self._forget()

    def pids(self) -> tuple[int, ...]:
        """Return the pids of the zygote and of idle children, for measurements."""
        idle = (child.pid for child in self._children if not child.connection.jobs and not child.connection.broken)
        return (*((self._zygote.pid,) if self._zygote else ()), *idle)

    def busy_pids(self) -> tuple[int, ...]:
        """Return the pids of children with a pending job."""
        return tuple(child.pid for child in (*self._children, *self._leaving) if child.connection.jobs)

    async def _running(self) -> ZygoteProcess:
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox was closed")
            if self._zygote is None or not self._zygote.alive:
                self._forget()
                self._zygote = await ZygoteProcess.start(self._program, limits=self._limits)
            return self._zygote

    def _forget(self) -> None:
        for child in (*self._children, *self._leaving):
            child.connection.close()
        self._children.clear()
        self._leaving.clear()
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote = None

    def _with_room(self) -> _Child | None:
        """Return the busiest child that has room and no slow job; else the least busy one; None: fork another child."""
        if self._zygote is None or not self._zygote.alive:
            return None
        free = [child for child in self._children if child.connection.jobs < _AHEAD and not child.connection.broken]
        if not free:
            return None
        quick = [child for child in free if child.connection.waited < _SLOW_SECONDS]
        if quick:
            return max(quick, key=lambda child: child.connection.jobs)
        if len(self._children) < self._most:
            return None
        return min(free, key=lambda child: child.connection.jobs)

    async def _another(self) -> _Child:
        async with self._forking:
            if (child := self._with_room()) is not None:  # another task made one meanwhile
                return child
            await self._running()
            for child in [each for each in self._children if each.connection.broken]:  # these ended without a job
                await self._end(child)
            child = await self._fork(jobs=self._limits.jobs_per_child)
            self._children.append(child)
            return child

    async def _fork(self, *, jobs: int) -> _Child:
        zygote = await self._running()
        pid, connection = await zygote.fork()
        return _Child(zygote, pid, Connection(connection, limits=self._limits), jobs)

    async def _ask(self, child: _Child, body: bytes) -> Result:
        """Run a job in a child. End the child if the job failed, or was its last."""
        child.jobs_left -= 1
        last = child.jobs_left == 0
        if last:
            self._leave(child)
        try:
            result = await child.connection.ask(body)
        except asyncio.CancelledError:  # its answer would be taken for that of the next job
            await self._end(child)
            raise
        if is_sound(result) and not last:
            return result
        status = await self._end(child)
        if isinstance(result, Broke) and result.how is How.CRASH:
            return read_status(status, limits=self._limits)
        return result

    def _leave(self, child: _Child) -> None:
        if child in self._children:
            self._children.remove(child)
        self._leaving.append(child)

    async def _end(self, child: _Child) -> int:
        for group in (self._children, self._leaving):
            if child in group:
                group.remove(child)
        child.connection.close()
        if child.end is None:
            child.end = asyncio.create_task(child.zygote.end(child.pid))
        return await asyncio.shield(child.end)
