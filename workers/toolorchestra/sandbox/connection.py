"""The worker's end of a child's connection: jobs are sent one after the other, results return in the same order.

Several jobs may be sent before the first result. So a child runs several jobs, and a worker reads several results, per
wake-up, which costs less. The loop's callbacks set results on futures; there is no coroutine, timer or task per job.

Invariants: only the first pending job runs, so only this job can be the cause of a failure. After a child failed,
nothing that it sends is used, and the other pending jobs are `Abandoned`, to be run by another child.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque

from toolorchestra.sandbox.errors import SandboxError
from toolorchestra.sandbox.framing import NUMBER_BYTES, READ_BYTES, TooLong, address, parse, split
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.result import Broke, How, Result, is_sound, read_reply

_NO_RESULT = Broke(How.OUTPUT, "its output is not a result")


class Abandoned(SandboxError):
    """The job did not end, and it is not the cause."""


class Connection:
    """A connection to one child. Call `ask` for each job, and `close` at the end."""

    def __init__(self, end: socket.socket, *, limits: Limits) -> None:
        self._socket = end
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._unsent = bytearray()
        self._asked: deque[tuple[bytes, asyncio.Future[Result]]] = deque()
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.broken = False
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._readable)

    @property
    def jobs(self) -> int:
        """Number of pending jobs."""
        return len(self._asked)

    @property
    def waited(self) -> float:
        """Seconds since the first pending job began; 0 without one."""
        return self._loop.time() - self._since if self._asked else 0.0

    def ask(self, body: bytes) -> asyncio.Future[Result]:
        """Send a job (`framing.encode`), and return the future of its result.

        The future raises Abandoned if the child failed or the connection was closed, and this job is not the cause.
        """
        result: asyncio.Future[Result] = self._loop.create_future()
        if not self._asked and not self._is_quiet():
            self._break(None)
        if self.broken:
            result.set_exception(Abandoned())
            return result
        number = secrets.token_bytes(NUMBER_BYTES)
        if not self._asked:
            self._begin()
        self._asked.append((number, result))
        self._send(address(body, number))
        return result

    def close(self) -> None:
        """Close the connection and abandon its pending jobs. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._break(None)
        self._socket.close()

    def _is_quiet(self) -> bool:
        """Return whether the child lives and sent nothing unasked. Otherwise the next job would be blamed for it."""
        if self.broken:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def _begin(self) -> None:
        """Start the time of the first job. One timer serves all jobs; it checks whichever job is first."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._limits.wall_seconds, self._look_at_the_time)

    def _look_at_the_time(self) -> None:
        self._timer = None
        if not self._asked:
            return
        deadline = self._since + self._limits.wall_seconds
        if self._loop.time() >= deadline:
            self._break(Broke(How.TIME, f"it took more than {self._limits.wall_seconds:g} seconds"))
        else:
            self._timer = self._loop.call_at(deadline, self._look_at_the_time)

    def _send(self, message: bytes) -> None:
        """Send a message. The timer detects a child that does not read; reading detects one that has ended."""
        if not self._unsent:
            try:
                sent = self._socket.send(message)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(message):
                return
            self._loop.add_writer(self._socket.fileno(), self._writable)
            message = message[sent:]
        self._unsent += message

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            part = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._break(Broke(How.CRASH, "its process ended"))
            return
        self._received += part
        try:
            while not self.broken and (message := split(self._received, at_most=self._limits.output_bytes)):
                self._take(*message)
        except TooLong as error:
            self._break(Broke(How.OUTPUT, f"its result is {error}"))

    def _take(self, number: bytes, body: bytes) -> None:
        if not self._asked or number != self._asked[0][0]:
            self._break(_NO_RESULT)
            return
        try:
            result = read_reply(parse(body))
        except (ValueError, RecursionError):
            result = _NO_RESULT
        if not is_sound(result):
            self._break(result)
            return
        _, asked = self._asked.popleft()
        if not asked.done():
            asked.set_result(result)
        if self._asked:
            self._begin()

    def _break(self, result: Result | None) -> None:
        """Give the first job this result (None: abandon it too), abandon the others, and never use the child again."""
        if self.broken:
            return
        self.broken = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        for _, asked in self._asked:
            if not asked.done():
                if result is None:
                    asked.set_exception(Abandoned())
                else:
                    asked.set_result(result)
            result = None
        self._asked.clear()
