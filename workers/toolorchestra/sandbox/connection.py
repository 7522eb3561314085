"""The worker's end of a child's connection: jobs go in one after the other, results come out in the same order.

Several jobs may be on their way, so that a child that has the processor works through all of them and a worker that has
it reads all their results: what waking up costs is shared. Results are set on futures by the loop's callbacks, without
a coroutine, a timer or a task for each.

Invariants: only the first job of those on their way runs, so only it can be to blame for what happens; after a child
broke, nothing that it sends is believed, and those behind the first are `Abandoned`, to be asked elsewhere.
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

_NO_RESULT = Broke(How.OUTPUT, "what came back is no result")


class Abandoned(SandboxError):
    """The job did not run to its end, and not through its own fault."""


class Connection:
    """`ask` as often as there is room for; `close` once."""

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
        """How many are on their way."""
        return len(self._asked)

    @property
    def waited(self) -> float:
        """Seconds that the first job has had."""
        return self._loop.time() - self._since if self._asked else 0.0

    def ask(self, body: bytes) -> asyncio.Future[Result]:
        """The result of a job (`framing.encode`). Abandoned: it was not this job that broke the child, or closed it."""
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
        """Let go of it. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._break(None)
        self._socket.close()

    def _is_quiet(self) -> bool:
        """Whether the child is there and has said nothing unasked: else the next job would be blamed for it."""
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
        """The first job's seconds begin now. One timer serves all jobs: it outlives most, and then looks at the one
        of now."""
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
        """A child that does not read is caught by the timer, one that is gone by what reading says."""
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
        """The first job came out like this (None: it is not to blame either); nothing else comes out of this child."""
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
