"""The worker's side: `Sandbox.run` gives a job to a warm child and says how it came out."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from toolorchestra.sandbox.connection import Connection, JobTooLong
from toolorchestra.sandbox.framing import TooLong
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import Protections
from toolorchestra.sandbox.result import Broke, How, Result, read_reply, read_status
from toolorchestra.sandbox.zygote_process import SandboxError, ZygoteProcess

__all__ = ["Sandbox", "SandboxError"]


@dataclass
class _Child:
    zygote: ZygoteProcess
    pid: int
    connection: Connection
    jobs_left: int


class Sandbox:
    """A zygote and at most `children` children of it, made when they are needed and kept warm.

    For one event loop. The first `run` starts what `start` has not; a zygote that died is started again by the next.
    """

    def __init__(self, program: Program, *, limits: Limits | None = None, children: int = 2) -> None:
        self._program = program
        self._limits = limits or Limits()
        self._room = asyncio.Semaphore(children)
        self._starting = asyncio.Lock()
        self._zygote: ZygoteProcess | None = None
        self._idle: deque[_Child] = deque()
        self._busy: dict[int, _Child] = {}
        self._closed = False

    async def start(self) -> Protections:
        """Start the zygote; what protects it. It imports nothing before the first job. SandboxError: it cannot run."""
        return (await self._running()).protections

    async def run(self, job: Any, *, fresh: bool = False) -> Result:
        """A job's result, however the job behaves. `fresh`: by a child that has seen no other job.

        Raises:
            SandboxError: the sandbox itself does not work; the job is not to blame.
        """
        async with self._room:
            child = await self._child(fresh=fresh)
            result = None
            self._busy[child.pid] = child
            try:
                result = await self._ask(child, job)
            finally:
                del self._busy[child.pid]
                if result is None or not self._keep(child, result):
                    status = await self._end(child)
        if isinstance(result, Broke) and result.how is How.CRASH:
            return read_status(status, limits=self._limits)
        return result

    async def close(self) -> None:
        """End every process. Idempotent."""
        self._closed = True
        async with self._starting:
            self._forget()

    def pids(self) -> tuple[int, ...]:
        """The zygote and the children that wait for a job, for measurements."""
        return (*((self._zygote.pid,) if self._zygote else ()), *(child.pid for child in self._idle))

    def busy_pids(self) -> tuple[int, ...]:
        """The children that work on a job."""
        return tuple(self._busy)

    async def _running(self) -> ZygoteProcess:
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox was closed")
            if self._zygote is None or not self._zygote.alive:
                self._forget()
                self._zygote = await ZygoteProcess.start(self._program, limits=self._limits)
            return self._zygote

    def _forget(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote = None

    async def _child(self, *, fresh: bool) -> _Child:
        zygote = await self._running()
        while self._idle and not fresh:
            child = self._idle.pop()
            if child.connection.fit:
                return child
            await self._end(child)  # it died, or talks unasked: no fault of the next job
        pid, connection = await zygote.fork()
        return _Child(zygote, pid, Connection(connection, limits=self._limits), self._limits.jobs_per_child)

    def _keep(self, child: _Child, result: Result) -> bool:
        """A child whose job came to an end, or only raised, takes the next one."""
        child.jobs_left -= 1
        sound = not isinstance(result, Broke) or result.how in (How.RAISED, How.INPUT)
        if sound and child.connection.fit and child.jobs_left > 0 and child.zygote is self._zygote:
            self._idle.append(child)
            return True
        return False

    async def _end(self, child: _Child) -> int:
        child.connection.close()
        return await child.zygote.end(child.pid)

    async def _ask(self, child: _Child, job: Any) -> Result:
        try:
            return read_reply(await child.connection.exchange(job, seconds=self._limits.wall_seconds))
        except JobTooLong as error:
            return Broke(How.INPUT, f"it is {error}")
        except TimeoutError:
            return Broke(How.TIME, f"it took more than {self._limits.wall_seconds:g} seconds")
        except TooLong as error:
            return Broke(How.OUTPUT, f"its result is {error}")
        except (ValueError, RecursionError):
            return Broke(How.OUTPUT, "what came back is no result")
        except (EOFError, ConnectionError):
            return Broke(How.CRASH, "its process ended")
